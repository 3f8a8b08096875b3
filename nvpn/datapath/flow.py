"""Which flow an inner packet belongs to: what is above IP, its ports, and which fragment it is.

Every function takes bytes that a peer chose, past ``parse_inner`` and cut to their length,
and looks at none without having checked that it is there.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, Union

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.inner import IPV4_HEADER_SIZE, IPV6_HEADER_SIZE

TCP: Final = 6
UDP: Final = 17
SCTP: Final = 132
UDP_LITE: Final = 136
ICMPV4: Final = 1
ICMPV6: Final = 58

MAX_EXTENSIONS: Final = 8
"""Of IPv6, headers that are followed; each kind is meant to be there once (RFC 8200, 4.1)."""

_WITH_PORTS: Final = frozenset((TCP, UDP, SCTP, UDP_LITE))
_FRAGMENT: Final = 44
# Hop-by-hop, routing, destination options: ``(next header, length in 8 bytes - 1)``.
_EXTENSIONS: Final = frozenset((0, 43, 60))
# Authentication, mobility, HIP, Shim6, two for experiments: of IPv6, they say or may say what
# follows, but each in its own way.
_OPAQUE: Final = frozenset((51, 135, 139, 140, 253, 254))


class NoPorts(enum.Enum):
    """Why a packet shows no ports."""

    NONE = "has none"
    CUT_OFF = "ends before them, or does not tell whether there are any"
    ELSEWHERE = "they were in another fragment"


Ports = Union[tuple[int, int], NoPorts]  # noqa: UP007 - a runtime value


class Fragment(NamedTuple):
    """One of several pieces of a packet: which packet's, and which bytes of what it carries.

    ``protocol`` is what pieces are told apart by besides that; of IPv6 nothing: 0.
    """

    number: int
    protocol: int
    start: int
    end: int


class Flow(NamedTuple):
    """What is above IP: the protocol (of IPv6 that behind the extension headers), the
    sender's and the receiver's port, where its header begins, 0 if it is elsewhere."""

    protocol: int
    ports: Ports
    at: int = 0
    fragment: Fragment | None = None


def is_extension(protocol: int) -> bool:
    """Whether an IPv6 header with this number is followed by another one."""
    return protocol in _EXTENSIONS or protocol == _FRAGMENT


def flow_of(packet: Bytes) -> Flow:
    """The flow of a packet."""
    if packet[0] >> 4 == 4:
        protocol, at, fragment = _ipv4_payload(packet)
    else:
        protocol, at, fragment = ipv6_payload(packet)
        if protocol in _OPAQUE and at is not None:
            return Flow(protocol, NoPorts.CUT_OFF, at, fragment)
    if at is None:
        return Flow(protocol, NoPorts.ELSEWHERE, 0, fragment)
    if protocol not in _WITH_PORTS:
        # Still an extension: the packet has ended, or there are too many. (IPv4 has none.)
        return Flow(
            protocol, NoPorts.CUT_OFF if is_extension(protocol) else NoPorts.NONE, at, fragment
        )
    if at + 4 > len(packet):
        return Flow(protocol, NoPorts.CUT_OFF, at, fragment)
    ports = packet[at] << 8 | packet[at + 1], packet[at + 2] << 8 | packet[at + 3]
    return Flow(protocol, ports, at, fragment)


def _ipv4_payload(packet: Bytes) -> tuple[int, int | None, Fragment | None]:
    at = max((packet[0] & 0x0F) * 4, IPV4_HEADER_SIZE)
    if not (packet[6] & 0x3F or packet[7]):
        return packet[9], at, None
    start = (packet[6] << 8 | packet[7]) % 0x2000 * 8
    end = start + max(len(packet) - at, 0)
    fragment = Fragment(packet[4] << 8 | packet[5], packet[9], start, end)
    return packet[9], None if start else at, fragment


def ipv6_payload(packet: Bytes) -> tuple[int, int | None, Fragment | None]:
    """The protocol behind the extension headers, and where its header begins; the number of
    such a header if the packet ends among them or has too many; None in a later fragment.

    A fragment that is the whole packet is none (RFC 6946).
    """
    protocol, at, fragment = packet[6], IPV6_HEADER_SIZE, None
    was_cut = False
    for _ in range(MAX_EXTENSIONS):
        if not is_extension(protocol) or at + 8 > len(packet):
            break
        following = packet[at]
        if protocol != _FRAGMENT:
            at += (packet[at + 1] + 1) * 8
        elif was_cut:
            break  # fragments are not fragmented again
        else:
            was_cut = True
            place = packet[at + 2] << 8 | packet[at + 3]
            number = int.from_bytes(packet[at + 4 : at + 8], "big")
            at += 8
            start = place & 0xFFF8
            if place & 0xFFF9:
                fragment = Fragment(number, 0, start, start + len(packet) - at)
            if start:
                return following, None, fragment
        protocol = following
    return protocol, at, fragment
