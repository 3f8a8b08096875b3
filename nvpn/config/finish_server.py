"""What a server gives its clients, checked against the rest of the configuration, and frozen."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Final

from nvpn.config.draft import (
    Draft,
    ReservationDraft,
    ServerDraft,
)
from nvpn.config.findings import Findings, Place, quote
from nvpn.config.finish_store import finish_store
from nvpn.config.model import (
    AddressRange,
    HostPort,
    Reservation,
    ServerConfig,
)
from nvpn.config.server_reader import POOL_HINT
from nvpn.config.values import MIN_MTU_IPV6
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix, format_address

MAX_POOLS: Final = 16
MAX_ROUTES: Final = 200
MAX_SERVERS: Final = 8
MAX_DOMAINS: Final = 8
MAX_TOLD_BYTES: Final = 7 << 10
"""A message holds 8 KiB; the addresses, names and times that each client gets are in it, too."""


def finish_server(draft: Draft, name: str, findings: Findings) -> ServerConfig | None:
    """What ``[server]`` says; None without one, or without a pool.

    Args:
        name: the tunnel's, which is that of its place in an etcd, too.
    """
    server = draft.server
    if server.place is None:
        return None
    if "pool" not in server.claims:
        findings.error(server.place, "has no pool", POOL_HINT)
    pools = _check_pools(draft, findings)
    endpoints = _check_endpoints(draft, findings)
    routes = _unique_prefixes(server.routes, "routes", findings) or pools
    _check_told(server, pools, routes, findings)
    _check_ways(draft, findings)
    _check_reserved(server, findings)
    _check_reservations(draft, pools, findings)
    if not server.forward and "forward" in server.claims and server.nat:
        message = "is false, and nat needs forwarding"
        findings.error(server.claims["forward"], message, "remove it, or set nat = false")
    return ServerConfig(
        pools=pools,
        endpoints=endpoints,
        lease_time=server.lease_time,
        reserved=tuple(dict.fromkeys(span for span, _ in server.reserved)),
        routes=routes,
        dns=tuple(dict.fromkeys(address for address, _ in server.servers)),
        search=tuple(dict.fromkeys(server.search)),
        mtu=server.mtu,
        forward=server.forward or server.nat,
        nat=server.nat,
        idle_timeout=server.idle_timeout,
        invitation_time=server.invitation_time,
        store=finish_store(server, name, findings),
        reservations=tuple(
            Reservation(
                each.public_key, each.name, tuple(address for address, _ in each.addresses)
            )
            for each in server.reservations
        ),
    )


def _check_pools(draft: Draft, findings: Findings) -> tuple[Prefix, ...]:
    pools = draft.server.pools
    for pool, place in pools[MAX_POOLS:][:1]:
        findings.error(place, f"expected at most {MAX_POOLS} pools, and {pool} is one more")
    for (first, first_at), (other, place) in combinations(pools, 2):
        if first.covers(other) or other.covers(first):
            where = first_at.seen_from(place) if first_at != place else "the same line"
            findings.error(
                place,
                f"{other} overlaps with the pool {first} on {where}",
                "keep one of them",
            )
    own = [address.address for address, _ in draft.interface.addresses]
    for version in (4, 6):
        of_family = [(pool, place) for pool, place in pools if pool.version == version]
        if of_family and not any(
            _is_in(address, pool) for address in own for pool, _ in of_family
        ):
            pool, place = of_family[0]
            findings.warn(
                place,
                f"the interface has no address in {pool}, so that clients do not reach this host"
                f" by IPv{version}",
                "give it one",
            )
    return tuple(pool for pool, _ in pools)


def _check_endpoints(draft: Draft, findings: Findings) -> tuple[HostPort, ...]:
    server, listen_port = draft.server, draft.interface.listen_port
    endpoints: dict[HostPort, Place] = {}
    for host, port, place in server.endpoints:
        if not port and not listen_port:
            message = f"{quote(host)} has no port, and the interface has no listen_port"
            example = quote(str(HostPort(host, 51820)))
            findings.error(place, message, f"write {example}, or set listen_port")
            continue
        endpoint = HostPort(host, port or listen_port or 0)
        if endpoint in endpoints:
            findings.error(place, f"{quote(str(endpoint))} is given twice", "keep one of them")
        endpoints[endpoint] = place
    if server.place is not None and not listen_port:
        findings.warn(
            server.place,
            "the interface has no listen_port, so that the port is another one after each start",
            "set it, such as listen_port = 51820",
        )
    return tuple(endpoints)


def _unique_prefixes(
    given: list[tuple[Prefix, Place]], what: str, findings: Findings
) -> tuple[Prefix, ...]:
    seen: dict[Prefix, Place] = {}
    for prefix, place in given:
        if prefix in seen:
            findings.warn(place, f"{prefix} is given twice")
        seen.setdefault(prefix, place)
    for place in list(seen.values())[MAX_ROUTES:][:1]:
        findings.error(place, f"expected at most {MAX_ROUTES} {what}, and this is one more")
    return tuple(seen)


def _check_ways(draft: Draft, findings: Findings) -> None:
    """Warn of networks to which clients are sent, and which they do not reach."""
    server = draft.server
    if server.nat or "forward" in server.claims:
        return
    here = [pool for pool, _ in server.pools]
    here += [
        Prefix.of(address.address, address.length) for address, _ in draft.interface.addresses
    ]
    for route, place in server.routes:
        if not any(network.covers(route) for network in here):
            findings.warn(
                place,
                f"clients send here what is for {route}, and this host is not told to forward it",
                "set forward = true; or false, if it forwards without being told",
            )
            return


def _check_told(
    server: ServerDraft,
    pools: tuple[Prefix, ...],
    routes: tuple[Prefix, ...],
    findings: Findings,
) -> None:
    """What clients are told: it has to fit into one message of the control channel."""
    for address, place in server.servers[MAX_SERVERS:][:1]:
        shown = format_address(address)
        findings.error(
            place, f"expected at most {MAX_SERVERS} name servers, and {shown} is one more"
        )
    if len(dict.fromkeys(server.search)) > MAX_DOMAINS:
        place = server.claims.get("dns_search") or server.claims["dns"]
        findings.error(place, f"expected at most {MAX_DOMAINS} domains")
    has_ipv6 = any(pool.version == 6 for pool in pools)
    if has_ipv6 and 0 < server.mtu < MIN_MTU_IPV6:
        findings.error(
            server.claims["mtu"],
            f"expected at least {MIN_MTU_IPV6}, which the IPv6 addresses need, found {server.mtu}",
        )
    told = [
        *map(str, routes),
        *(host for host, _, _ in server.endpoints),
        *(format_address(address) for address, _ in server.servers),
        *server.search,
    ]
    size = len(json.dumps(told, separators=(",", ":")))
    if size > MAX_TOLD_BYTES and server.place is not None:
        findings.error(
            server.place,
            f"routes, name servers, domains and endpoints take {size} bytes, and clients can be"
            f" told {MAX_TOLD_BYTES}",
            "join routes into shorter prefixes",
        )


def _check_reserved(server: ServerDraft, findings: Findings) -> None:
    for span, place in server.reserved:
        if server.pools and not any(_overlap(span, pool) for pool, _ in server.pools):
            findings.warn(place, f"{_shown(span)} is in no pool, so that this changes nothing")


def _check_reservations(draft: Draft, pools: tuple[Prefix, ...], findings: Findings) -> None:
    own = {address.address: place for address, place in draft.interface.addresses}
    clients: dict[PublicKey | str, Place] = {}
    taken: dict[bytes, Place] = {}
    for each in draft.server.reservations:
        _check_whose(each, clients, findings)
        if "address" not in each.claims:
            hint = 'expected an address of a pool, such as address = "10.8.0.50"'
            findings.error(each.place, "has no address", hint)
        families: set[int] = set()
        for address, place in each.addresses:
            shown = format_address(address)
            if address in taken:
                message = f"{shown} is reserved on {taken[address].seen_from(place)} already"
                findings.error(place, message)
            elif address in own:
                there = own[address].seen_from(place)
                findings.error(place, f"{shown} is an address of this interface, on {there}")
            elif len(address) in families:
                kind = "IPv4" if len(address) == 4 else "IPv6"
                findings.error(place, f"a client has one {kind} address, and {shown} is one more")
            elif pools:
                _check_place(address, each, draft, findings, place)
            taken.setdefault(address, place)
            families.add(len(address))


def _check_whose(
    each: ReservationDraft, clients: dict[PublicKey | str, Place], findings: Findings
) -> None:
    keys = [key for key in ("public_key", "name") if key in each.claims]
    if len(keys) != 1:
        message = "has both public_key and name" if keys else "has neither public_key nor name"
        findings.error(each.place, message, "one of them tells whose it is")
    whose = each.public_key or each.name
    if whose:
        first = clients.setdefault(whose, each.place)
        if first is not each.place:
            findings.error(
                each.claims[keys[-1]],
                f"has a reservation on {first.seen_from(each.place)} already",
                "give both addresses there",
            )


def _check_place(
    address: bytes, each: ReservationDraft, draft: Draft, findings: Findings, place: Place
) -> None:
    """Whether a client may have this address at all."""
    shown = format_address(address)
    pool = next((pool for pool, _ in draft.server.pools if _is_in(address, pool)), None)
    if pool is None:
        listed = ", ".join(str(pool) for pool, _ in draft.server.pools)
        findings.error(place, f"{shown} is in no pool", f"expected an address in {listed}")
    elif _is_special(address, pool):
        findings.error(place, f"{shown} is the address of the network {pool} itself")
    for peer in draft.peers:
        for prefix, there in peer.allowed_ips:
            is_own = peer.public_key is not None and peer.public_key == each.public_key
            # What holds a whole pool is a way to many, and leaves single addresses to others.
            is_wide = pool is not None and prefix.covers(pool)
            if not is_own and not is_wide and _is_in(address, prefix):
                findings.error(
                    place,
                    f"{shown} belongs to the peer on {there.seen_from(place)} already",
                    f"it has {prefix}",
                )


def _is_in(address: bytes, prefix: Prefix) -> bool:
    return prefix.covers(Prefix.of(address, len(address) * 8))


def _is_special(address: bytes, pool: Prefix) -> bool:
    """Whether it is the network's own, or for all in it, so that no host may have it."""
    spare = pool.bits - pool.length
    if spare < 2:
        return False
    offset = int.from_bytes(address, "big") - pool.network
    return offset == 0 or (pool.version == 4 and offset == (1 << spare) - 1)


def _overlap(span: AddressRange, pool: Prefix) -> bool:
    first, last = pool.packed, (pool.network | ((1 << (pool.bits - pool.length)) - 1))
    if len(span.first) != len(first):
        return False
    return span.first <= last.to_bytes(len(first), "big") and first <= span.last


def _shown(span: AddressRange) -> str:
    first, last = format_address(span.first), format_address(span.last)
    return first if first == last else f"{first}-{last}"
