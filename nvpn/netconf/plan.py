"""What an interface's MTU and routes should be: pure, as wg-quick decides it.

Source: wg-quick(8), functions ``set_mtu_up``, ``add_route`` and ``add_default``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from nvpn.model.prefixes import Interface, Prefix, parse_address
from nvpn.netconf.api import MAIN_TABLE, PathLookup

OVERHEAD: Final = 80
"""IPv6 header 40, UDP 8, WireGuard 32: an inner packet costs no more than that."""

DEFAULT_PATH_MTU: Final = 1500

SMALLEST_MTU: Final = 576
"""What IPv4 asks of every host; a lower path would be cut into pieces anyway."""

_LOOPBACK: Final = 1
"""The interface's index in every network namespace."""

# Documentation prefixes: nobody has a route to them but the default one.
_SOMEWHERE: Final = (parse_address("192.0.2.1"), parse_address("2001:db8::1"))


def derive_mtu(endpoints: Iterable[bytes], path_to: PathLookup, *, tunnel: int) -> int:
    """The tunnel's MTU in bytes: the smallest path to an endpoint, less the overhead.

    Without a usable endpoint the default route counts, and without one 1500: what leads to
    this host itself, as a documentation address in a test may, is no default route.

    Args:
        endpoints: addresses of 4 or 16 bytes.
        tunnel: the interface's own index: a path through itself says nothing.
    """
    for candidates, unfit in ((endpoints, (tunnel,)), (_SOMEWHERE, (tunnel, _LOOPBACK))):
        paths = (path_to(address) for address in candidates)
        sizes = [path.mtu for path in paths if path and path.interface not in unfit and path.mtu]
        if sizes:
            return max(SMALLEST_MTU, min(sizes) - OVERHEAD)
    return DEFAULT_PATH_MTU - OVERHEAD


def plan_routes(
    allowed_ips: Iterable[Prefix], addresses: Collection[Interface]
) -> frozenset[Prefix]:
    """The routes that allowed IPs need beside those that the addresses bring by themselves.

    A default route is never among them: it would take the endpoints with it.
    """
    connected = {address.prefix for address in addresses}
    shortest = min((prefix.length for prefix in connected), default=129)
    return frozenset(
        prefix
        for prefix in allowed_ips
        if not prefix.is_default
        and (prefix.length < shortest or not any(network.covers(prefix) for network in connected))
    )


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """Where the routes through a tunnel go.

    ``routes`` belong into ``table``, a number of the kernel's. ``by_rule`` are default
    routes (0.0.0.0/0, ::/0) that policy rules lead to: they have a table of their own.
    """

    table: int
    routes: frozenset[Prefix] = frozenset()
    by_rule: frozenset[Prefix] = frozenset()


def plan_routing(
    allowed_ips: Iterable[Prefix],
    addresses: Collection[Interface],
    *,
    table: int | None,
    is_apart: bool,
) -> RoutePlan:
    """What allowed IPs need of the routing tables.

    Args:
        table: None: where they belong, 0: nowhere, else all of them in that one.
        is_apart: the interface is in another namespace than its UDP sockets, so that a
            default route cannot take them with it.
    """
    wanted = frozenset(allowed_ips)
    if table == 0:
        return RoutePlan(MAIN_TABLE)
    if table is not None:
        return RoutePlan(table, wanted)
    default = frozenset(prefix for prefix in wanted if prefix.is_default)
    plain = plan_routes(wanted, addresses)
    if is_apart:
        return RoutePlan(MAIN_TABLE, plain | default)
    return RoutePlan(MAIN_TABLE, plain, default)
