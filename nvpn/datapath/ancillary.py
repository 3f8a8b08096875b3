"""What travels beside a datagram: our own address, ECN bits, segment sizes.

Control messages of UDP sockets on Linux, as :meth:`socket.socket.sendmsg` and
:meth:`socket.socket.recvmsg_into` want and give them. Nothing here does I/O.

Source: ip(7), ipv6(7), udp(7); RFC 3542 sections 6.2 and 6.5.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from nvpn.model.endpoint import Source

# Linux's numbers: Python names only some of them, and which ones depends on its version.
IP_TOS: Final = 1
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_RECVTOS: Final = 13
IPV6_MTU_DISCOVER: Final = 23
IPV6_RECVPKTINFO: Final = 49
IPV6_PKTINFO: Final = 50
IPV6_RECVTCLASS: Final = 66
IPV6_TCLASS: Final = 67
PMTUDISC_DONT: Final = 0
SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104

ControlMessage = tuple[int, int, bytes]
"""(level, type, data), as Python's socket module has it."""

# struct in_pktinfo: interface, our address (ipi_spec_dst), the header's destination.
_PKTINFO4: Final = struct.Struct("=I4s4s")
_PKTINFO6: Final = struct.Struct("=16sI")
_INT: Final = struct.Struct("=i")
_U16: Final = struct.Struct("=H")

CONTROL_BYTES: Final = 256
"""Room for every control message that we ask for, with some to spare."""


class Received(NamedTuple):
    """What came beside a datagram, or beside several of ``segment`` bytes each.

    ``segment`` is 0 when the kernel merged nothing. ``tos`` is DSCP and ECN.
    """

    source: Source | None
    tos: int
    segment: int


def parse_control(messages: Iterable[tuple[int, int, bytes]]) -> Received:
    """Read what came beside a datagram; unknown or short messages are passed over."""
    source: Source | None = None
    tos = segment = 0
    for level, kind, data in messages:
        if level == SOL_UDP:
            if kind == UDP_GRO and len(data) >= 4:
                segment = max(_INT.unpack_from(data)[0], 0)
        elif level == socket.IPPROTO_IP:
            if kind == IP_PKTINFO and len(data) >= _PKTINFO4.size:
                interface, address, _ = _PKTINFO4.unpack_from(data)
                source = Source(address, interface)
            elif kind == IP_TOS and data:
                tos = data[0]
        elif level == socket.IPPROTO_IPV6:
            if kind == IPV6_PKTINFO and len(data) >= _PKTINFO6.size:
                address, interface = _PKTINFO6.unpack_from(data)
                source = Source(address, interface)
            elif kind == IPV6_TCLASS and len(data) >= 4:
                tos = _INT.unpack_from(data)[0] & 0xFF
    return Received(source, tos, segment)


def build_control(
    version: int, *, source: Source | None = None, tos: int = 0, segment: int = 0
) -> list[ControlMessage]:
    """What to send beside a datagram.

    Args:
        version: 4 or 6, the socket's family.
        source: the address to send from; ignored if it is of the other family. The
            interface is named only with a link-local address, which means nothing
            without one: a route that moves to another interface must stay usable.
        tos: DSCP and ECN; 0 adds no message, sockets have that by default.
        segment: bytes of each datagram but the last; 0 for a single one.
    """
    messages: list[ControlMessage] = []
    if version == 4:
        if source is not None and len(source.address) == 4:
            data = _PKTINFO4.pack(0, source.address, bytes(4))
            messages.append((socket.IPPROTO_IP, IP_PKTINFO, data))
        if tos:
            messages.append((socket.IPPROTO_IP, IP_TOS, _INT.pack(tos)))
    else:
        if source is not None and len(source.address) == 16:
            link_local = source.address[0] == 0xFE and source.address[1] & 0xC0 == 0x80
            data = _PKTINFO6.pack(source.address, source.interface if link_local else 0)
            messages.append((socket.IPPROTO_IPV6, IPV6_PKTINFO, data))
        if tos:
            messages.append((socket.IPPROTO_IPV6, IPV6_TCLASS, _INT.pack(tos)))
    if segment:
        messages.append((SOL_UDP, UDP_SEGMENT, _U16.pack(segment)))
    return messages
