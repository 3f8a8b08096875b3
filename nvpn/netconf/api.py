"""What every platform offers for an interface that exists: link, addresses, routes.

Knows nothing of WireGuard. Calls are short and blocking (a netlink round trip takes
tens of microseconds); what happens by itself comes from a :class:`LinkMonitor`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, Union

from nvpn.model.prefixes import Interface, Prefix

MAIN_TABLE: Final = 254
"""Where routes are looked for unless a policy rule says otherwise."""

KERNEL_KIND: Final = "wireguard"
"""The :attr:`Link.kind` of the kernel's own tunnels."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface now. ``mtu`` is in bytes; ``index`` names it across renames.

    ``kind`` is what the kernel calls its driver ("tun", "wireguard", "veth", empty for
    hardware), ``alias`` a note that somebody left on it.
    """

    index: int
    name: str
    mtu: int
    is_up: bool
    kind: str = field(default="", compare=False)
    alias: str = field(default="", compare=False)


class Path(NamedTuple):
    """How the host would reach an address: the interface's index, and the MTU in bytes."""

    interface: int
    mtu: int


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The interface was brought up or down, renamed, or given another MTU."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkLeft:
    """The interface is not in this network namespace any more: deleted, or moved away.

    ``has_moved``: the kernel said so. Older ones say nothing.
    """

    index: int
    has_moved: bool = False


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """Some address of this host came or went."""


LinkEvent = Union[LinkChanged, LinkLeft]  # noqa: UP007


class LinkMonitor(Protocol):
    """A descriptor that becomes readable when something changed."""

    def fileno(self) -> int:
        """For the event loop's ``add_reader``."""

    def take_events(self) -> list[LinkEvent]:
        """What happened since the last call; never blocks, never raises."""

    def close(self) -> None:
        """Let go of the descriptor."""


class Netconf(Protocol):
    """The host's network configuration. Everything raises PlatformError when refused."""

    def find_link(self, name: str) -> Link | None:
        """The interface of that name, if there is one."""

    def set_link(
        self,
        link: Link,
        *,
        is_up: bool | None = None,
        mtu: int | None = None,
        gso_max_segs: int | None = None,
        tx_queue_length: int | None = None,
    ) -> None:
        """Change what is given; None leaves it alone."""

    def forbid_link_local(self, link: Link) -> None:
        """No automatic IPv6 link-local address, as befits a tunnel. Before it is up."""

    def addresses(self, link: Link) -> frozenset[Interface]:
        """Its addresses, those the kernel chose by itself left out."""

    def add_address(self, link: Link, address: Interface) -> None:
        """Give it an address; one it has already is no error."""

    def remove_address(self, link: Link, address: Interface) -> None:
        """Take an address away; one it does not have is no error."""

    def add_routes(
        self, link: Link, prefixes: Collection[Prefix], *, table: int = MAIN_TABLE
    ) -> None:
        """Send the prefixes there, longest first; a route that it has already is no error.

        Those that were added before a refusal are taken back.
        """

    def remove_routes(
        self, link: Link, prefixes: Collection[Prefix], *, table: int = MAIN_TABLE
    ) -> None:
        """Take routes away; those that are not there are no error."""

    def path_to(self, address: bytes, *, fwmark: int = 0) -> Path | None:
        """How an address (4 or 16 bytes) is reached now; None when it is not."""

    def monitor(self, link: Link) -> LinkMonitor:
        """Watch the interface from now on."""


PathLookup = Callable[[bytes], "Path | None"]
