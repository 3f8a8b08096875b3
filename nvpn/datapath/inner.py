"""What a datapath must know about the packets inside the tunnel: lengths, addresses, ECN.

Every function takes bytes that a peer chose and looks at none without having checked
that it is there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.checksum import MODULUS
from nvpn.wire.constants import PADDING

IPV4_HEADER_SIZE: Final = 20
IPV6_HEADER_SIZE: Final = 40

NOT_ECT: Final = 0
ECT1: Final = 1
ECT0: Final = 2
CE: Final = 3
ECN_MASK: Final = 3

_UDP: Final = 17
_FRAGMENT: Final = 44


class Inner(NamedTuple):
    """The part of an inner packet's header that routing needs; addresses as integers."""

    version: int
    length: int
    source: int
    destination: int


def parse_inner(packet: Bytes) -> Inner | None:
    """The header of an IP packet that may be followed by padding; None for anything else.

    ``length`` is the packet's own, never above ``len(packet)`` (protocol rule 32).
    """
    size = len(packet)
    if size < IPV4_HEADER_SIZE:
        return None
    version = packet[0] >> 4
    if version == 4:
        length = packet[2] << 8 | packet[3]
        if not IPV4_HEADER_SIZE <= length <= size:
            return None
        addresses = int.from_bytes(packet[12:20], "big")
        return Inner(4, length, addresses >> 32, addresses & 0xFFFF_FFFF)
    if version == 6 and size >= IPV6_HEADER_SIZE:
        length = IPV6_HEADER_SIZE + (packet[4] << 8 | packet[5])
        if length > size:
            return None
        return Inner(
            6,
            length,
            int.from_bytes(packet[8:24], "big"),
            int.from_bytes(packet[24:40], "big"),
        )
    return None


def is_fragment(packet: Bytes, version: int) -> bool:
    """Whether a packet past ``parse_inner`` is a fragment, be it of one piece: of IPv6,
    whether its first header says so."""
    if version == 4:
        return bool(packet[6] & 0x3F or packet[7])
    return packet[6] == _FRAGMENT


def udp_payload(packet: Bytes, version: int) -> int | None:
    """Where the payload of a UDP packet begins, or that of one's first fragment.

    None for everything else; it may lie beyond the end of what is there. ``packet`` is past
    ``parse_inner``. Extension headers other than the fragment's are not followed.
    """
    if version == 4:
        header = (packet[0] & 0x0F) * 4
        if packet[9] != _UDP or packet[6] & 0x1F or packet[7] or header < IPV4_HEADER_SIZE:
            return None
        return header + 8
    if packet[6] == _UDP:
        return IPV6_HEADER_SIZE + 8
    if packet[6] != _FRAGMENT or len(packet) < IPV6_HEADER_SIZE + 8:
        return None
    if packet[40] != _UDP or packet[42] or packet[43] & 0xF8:
        return None
    return IPV6_HEADER_SIZE + 16


def padded_size(size: int, mtu: int) -> int:
    """How long ``size`` bytes of plaintext become on the wire, tag and header not counted.

    A multiple of 16, but no longer than the MTU (protocol rule 33). What exceeds the
    MTU is padded as its last MTU-sized part would be, as in the kernel. ``mtu`` 0 means
    that there is none.
    """
    if not mtu:
        return (size + PADDING - 1) & -PADDING
    last = size % mtu if size > mtu else size
    return size - last + min(mtu, (last + PADDING - 1) & -PADDING)


def traffic_class(packet: Bytes) -> int:
    """The TOS byte of an IPv4 header, the traffic class of an IPv6 one; needs 2 bytes."""
    if packet[0] >> 4 == 4:
        return packet[1]
    return (packet[0] & 0x0F) << 4 | packet[1] >> 4


def outer_tos(inner_traffic_class: int) -> int:
    """The outer TOS of a data packet: no DSCP, which would tell strangers what is inside.

    ECN is copied, except that a mark already suffered starts afresh as ECT(0): else
    the path inside the tunnel could not be told from the path outside (RFC 6040, 4.1,
    as the kernel does).
    """
    ecn = inner_traffic_class & ECN_MASK
    return ECT0 if ecn == CE else ecn


def merge_ecn(packet: bytearray | memoryview, outer: int) -> bool:
    """Carry the outer header's congestion mark into the inner packet (RFC 6040, 4.2).

    Changes the packet in place, with an IPv4 header's checksum.

    Args:
        packet: a whole inner packet, past ``parse_inner``.
        outer: the TOS byte or traffic class that the datagram arrived with.

    Returns:
        False when the packet must be dropped: congestion that it cannot express.
    """
    outer &= ECN_MASK
    if outer in (NOT_ECT, ECT0):
        return True
    inner = traffic_class(packet) & ECN_MASK
    if inner == NOT_ECT:
        return outer != CE
    if inner not in (CE, outer):
        _set_ecn(packet, outer)
    return True


def _set_ecn(packet: bytearray | memoryview, ecn: int) -> None:
    if packet[0] >> 4 == 6:
        packet[1] = packet[1] & 0xCF | ecn << 4
        return
    # The header's sum changes by what its first word changes by (RFC 1624).
    old, new = packet[1], packet[1] & 0xFC | ecn
    checksum = ((packet[10] << 8 | packet[11]) + old - new) % MODULUS
    packet[1] = new
    packet[10], packet[11] = checksum >> 8, checksum & 0xFF
