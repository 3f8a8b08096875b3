"""Many routes at once, ten times as fast as with an object for each of them.

pyroute2 packs one route to a link; the others are copies, for only the destination and its
length differ. Of listed routes only these two and the link are read. So 1000 routes take
5 ms either way. Objects for them would take 60 ms to add and 35 to list, pyroute2's
``IPRoute`` 340; and a tunnel with 100 000 would hold up the daemon for seconds.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
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

from nvpn.model.prefixes import Prefix, parse_address
from nvpn.netconf.api import MAIN_TABLE
from nvpn.netconf.linux_netlink import Connection, Refusal, pack

_BEYOND_A_BYTE: Final = 252
"""RT_TABLE_COMPAT: the table's number is in an attribute."""

# Behind the 16 bytes of struct nlmsghdr come 12 of struct rtmsg, then attributes.
_FAMILY_AT: Final = 16
_LENGTH_AT: Final = 17
_TABLE_AT: Final = 20
_ATTRIBUTES_AT: Final = 28
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_TABLE: Final = 15

_LAST: Final = 0xFFFFFFFF
"""A metric: every other route of the same length is better."""
_NO_TABLE: Final = frozenset({errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
_ELSEWHERE: Final = ("RTA_GATEWAY", "RTA_VIA", "RTA_MULTIPATH")
_LINK_LOCAL: Final = Prefix.parse("fe80::/10")


def list_routes(
    connection: Connection, link_index: int, *, table: int = MAIN_TABLE
) -> frozenset[Prefix]:
    """The prefixes that a table sends to a link. Raises Refusal, PlatformError."""
    found: set[Prefix] = set()

    def take(message: bytes) -> None:
        prefix = read_route(message, link_index, table=table)
        if prefix is not None:
            found.add(prefix)

    for family in (socket.AF_INET, socket.AF_INET6):
        connection.dump_raw(_route_message(family, link_index, table), RTM_GETROUTE, take)
    return frozenset(found)


def pack_new_routes(
    link_index: int, prefixes: Iterable[Prefix], *, table: int = MAIN_TABLE
) -> list[bytes]:
    """Requests to send the prefixes to a link, each refused where there is such a route."""
    flags = NLM_F_CREATE | NLM_F_EXCL
    scopes = {4: "link", 6: "universe"}
    return _pack_routes(RTM_NEWROUTE, flags, link_index, prefixes, scopes, table)


def pack_gone_routes(
    link_index: int, prefixes: Iterable[Prefix], *, table: int = MAIN_TABLE
) -> list[bytes]:
    """Requests to take such routes away, whatever their scope is."""
    scopes = {4: "nowhere", 6: "nowhere"}
    return _pack_routes(RTM_DELROUTE, 0, link_index, prefixes, scopes, table)


def read_route(message: bytes, link_index: int, *, table: int = MAIN_TABLE) -> Prefix | None:
    """Where a route of that table through that link leads; None for other routes.

    Args:
        message: with its header, as it came from the kernel.
    """
    if len(message) < _ATTRIBUTES_AT:
        return None
    found_table = message[_TABLE_AT]
    destination = bytes(4 if message[_FAMILY_AT] == socket.AF_INET else 16)
    link = 0
    for kind, value in _attributes(message):
        if kind == _RTA_DST:
            destination = value
        elif kind == _RTA_OIF:
            link = int.from_bytes(value, sys.byteorder)
        elif kind == _RTA_TABLE:
            found_table = int.from_bytes(value, sys.byteorder)
    if (link, found_table) != (link_index, table):
        return None
    return Prefix.of(destination, message[_LENGTH_AT])


def has_routes(connection: Connection, version: int, table: int) -> bool:
    """Whether a table has a route of that family. Raises Refusal, PlatformError."""
    found = False

    def take(message: bytes) -> None:
        nonlocal found
        found = found or _read_table(message) == table

    message = _table_message(version, table)
    try:
        connection.dump_raw(message, RTM_GETROUTE, take)
    except Refusal as refusal:
        if refusal.errno not in _NO_TABLE:
            raise
    return found


def list_connected(connection: Connection) -> list[tuple[int, Prefix]]:
    """Links, and the networks that the main table knows to be on them, default routes apart.

    IPv6 link-local ones are left out. Raises Refusal, PlatformError.
    """
    found: list[tuple[int, Prefix]] = []
    for version in (4, 6):
        try:
            answers = connection.dump(_table_message(version, MAIN_TABLE), RTM_GETROUTE)
        except Refusal as refusal:
            if refusal.errno not in _NO_TABLE:
                raise
            continue
        for answer in answers:
            text, link = answer.get_attr("RTA_DST"), answer.get_attr("RTA_OIF")
            if not text or not link or not answer["dst_len"]:
                continue
            if (answer.get_attr("RTA_TABLE") or answer["table"]) != MAIN_TABLE:
                continue
            if answer["type"] != rt_type["unicast"] or any(map(answer.get_attr, _ELSEWHERE)):
                continue
            prefix = Prefix.of(parse_address(text), answer["dst_len"])
            if not _LINK_LOCAL.covers(prefix):
                found.append((link, prefix))
    return found


def pack_new_fallback(version: int, table: int) -> bytes:
    """A request to make a table end with "unreachable", refused where it does already."""
    return pack(_fallback_message(version, table), RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL)


def pack_gone_fallback(version: int, table: int) -> bytes:
    """A request to take that end away."""
    return pack(_fallback_message(version, table), RTM_DELROUTE, 0)


def _fallback_message(version: int, table: int) -> nlmsg:
    message = _table_message(version, table)
    message["type"] = rt_type["unreachable"]
    message["proto"] = rt_proto["static"]
    message["attrs"].append(("RTA_PRIORITY", _LAST))
    return message


def _table_message(version: int, table: int) -> nlmsg:
    message = rtmsg()
    message["family"] = socket.AF_INET if version == 4 else socket.AF_INET6
    message["table"] = table if table < 256 else _BEYOND_A_BYTE
    message["attrs"] = [("RTA_TABLE", table)]
    return message


def _read_table(message: bytes) -> int:
    if len(message) < _ATTRIBUTES_AT:
        return 0
    for kind, value in _attributes(message):
        if kind == _RTA_TABLE:
            return int.from_bytes(value, sys.byteorder)
    return message[_TABLE_AT]


def _attributes(message: bytes) -> Iterator[tuple[int, bytes]]:
    offset = _ATTRIBUTES_AT
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind, message[offset + _ATTRIBUTE.size : offset + length]
        offset += length + (-length % 4)


def _pack_routes(
    kind: int,
    flags: int,
    link_index: int,
    prefixes: Iterable[Prefix],
    scopes: dict[int, str],
    table: int,
) -> list[bytes]:
    templates = {}
    for version, scope in scopes.items():
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        message = _route_message(family, link_index, table)
        message["proto"] = rt_proto["static"]
        message["scope"] = rt_scope[scope]
        # First, so that its place is known.
        message["attrs"].insert(0, ("RTA_DST", "0.0.0.0" if version == 4 else "::"))
        templates[version] = pack(message, kind, flags)
    return [_aim(templates[prefix.version], prefix) for prefix in prefixes]


def _route_message(family: int, link_index: int, table: int) -> nlmsg:
    message = rtmsg()
    message["family"] = family
    message["table"] = table if table < 256 else _BEYOND_A_BYTE
    message["type"] = rt_type["unicast"]
    message["attrs"] = [("RTA_OIF", link_index)]
    if table >= 256:
        message["attrs"].append(("RTA_TABLE", table))
    return message


def _aim(template: bytes, prefix: Prefix) -> bytes:
    packed = bytearray(template)
    packed[_LENGTH_AT] = prefix.length
    start = _ATTRIBUTES_AT + _ATTRIBUTE.size
    packed[start : start + prefix.bits // 8] = prefix.packed
    return bytes(packed)
