"""What a server told us, as far as we take it.

A server that a peer's ``server = true`` names is trusted with our addresses and with routes
through it, and with nothing else: what no host may have, what would lead our own packets to
the server back into the tunnel, and what the file gives to somebody else is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from nvpn.channel.messages import OtherServer, Settings
from nvpn.config.model import HostPort, TunnelConfig
from nvpn.config.values import (
    MAX_ENDPOINTS,
    MIN_MTU,
    MIN_MTU_IPV6,
    parse_domain,
    parse_endpoint,
)
from nvpn.daemon.leasing.hosts import is_for_hosts
from nvpn.daemon.leasing.servers import FurtherServer, take_servers
from nvpn.errors import Refused
from nvpn.model.keys import PublicKey
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import Interface, Prefix, format_address

MAX_ADDRESSES: Final = 8
MAX_ROUTES: Final = 200
MAX_NAME_SERVERS: Final = 8
MAX_DOMAINS: Final = 32
MAX_MTU: Final = 9200
SHORTEST_KEEPALIVE: Final = 10
"""Seconds. Sooner no router forgets us."""

SHORTEST_LEASE: Final = 20
LONGEST_LEASE: Final = 30 * 86_400
"""Seconds. What a server says beyond them is taken for the nearest."""

RENEWAL_OF_GOOD: Final = 43_200
"""Seconds after which we ask again although the addresses are ours for good: routes, name
servers and the rest may be others by then."""


@dataclass(frozen=True, slots=True)
class Told:
    """Settings from a server, checked.

    ``mtu`` None: it tells none. ``dns`` None likewise. ``lease`` and ``renew`` are seconds
    from its answer on, ``lease`` 0: for good. ``name`` is what the server calls us,
    ``server_name`` itself. ``servers`` are those that the file does not name; where ``server``
    is one of them, ``known_by`` is the server of the file that it all comes from.
    ``keepalive`` is the persistent one with ``server``, in seconds, 0: none.
    """

    server: PublicKey
    addresses: tuple[Interface, ...] = ()
    routes: tuple[Prefix, ...] = ()
    dns: NameServers | None = None
    mtu: int | None = None
    endpoints: tuple[HostPort, ...] = ()
    lease: int = 0
    renew: int = RENEWAL_OF_GOOD
    name: str = ""
    server_name: str = ""
    servers: tuple[FurtherServer, ...] = ()
    known_by: PublicKey | None = None
    keepalive: int = 0


@dataclass(frozen=True, slots=True)
class Surrounding:
    """What a lease must not get into the way of.

    ``endpoints`` are where peers may be, 4 or 16 bytes each. ``own_key`` is ours, ``is_ours``
    tells whether this host has an address elsewhere than on the tunnel.
    """

    endpoints: Collection[bytes] = ()
    own_key: PublicKey | None = None
    is_ours: Callable[[bytes], bool] = lambda _: False


def take_settings(
    settings: Settings, server: PublicKey, config: TunnelConfig, around: Surrounding
) -> tuple[Told, tuple[str, ...]]:
    """What we take of it, and a sentence about everything that is left out.

    Args:
        config: what the file says.

    Raises:
        Refused: there is no address in it that we could have.
    """
    taker = _Taker(server, config, around)
    servers = taker.servers(settings.servers)
    addresses = taker.addresses(settings.addresses)
    lease, renew = _times(settings)
    told = Told(
        server=server,
        addresses=addresses,
        routes=taker.routes(settings.routes),
        dns=taker.name_servers(settings.dns, settings.search),
        mtu=taker.mtu(settings.mtu, addresses),
        endpoints=taker.endpoints(settings.endpoints),
        lease=lease,
        renew=renew,
        name=settings.name,
        server_name=settings.server,
        servers=servers,
        keepalive=max(settings.keepalive, SHORTEST_KEEPALIVE) if settings.keepalive else 0,
    )
    if not addresses and not taker.has_given_own:
        why = f": {taker.complaints[0]}" if taker.complaints else ""
        raise Refused(f"{taker.label} gave us no address that we could have{why}")
    return told, tuple(taker.complaints)


def _times(settings: Settings) -> tuple[int, int]:
    if not settings.lease_seconds:
        renew = settings.renew_seconds or RENEWAL_OF_GOOD
        return 0, min(max(renew, SHORTEST_LEASE), LONGEST_LEASE)
    lease = min(max(settings.lease_seconds, SHORTEST_LEASE), LONGEST_LEASE)
    renew = settings.renew_seconds or lease // 2
    return lease, min(max(renew, SHORTEST_LEASE // 2), lease * 9 // 10)


class _Taker:
    def __init__(self, server: PublicKey, config: TunnelConfig, around: Surrounding) -> None:
        self.complaints: list[str] = []
        self.has_given_own = False
        self._around = around
        self._endpoints = [Prefix.of(packed, len(packed) * 8) for packed in around.endpoints]
        self._own = {address.address for address in config.interface.addresses}
        self._others: list[tuple[Prefix, str]] = []
        self._given: frozenset[Prefix] = frozenset()
        self._known = (around.own_key, *(peer.public_key for peer in config.peers))
        self.label = server.short
        for peer in config.peers:
            if peer.public_key == server:
                self.label = peer.label
                self._given = frozenset(peer.allowed_ips)
            else:
                self._others += [(prefix, peer.label) for prefix in peer.allowed_ips]

    def servers(self, given: Iterable[OtherServer]) -> tuple[FurtherServer, ...]:
        """What comes after this heeds where they are."""
        taken = take_servers(given, self._known)
        places = [place.address for one in taken for place in one.endpoints]
        self._endpoints += [Prefix.of(at, len(at) * 8) for at in places if at is not None]
        return taken

    def addresses(self, given: Iterable[Interface]) -> tuple[Interface, ...]:
        taken: dict[bytes, Interface] = {}
        for number, address in enumerate(given):
            if number == MAX_ADDRESSES:
                self._leave_out(f"all addresses after the first {MAX_ADDRESSES}", "")
                break
            host = Prefix.of(address.address, len(address.address) * 8)
            if not is_for_hosts(host):
                self._leave_out(f"the address {address}", "no host can have it")
            elif any(host == endpoint for endpoint in self._endpoints):
                self._leave_out(f"the address {address}", "a peer is reached there")
            elif address.address in self._own:
                self.has_given_own = True  # the file gives it as well
            elif self._around.is_ours(address.address):
                self._leave_out(f"the address {address}", "this host has it elsewhere already")
            else:
                taken.setdefault(address.address, self._narrowed(address, host))
        return tuple(taken.values())

    def _narrowed(self, address: Interface, host: Prefix) -> Interface:
        """An address brings the route to its network along: not one that may not be."""
        if self._why_no_route(address.prefix) or address.prefix.is_default:
            return Interface(address.address, host.bits)
        return address

    def routes(self, given: Iterable[Prefix]) -> tuple[Prefix, ...]:
        taken: dict[Prefix, None] = {}
        for number, prefix in enumerate(given):
            if number == MAX_ROUTES:
                self._leave_out(f"all routes after the first {MAX_ROUTES}", "")
                break
            if prefix in self._given:
                continue
            why = self._why_no_route(prefix)
            if why:
                self._leave_out(f"the route {prefix}", why)
            else:
                taken[prefix] = None
        return tuple(taken)

    def _why_no_route(self, prefix: Prefix) -> str:
        if not is_for_hosts(prefix):
            return "there are no hosts"
        for other, label in self._others:
            if other == prefix or (other.covers(prefix) and not other.is_default):
                return f"the file gives it to {label}"
        # A default route has rules that keep our own packets out of it; others have none.
        if not prefix.is_default and any(prefix.covers(place) for place in self._endpoints):
            return "a peer is reached there, outside of the tunnel"
        return ""

    def name_servers(self, given: Iterable[bytes], search: Iterable[str]) -> NameServers | None:
        servers: dict[bytes, None] = {}
        for packed in given:
            if not is_for_hosts(Prefix.of(packed, len(packed) * 8)):
                self._leave_out(
                    f"the name server {format_address(packed)}", "it cannot be reached"
                )
            elif len(servers) < MAX_NAME_SERVERS:
                servers[packed] = None
        domains: dict[str, None] = {}
        for text in search:
            try:
                domain = parse_domain(text)
            except ValueError:
                self._leave_out("a search domain", "it is none")
            else:
                if len(domains) < MAX_DOMAINS:
                    domains[domain] = None
        return NameServers(tuple(servers), tuple(domains)) if servers or domains else None

    def mtu(self, given: int, addresses: Iterable[Interface]) -> int | None:
        if not given:
            return None
        has_ipv6 = any(len(address.address) == 16 for address in addresses)
        if not (MIN_MTU_IPV6 if has_ipv6 else MIN_MTU) <= given <= MAX_MTU:
            self._leave_out(f"the MTU {given}", "it is out of all bounds")
            return None
        return given

    def endpoints(self, given: Iterable[str]) -> tuple[HostPort, ...]:
        taken: dict[HostPort, None] = {}
        for text in given:
            try:
                place = parse_endpoint(text)
            except ValueError:
                self._leave_out("an endpoint", "it is none")
                continue
            packed = place.address
            if packed is not None and not is_for_hosts(Prefix.of(packed, len(packed) * 8)):
                self._leave_out(f"the endpoint {place}", "it cannot be reached")
            elif len(taken) < MAX_ENDPOINTS:
                taken[place] = None
        return tuple(taken)

    def _leave_out(self, what: str, why: str) -> None:
        reason = f" ({why})" if why else ""
        self.complaints.append(f"left out what {self.label} tells us: {what}{reason}")
