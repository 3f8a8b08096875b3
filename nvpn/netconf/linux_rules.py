"""Policy rules of Linux, and what else of its routing tables belongs to no interface.

A rule of ours carries the protocol 0x6e, so that ``ip rule`` tells whose it is.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import Final

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, nlmsg
from pyroute2.netlink.rtnl import (
    RTM_DELRULE,
    RTM_GETLINK,
    RTM_GETRULE,
    RTM_NEWRULE,
)
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from nvpn.errors import PlatformError
from nvpn.model.prefixes import Prefix
from nvpn.netconf.linux_monitor import read_link
from nvpn.netconf.linux_netlink import Connection, Refusal
from nvpn.netconf.linux_routes import (
    has_routes,
    list_connected,
    pack_gone_fallback,
    pack_new_fallback,
)
from nvpn.netconf.rules import Rule

PROTOCOL: Final = 0x6E

NO_FAMILY: Final = frozenset(
    {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES, errno.ENODEV, errno.EPROTONOSUPPORT}
)
"""Refusals that mean that IPv6 is switched off, or not there at all."""

_TUNNELS: Final = frozenset({"tun", "wireguard"})
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH})

_TO_TABLE: Final = 1
_GOTO: Final = 2
_NOTHING: Final = 3
_INVERTED: Final = 2

# Behind the 16 bytes of struct nlmsghdr come 12 of struct fib_rule_hdr, then attributes.
_HEADER: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, TOS, table, -, -, action, flags
_ATTRIBUTES_AT: Final = 28
_ATTRIBUTE: Final = struct.Struct("=HH")
_FRA_GOTO: Final = 4
_FRA_PRIORITY: Final = 6
_FRA_FWMARK: Final = 10
_FRA_SUPPRESS_PREFIXLEN: Final = 14
_FRA_TABLE: Final = 15
_FRA_FWMASK: Final = 16
_ANY: Final = 0xFFFFFFFF
# What else a rule may have without selecting by it: flow, suppressed group, padding, protocol.
_NO_SELECTORS: Final = frozenset({11, 13, 18, 21})


class LinuxRules:
    """The policy rules and tables of the network namespace this was made in."""

    def __init__(self) -> None:
        self._connection = Connection()

    def close(self) -> None:
        """Let go of the descriptor."""
        self._connection.close()

    def rules(self, version: int) -> list[Rule]:
        """All rules of a family, none where there is no such family. Raises PlatformError."""
        found: list[Rule] = []

        def take(message: bytes) -> None:
            rule = read_rule(message)
            if rule is not None and rule.version == version:
                found.append(rule)

        message = fibmsg()
        message["family"] = _family(version)
        try:
            self._connection.dump_raw(message, RTM_GETRULE, take)
        except Refusal as refusal:
            if refusal.errno not in NO_FAMILY:
                raise PlatformError("list policy rules", errno=refusal.errno) from None
        return found

    def add(self, rule: Rule) -> None:
        """Add a rule; one that is there already is no error. Raises PlatformError."""
        try:
            flags = NLM_F_CREATE | NLM_F_EXCL
            self._connection.change(_rule_message(rule), RTM_NEWRULE, flags)
        except Refusal as refusal:
            if refusal.errno != errno.EEXIST:
                raise _translate(refusal, f"add policy rule {rule.priority}") from None

    def remove(self, rule: Rule) -> None:
        """Remove exactly that rule; one that is not there is no error. Raises PlatformError."""
        try:
            self._connection.change(_rule_message(rule), RTM_DELRULE)
        except Refusal as refusal:
            if refusal.errno not in _GONE | NO_FAMILY:
                raise _translate(refusal, f"remove policy rule {rule.priority}") from None

    def is_used(self, table: int) -> bool:
        """Whether a table has a route, of either family. Raises PlatformError."""
        try:
            return any(has_routes(self._connection, version, table) for version in (4, 6))
        except Refusal as refusal:
            raise _translate(refusal, f"look into table {table}") from None

    def claim(self, version: int, table: int) -> bool:
        """Make a table end with "unreachable", for when the interface is down.

        The route belongs to no interface: so the table is never empty, and what has no
        other way does not go on to the next table. False when there is such a route.

        Raises:
            PlatformError: refused; with an errno in NO_FAMILY where there is no such family.
        """
        try:
            self._connection.execute([pack_new_fallback(version, table)])
        except Refusal as refusal:
            if refusal.errno == errno.EEXIST:
                return False
            raise _translate(refusal, f"prepare table {table}") from None
        return True

    def release(self, version: int, table: int) -> None:
        """Take that end away; none is no error. Raises PlatformError."""
        try:
            self._connection.execute(
                [pack_gone_fallback(version, table)], ignored=_GONE | NO_FAMILY
            )
        except Refusal as refusal:
            raise _translate(refusal, f"empty table {table}") from None

    def local_networks(self) -> frozenset[Prefix]:
        """The networks that this host is connected to, not by a tunnel. Raises PlatformError."""
        try:
            tunnels = {link for link, kind in self._links() if kind in _TUNNELS}
            return frozenset(
                prefix for link, prefix in list_connected(self._connection) if link not in tunnels
            )
        except Refusal as refusal:
            raise _translate(refusal, "list connected networks") from None

    def _links(self) -> list[tuple[int, str]]:
        links = map(read_link, self._connection.dump(ifinfmsg(), RTM_GETLINK))
        return [(link.index, link.kind) for link in links]


def read_rule(message: bytes) -> Rule | None:
    """What we know of a rule; None for other families (multicast routing has rules, too).

    Args:
        message: with its header, as it came from the kernel.
    """
    if len(message) < _ATTRIBUTES_AT:
        return None
    family, dst, src, tos, table, _, _, action, flags = _HEADER.unpack_from(message, 16)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    values: dict[int, int] = {}
    has_more = bool(dst or src or tos)
    offset = _ATTRIBUTES_AT
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        if length < _ATTRIBUTE.size:
            break
        if kind in _KNOWN:
            value = message[offset + _ATTRIBUTE.size : offset + length]
            values[kind] = int.from_bytes(value, sys.byteorder)
        elif kind not in _NO_SELECTORS:
            has_more = True
        offset += length + (-length % 4)
    suppress = values.get(_FRA_SUPPRESS_PREFIXLEN, _ANY)
    return Rule(
        version=4 if family == socket.AF_INET else 6,
        priority=values.get(_FRA_PRIORITY, 0),
        table=values.get(_FRA_TABLE, table) if action == _TO_TABLE else 0,
        mark=values.get(_FRA_FWMARK, 0),
        mask=values.get(_FRA_FWMASK, 0),
        is_inverted=bool(flags & _INVERTED),
        suppress_prefixlength=None if suppress == _ANY else suppress,
        goto=values.get(_FRA_GOTO, 0) if action == _GOTO else 0,
        has_more=has_more or action not in (_TO_TABLE, _GOTO, _NOTHING),
    )


_KNOWN: Final = frozenset(
    {_FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK}
)


def _rule_message(rule: Rule) -> nlmsg:
    message = fibmsg()
    message["family"] = _family(rule.version)
    message["flags"] = _INVERTED if rule.is_inverted else 0
    attributes = [("FRA_PRIORITY", rule.priority), ("FRA_PROTOCOL", PROTOCOL)]
    if rule.mask:
        attributes += [("FRA_FWMARK", rule.mark), ("FRA_FWMASK", rule.mask)]
    if rule.goto:
        message["action"] = _GOTO
        attributes.append(("FRA_GOTO", rule.goto))
    elif rule.table:
        message["action"] = _TO_TABLE
        message["table"] = rule.table if rule.table < 256 else 0
        attributes.append(("FRA_TABLE", rule.table))
    else:
        message["action"] = _NOTHING
    if rule.suppress_prefixlength is not None:
        attributes.append(("FRA_SUPPRESS_PREFIXLEN", rule.suppress_prefixlength))
    message["attrs"] = attributes
    return message


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _translate(refusal: Refusal, operation: str) -> PlatformError:
    hint = refusal.reason
    if refusal.errno == errno.EPERM:
        hint = "needs CAP_NET_ADMIN; try again as root, with sudo"
    return PlatformError(operation, errno=refusal.errno, hint=hint)
