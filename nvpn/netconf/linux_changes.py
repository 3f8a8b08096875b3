"""Tells when the ways out of this host of Linux change: its addresses and default routes.

A socket of its own beside :mod:`nvpn.netconf.linux_monitor`'s: that one follows the tunnel's
interface to whatever namespace it is in, this one stays where the UDP sockets are. The
kernel filters for it, so that a router with a million routes wakes nobody up.

Much of what the kernel announces is no change: an address whose lifetime a router prolonged,
a default route that was replaced by its like. What is known already is remembered, and not
told again.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Union

from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from nvpn.errors import PlatformError
from nvpn.netconf.api import AddressesChanged
from nvpn.netconf.linux_netlink import Connection, Refusal
from nvpn.netconf.linux_rules import PROTOCOL as RULE_PROTOCOL


@dataclass(frozen=True, slots=True)
class DefaultRouteChanged:
    """A default route came, went, or leads elsewhere; or a policy rule went, or one that is
    not nvpn's came; or a link that has addresses went up or down, with which its routes
    come and go without a word.
    """


NetworkEvent = Union[AddressesChanged, DefaultRouteChanged]  # noqa: UP007 - a runtime value

_RTMGRP_LINK: Final = 0x1
_RTMGRP_IPV4_IFADDR: Final = 0x10
_RTMGRP_IPV4_ROUTE: Final = 0x40
_RTMGRP_IPV4_RULE: Final = 0x80
_RTMGRP_IPV6_IFADDR: Final = 0x100
_RTMGRP_IPV6_ROUTE: Final = 0x400
_RTMGRP_IPV6_RULE: Final = 0x40000
_GROUPS: Final = (
    _RTMGRP_LINK
    | _RTMGRP_IPV4_RULE
    | _RTMGRP_IPV6_RULE
    | _RTMGRP_IPV4_IFADDR
    | _RTMGRP_IPV4_ROUTE
    | _RTMGRP_IPV6_IFADDR
    | _RTMGRP_IPV6_ROUTE
)

_NEWLINK: Final = 16
_DELLINK: Final = 17
_NEWADDR: Final = 20
_DELADDR: Final = 21
_NEWROUTE: Final = 24
_DELROUTE: Final = 25
_NEWRULE: Final = 32
_DELRULE: Final = 33

_MESSAGE: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")  # family, type, index, flags, which of them changed
_ADDRESS: Final = struct.Struct("=BBBBI")  # family, length, flags, scope, index
_ROUTE: Final = struct.Struct("=8BI")
_RULE: Final = _ROUTE
_ATTRIBUTE: Final = struct.Struct("=HH")
_U32: Final = struct.Struct("=I")

_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_IFA_F_OPTIMISTIC: Final = 0x04
_IFA_F_DADFAILED: Final = 0x08
_IFA_F_DEPRECATED: Final = 0x20
_IFA_F_TENTATIVE: Final = 0x40
_SCOPE_LINK: Final = 253
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PRIORITY: Final = 6
_RTA_MULTIPATH: Final = 9
_RTA_TABLE: Final = 15
_RTA_VIA: Final = 18
_RTA_NH_ID: Final = 30
_RTA_NAMES: Final = frozenset(
    (_RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA, _RTA_NH_ID)
)
_RTN_UNICAST: Final = 1
_FRA_PROTOCOL: Final = 21

_SO_ATTACH_FILTER: Final = 26
_MOST_ROUTES: Final = 1024
"""Default routes that are remembered: more than any host has at a time."""


_Slot = tuple[int, bytes, bytes, int]
_Route = tuple[tuple[int, bytes], ...]


class _Address(NamedTuple):
    interface: int
    address: bytes


class LinuxChanges:
    """Watches the network namespace that this was made in. As a
    :class:`nvpn.netconf.api.LinkMonitor`, a descriptor that becomes readable.

    Args:
        ignored: the index of the tunnel's own interface, of which nothing is told; 0 when
            it is not in this namespace.

    Raises:
        PlatformError: no descriptors left, …
    """

    def __init__(self, ignored: Callable[[], int]) -> None:
        self._ignored = ignored
        self._addresses: dict[_Address, int] = {}  # and what makes them good or bad sources
        self._links: dict[int, bool] = {}
        self._routes: dict[_Slot, _Route] = {}
        self._socket = _open()
        try:
            self._learn()
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For the event loop's ``add_reader``."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of the descriptor."""
        self._socket.close()

    def take_events(self) -> list[NetworkEvent]:
        """What changed since the last call, each kind once; never blocks, never raises."""
        events: dict[NetworkEvent, None] = {}
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return list(events)
                # Something was lost. Nothing counts as known any more, rather than to be
                # taken for known later.
                self._addresses.clear()
                self._routes.clear()
                events[AddressesChanged()] = None
                continue
            for kind, body in _messages(data):
                event = self._read(kind, body)
                if event is not None:
                    events[event] = None

    def _learn(self) -> None:
        """Know what there is, so that it is not taken for new when it is told again."""
        connection = Connection()

        def take(message: bytes) -> None:
            for kind, body in _messages(message):
                self._read(kind, body)

        try:
            connection.dump_raw(ifinfmsg(), RTM_GETLINK, take)
            connection.dump_raw(ifaddrmsg(), RTM_GETADDR, take)
        except Refusal as refusal:
            raise PlatformError("list addresses", errno=refusal.errno) from None
        finally:
            connection.close()

    # --- messages -----------------------------------------------------------------------

    def _read(self, kind: int, body: bytes) -> NetworkEvent | None:
        try:
            if kind in (_NEWADDR, _DELADDR):
                return self._read_address(body, is_new=kind == _NEWADDR)
            if kind in (_NEWROUTE, _DELROUTE):
                return self._read_route(body, is_new=kind == _NEWROUTE)
            if kind in (_NEWRULE, _DELRULE):
                return _read_rule(body, is_new=kind == _NEWRULE)
            if kind in (_NEWLINK, _DELLINK):
                return self._read_link(body, is_new=kind == _NEWLINK)
        except struct.error:
            pass  # shorter than any kernel makes them
        return None

    def _read_address(self, body: bytes, *, is_new: bool) -> NetworkEvent | None:
        _, _, flags, scope, index = _ADDRESS.unpack_from(body)
        # What reaches no further than its link is nobody's way out: every container's
        # interface comes with such an address.
        if scope >= _SCOPE_LINK or index == self._ignored():
            return None
        attributes = dict(_attributes(body[_ADDRESS.size :]))
        if _IFA_FLAGS in attributes:
            (flags,) = _U32.unpack_from(attributes[_IFA_FLAGS])
        name = _Address(index, attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b"")))
        if flags & _IFA_F_TENTATIVE and not flags & _IFA_F_OPTIMISTIC:
            return None  # of no use before the kernel has found it unique, and tells again
        quality = flags & (_IFA_F_DADFAILED | _IFA_F_DEPRECATED)
        if not is_new:
            self._addresses.pop(name, None)
        elif self._addresses.get(name) == quality:
            return None
        else:
            self._addresses[name] = quality
        return AddressesChanged()

    def _read_route(self, body: bytes, *, is_new: bool) -> NetworkEvent | None:
        family, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
        attributes = {
            name: value for name, value in _attributes(body[_ROUTE.size :]) if name in _RTA_NAMES
        }
        leads_out_of = _U32.unpack_from(attributes.get(_RTA_OIF, bytes(4)))[0]
        if length or kind != _RTN_UNICAST or (leads_out_of and leads_out_of == self._ignored()):
            return None
        route = tuple(sorted(attributes.items()))
        # What takes the place of which. IPv6 keeps a route for each router's link.
        slot = (
            family,
            attributes.get(_RTA_TABLE, bytes([table])),
            attributes.get(_RTA_PRIORITY, b""),
            leads_out_of if family == socket.AF_INET6 else 0,
        )
        if not is_new:
            if self._routes.get(slot) == route:
                del self._routes[slot]
        elif self._routes.get(slot) == route:
            return None
        else:
            if len(self._routes) >= _MOST_ROUTES:
                self._routes.clear()
            self._routes[slot] = route
        return DefaultRouteChanged()

    def _read_link(self, body: bytes, *, is_new: bool) -> NetworkEvent | None:
        family, _, index, flags, _ = _LINK.unpack_from(body)
        # A bridge's view of its port has a family.
        if family != socket.AF_UNSPEC or index == self._ignored():
            return None
        if not is_new:
            self._links.pop(index, None)
            return None  # its addresses are told by themselves
        works = bool(flags & _IFF_UP and flags & _IFF_RUNNING)
        before = self._links.get(index)
        self._links[index] = works
        if before is None or before == works:
            return None
        if not any(address.interface == index for address in self._addresses):
            return None
        return DefaultRouteChanged()


def _read_rule(body: bytes, *, is_new: bool) -> NetworkEvent | None:
    """New rules of nvpn's own come with routes, which are told where they matter."""
    attributes = dict(_attributes(body[_RULE.size :]))
    is_ours = attributes.get(_FRA_PROTOCOL) == bytes([RULE_PROTOCOL])
    return None if is_new and is_ours else DefaultRouteChanged()


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, _, _, _ = _MESSAGE.unpack_from(data, at)
        if length < _MESSAGE.size:
            return
        yield kind, data[at + _MESSAGE.size : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


# --- the socket -----------------------------------------------------------------------


def _open() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        opened = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            _attach_filter(opened)
            opened.bind((0, _GROUPS))
        except BaseException:
            opened.close()
            raise
    except OSError as error:
        raise PlatformError("watch the network", errno=error.errno or 0) from None
    return opened


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _attach_filter(opened: socket.socket) -> None:
    """Of routes, let only default routes in: notifications come one a datagram."""
    load_half, load_byte, jump_if_equal, answer = 0x28, 0x30, 0x15, 0x06
    everything, nothing = 0xFFFF_FFFF, 0
    # Classic BPF reads in network order what the kernel wrote in this machine's.
    new, gone = socket.htons(_NEWROUTE), socket.htons(_DELROUTE)
    instructions = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (load_half, 0, 0, 4),  # the message's type
            (jump_if_equal, 1, 0, new),
            (jump_if_equal, 0, 2, gone),
            (load_byte, 0, 0, _MESSAGE.size + 1),  # the destination's length
            (jump_if_equal, 0, 1, 0),
            (answer, 0, 0, everything),
            (answer, 0, 0, nothing),
        )
    )
    buffer = ctypes.create_string_buffer(instructions)
    program = _Program(len(instructions) // 8, ctypes.addressof(buffer))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
