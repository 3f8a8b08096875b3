"""What an interface's MTU and routes should be: pure, as wg-quick decides it.

Source: wg-quick(8), functions ``set_mtu_up`` and ``add_route``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from nvpn.model.prefixes import Interface, Prefix, parse_address
from nvpn.netconf.api import PathLookup

OVERHEAD: Final = 80
"""IPv6 header 40, UDP 8, WireGuard 32: an inner packet costs no more than that."""

DEFAULT_PATH_MTU: Final = 1500

SMALLEST_MTU: Final = 576
"""What IPv4 asks of every host; a lower path would be cut into pieces anyway."""

# Documentation prefixes: nobody has a route to them but the default one.
_SOMEWHERE: Final = (parse_address("192.0.2.1"), parse_address("2001:db8::1"))


def derive_mtu(endpoints: Iterable[bytes], path_to: PathLookup, *, tunnel: int) -> int:
    """The tunnel's MTU in bytes: the smallest path to an endpoint, less the overhead.

    Without a usable endpoint the default route counts, and without one 1500.

    Args:
        endpoints: addresses of 4 or 16 bytes.
        tunnel: the interface's own index: a path through itself says nothing.
    """
    for candidates in (endpoints, _SOMEWHERE):
        paths = (path_to(address) for address in candidates)
        sizes = [path.mtu for path in paths if path and path.interface != tunnel and path.mtu]
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
