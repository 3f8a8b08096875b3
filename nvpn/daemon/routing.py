"""Where a tunnel's packets go, and who keeps out what must not come in or get past it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from nvpn.config.model import TunnelConfig
from nvpn.daemon.leftovers import Leftovers
from nvpn.netconf.api import Link
from nvpn.netconf.linux import LinuxNetconf

_T = TypeVar("_T")


class Run(Protocol):
    """Calls in the network namespace of the interface, and returns what that returns."""

    def __call__(self, call: Callable[[], _T], /) -> _T:
        """Raises what the call raises."""


class Routing:
    """Policy rules, tables, the guard against spoofed packets, and the kill switch.

    Args:
        netconf: of the interface's namespace.
        is_apart: the interface is in another namespace than its UDP sockets, so that a
            default route cannot take our own packets with it.
    """

    def __init__(
        self,
        netconf: LinuxNetconf,
        link_name: str,
        leftovers: Leftovers,
        *,
        warn: Callable[[str], None],
        is_apart: bool,
        run: Run,
    ) -> None:
        self._netconf = netconf
        self._link_name = link_name
        self._leftovers = leftovers
        self._warn = warn
        self._is_apart = is_apart
        self._run = run

    def choose_mark(self, config: TunnelConfig) -> int:
        """The mark of our outer packets.

        As configured, else chosen when a default route or the kill switch needs one, else 0.
        """
        return config.interface.fwmark

    def guard(self, config: TunnelConfig) -> None:
        """The kill switch, before anything else. Raises PlatformError."""

    def apply(self, config: TunnelConfig, link: Link, *, mark: int) -> None:
        """Table routes, anti-spoofing, default routes and rules.

        Raises:
            PlatformError: after taking its own back.
        """

    def change(self, config: TunnelConfig, link: Link, *, mark: int) -> Callable[[], None]:
        """Add what is new; the returned function removes what is old.

        Raises:
            PlatformError: having undone what it added.
        """
        return lambda: None

    def network_changed(self) -> None:
        """Connected networks may be others now: the kill switch's LAN follows."""

    def withdraw(self, *, keep_guard: bool) -> None:
        """Take all of it back, the kill switch only if wanted. Never raises."""


def undo_rules(name: str, value: Any) -> None:
    """Remove the policy rules that a dead daemon noted. Raises PlatformError."""


def undo_firewall(name: str, value: Any) -> None:
    """Remove the firewall tables that a dead daemon noted. Raises PlatformError."""
