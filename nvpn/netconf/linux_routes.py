"""Many routes at once, ten times as fast as with an object for each of them.

pyroute2 packs one route to a link; the others are copies, for only the destination and its
length differ. Of listed routes only these two and the link are read. So 1000 routes take
5 ms either way. Objects for them would take 60 ms to add and 35 to list, pyroute2's
``IPRoute`` 340; and a tunnel with 100 000 would hold up the daemon for seconds.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable
from typing import Final

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, nlmsg
from pyroute2.netlink.rtnl import (
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    rt_proto,
    rt_scope,
    rt_type,
)
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from nvpn.model.prefixes import Prefix
from nvpn.netconf.linux_netlink import Connection, pack

_MAIN_TABLE: Final = 254

# Behind the 16 bytes of struct nlmsghdr come 12 of struct rtmsg, then attributes.
_FAMILY_AT: Final = 16
_LENGTH_AT: Final = 17
_TABLE_AT: Final = 20
_ATTRIBUTES_AT: Final = 28
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTA_DST: Final = 1
_RTA_OIF: Final = 4


def list_routes(connection: Connection, link_index: int) -> frozenset[Prefix]:
    """The prefixes that the main table sends to a link. Raises Refusal, PlatformError."""
    found: set[Prefix] = set()

    def take(message: bytes) -> None:
        prefix = read_route(message, link_index)
        if prefix is not None:
            found.add(prefix)

    for family in (socket.AF_INET, socket.AF_INET6):
        connection.dump_raw(_route_message(family, link_index), RTM_GETROUTE, take)
    return frozenset(found)


def pack_new_routes(link_index: int, prefixes: Iterable[Prefix]) -> list[bytes]:
    """Requests to send the prefixes to a link, each refused where there is such a route."""
    flags = NLM_F_CREATE | NLM_F_EXCL
    return _pack_routes(RTM_NEWROUTE, flags, link_index, prefixes, {4: "link", 6: "universe"})


def pack_gone_routes(link_index: int, prefixes: Iterable[Prefix]) -> list[bytes]:
    """Requests to take such routes away, whatever their scope is."""
    return _pack_routes(RTM_DELROUTE, 0, link_index, prefixes, {4: "nowhere", 6: "nowhere"})


def read_route(message: bytes, link_index: int) -> Prefix | None:
    """Where a route of the main table through that link leads; None for other routes.

    Args:
        message: with its header, as it came from the kernel.
    """
    if len(message) < _ATTRIBUTES_AT or message[_TABLE_AT] != _MAIN_TABLE:
        return None
    destination = bytes(4 if message[_FAMILY_AT] == socket.AF_INET else 16)
    link = 0
    offset = _ATTRIBUTES_AT
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        if length < _ATTRIBUTE.size:
            break
        if kind == _RTA_DST:
            destination = message[offset + _ATTRIBUTE.size : offset + length]
        elif kind == _RTA_OIF:
            value = message[offset + _ATTRIBUTE.size : offset + length]
            link = int.from_bytes(value, sys.byteorder)
        offset += length + (-length % 4)
    return Prefix.of(destination, message[_LENGTH_AT]) if link == link_index else None


def _pack_routes(
    kind: int,
    flags: int,
    link_index: int,
    prefixes: Iterable[Prefix],
    scopes: dict[int, str],
) -> list[bytes]:
    templates = {}
    for version, scope in scopes.items():
        message = _route_message(socket.AF_INET if version == 4 else socket.AF_INET6, link_index)
        message["proto"] = rt_proto["static"]
        message["scope"] = rt_scope[scope]
        # First, so that its place is known.
        message["attrs"].insert(0, ("RTA_DST", "0.0.0.0" if version == 4 else "::"))
        templates[version] = pack(message, kind, flags)
    return [_aim(templates[prefix.version], prefix) for prefix in prefixes]


def _route_message(family: int, link_index: int) -> nlmsg:
    message = rtmsg()
    message["family"] = family
    message["table"] = _MAIN_TABLE
    message["type"] = rt_type["unicast"]
    message["attrs"] = [("RTA_OIF", link_index)]
    return message


def _aim(template: bytes, prefix: Prefix) -> bytes:
    packed = bytearray(template)
    packed[_LENGTH_AT] = prefix.length
    start = _ATTRIBUTES_AT + _ATTRIBUTE.size
    packed[start : start + prefix.bits // 8] = prefix.packed
    return bytes(packed)
