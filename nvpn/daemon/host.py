"""What a configuration wants of the host, and how a running interface gets there.

Changes are made in an order in which nothing leaks: what is new comes first and is taken
back when the host refuses it; what is old goes last, and that does not fail.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from nvpn.config.model import TunnelConfig
from nvpn.datapath.offloads import gso_max_segs
from nvpn.errors import PlatformError
from nvpn.model.prefixes import Interface, Prefix
from nvpn.netconf.api import Link, Netconf
from nvpn.netconf.plan import derive_mtu, plan_routes

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")

QUEUE_LENGTH: Final = 1000
"""Packets; what the kernel's WireGuard has. TUN's own 500 is little for one reader."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """``mtu`` in bytes, None: derive it from the paths to the endpoints."""

    addresses: frozenset[Interface] = frozenset()
    mtu: int | None = None
    fwmark: int = 0
    routes: frozenset[Prefix] = field(default=frozenset())

    @classmethod
    def of(cls, config: TunnelConfig) -> HostSettings:
        """What the configuration wants of the interface itself and the main table.

        Default routes are left out, and all routes where the file names another table or
        none: they are :class:`nvpn.daemon.routing.Routing`'s.
        """
        interface = config.interface
        allowed = (prefix for peer in config.peers for prefix in peer.allowed_ips)
        is_main = interface.table is None
        return cls(
            frozenset(interface.addresses),
            interface.mtu,
            interface.fwmark,
            plan_routes(allowed, interface.addresses) if is_main else frozenset(),
        )


class TunnelHost:
    """One interface of this host.

    Args:
        max_segments: how many datagrams one UDP_SEGMENT send may carry; None where the
            kernel itself sends.
    """

    def __init__(self, netconf: Netconf, link: Link, *, max_segments: int | None) -> None:
        self._netconf = netconf
        self._outside: Netconf | None = None
        self.link = link
        self._max_segments = max_segments
        self._settings = HostSettings()

    def look_outside(self, outside: Netconf) -> None:
        """Endpoints are reached from another network namespace than the interface's."""
        self._outside = outside

    def prepare(self, mtu: int) -> None:
        """A new interface: no noise of its own, queue, MTU. Raises PlatformError."""
        self._netconf.forbid_link_local(self.link)
        self._netconf.set_link(self.link, tx_queue_length=QUEUE_LENGTH)
        self.set_mtu(mtu)

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU, and with it how much the kernel merges. Raises PlatformError."""
        if mtu != self.link.mtu:
            self._netconf.set_link(self.link, mtu=mtu)
            self.link = replace(self.link, mtu=mtu)
        self.follow_mtu()

    def follow_mtu(self) -> None:
        """The MTU is what ``link`` says: let the kernel merge what fits into one send."""
        if self._max_segments is None:
            return
        segments = gso_max_segs(self.link.mtu, self._max_segments)
        try:
            self._netconf.set_link(self.link, gso_max_segs=segments)
        except PlatformError as error:
            _log.info("%s", error)  # an older kernel: slower, not wrong

    def raise_link(self) -> None:
        """Up. Raises PlatformError."""
        self._netconf.set_link(self.link, is_up=True)
        self.link = replace(self.link, is_up=True)

    def mtu_for(self, settings: HostSettings, endpoints: Iterable[bytes]) -> int:
        """As configured, else derived."""
        if settings.mtu is not None:
            return settings.mtu
        netconf = self._outside or self._netconf
        return derive_mtu(
            endpoints,
            lambda address: netconf.path_to(address, fwmark=settings.fwmark),
            # Over there the number may be any interface's, and none is the tunnel.
            tunnel=self.link.index if self._outside is None else 0,
        )

    def extend(self, settings: HostSettings) -> None:
        """Add what is new in the settings; on a refusal take it back and raise it."""
        old = self._settings
        added: list[Interface] = []
        try:
            for address in sorted(settings.addresses - old.addresses):
                self._netconf.add_address(self.link, address)
                added.append(address)
            # Without an address of its own the interface routes nonetheless.
            self._netconf.add_routes(self.link, settings.routes - old.routes)
        except PlatformError:
            for address in added:
                _try(self._netconf.remove_address, self.link, address)
            raise

    def withdraw(self, settings: HostSettings) -> None:
        """After :meth:`extend`, undo it: what is new in the settings goes again."""
        old = self._settings
        _try(self._netconf.remove_routes, self.link, settings.routes - old.routes)
        for address in settings.addresses - old.addresses:
            _try(self._netconf.remove_address, self.link, address)
        self.settle()

    def reduce(self, settings: HostSettings) -> None:
        """Remove what the settings do not have any more; they are the ones in force then."""
        old, self._settings = self._settings, settings
        _try(self._netconf.remove_routes, self.link, old.routes - settings.routes)
        for address in old.addresses - settings.addresses:
            _try(self._netconf.remove_address, self.link, address)
        if old.addresses - settings.addresses:
            self.settle()

    def settle(self) -> None:
        """Make sure that all is there.

        Linux takes secondary addresses along with their primary one, and an interface's
        routes with its last address or when it goes down.
        """
        settings = self._settings
        for address in sorted(settings.addresses):
            _try(self._netconf.add_address, self.link, address)
        if settings.routes:
            _try(self._netconf.add_routes, self.link, settings.routes)


def _try(act: Callable[[Link, _T], None], link: Link, what: _T) -> None:
    """Do it; a refusal is logged, for there is nobody left to refuse anything to."""
    try:
        act(link, what)
    except PlatformError as error:
        _log.warning("%s", error)
