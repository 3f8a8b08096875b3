"""What the kernel leaves undone, and takes undone, on a TUN device with virtio-net headers.

Outbound, :func:`read_frame` turns what was read into plain packets with complete
checksums: one TCP or UDP packet of up to 64 KiB becomes as many as its segment size
says. Inbound, ``coalesce`` does the opposite. Both are pure; the Python datapath has
faster ways for the common case, which must give the same bytes.

Source: virtio 1.2 section 5.1.6, include/uapi/linux/virtio_net.h, and the traps
that wireguard-go's and Linux's own segmentation code tell of.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.checksum import MODULUS, complement, word_sum

VIRTIO_HEADER_SIZE: Final = 10
NO_OFFLOAD: Final = bytes(VIRTIO_HEADER_SIZE)
"""The header of a packet that is what it says: complete, checksums included."""

NEEDS_CSUM: Final = 1
GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
_GSO_ECN: Final = 0x80

TCP: Final = 6
UDP: Final = 17
TCP_CHECKSUM_OFFSET: Final = 16
UDP_CHECKSUM_OFFSET: Final = 6

FIN: Final = 0x01
PSH: Final = 0x08
ACK: Final = 0x10
CWR: Final = 0x80

MAX_UDP_PAYLOAD: Final = 65507
"""Of one datagram over IPv4, and so of one send of many segments."""

_HEADER: Final = struct.Struct("=BBHHHH")
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_DONT_FRAGMENT: Final = 0x40


class BadFrame(ValueError):  # noqa: N818 - what it is, not that it is an error
    """The header and the packet behind it contradict each other."""


class VirtioHeader(NamedTuple):
    """struct virtio_net_hdr, in the byte order of the machine.

    ``header_length`` is a hint that forwarded packets get wrong: never used here.
    """

    flags: int = 0
    gso_type: int = GSO_NONE
    header_length: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def pack(self) -> bytes:
        """10 bytes."""
        return _HEADER.pack(*self)

    @classmethod
    def parse(cls, data: Bytes) -> VirtioHeader:
        """From the first 10 bytes.

        Raises:
            BadFrame: there are fewer.
        """
        if len(data) < VIRTIO_HEADER_SIZE:
            raise BadFrame("shorter than its virtio-net header")
        return cls(*_HEADER.unpack_from(data))


def gso_max_segs(mtu: int, max_segments: int = 64) -> int:
    """How many segments the kernel should put into one packet for us, at most.

    So many full ones, sealed, fit into one send. Left alone the kernel makes packets of
    which each needs two sends, two reads and two writes.

    Args:
        mtu: of the tunnel, in bytes.
        max_segments: UDP_MAX_SEGMENTS of this kernel: 64, newer 128.
    """
    return max(1, min(MAX_UDP_PAYLOAD // (mtu + 32), max_segments))


def read_frame(header: VirtioHeader, packet: Bytes) -> list[bytes]:
    """The plain packets that a frame stands for, in order, checksums complete.

    Raises:
        BadFrame: nothing sensible can be made of it.
    """
    kind = header.gso_type & ~_GSO_ECN
    if kind == GSO_NONE:
        whole = bytearray(packet)
        complete_checksum(header, whole)
        return [bytes(whole)]
    if kind == GSO_UDP_L4:
        return _split(header, packet, UDP)
    if kind in (GSO_TCPV4, GSO_TCPV6):
        return _split(header, packet, TCP)
    raise BadFrame(f"offload {header.gso_type} was never asked for")


def complete_checksum(header: VirtioHeader, packet: bytearray | memoryview) -> None:
    """Do in place what the kernel left undone in a packet that needs no splitting.

    Raises:
        BadFrame: the checksum would lie outside of the packet.
    """
    if not header.flags & NEEDS_CSUM:
        return
    start, field = header.csum_start, header.csum_start + header.csum_offset
    if field + 2 > len(packet):
        raise BadFrame("the checksum lies outside of the packet")
    # The field holds the pseudo header's sum, so that it is summed up with the rest.
    total = complement(word_sum(packet[start:]))
    _U16.pack_into(packet, field, total or _zero(header.csum_offset))


def _zero(csum_offset: int) -> int:
    """How a sum of zero is written: in UDP 0 would mean "no checksum"."""
    return MODULUS if csum_offset == UDP_CHECKSUM_OFFSET else 0


def _split(header: VirtioHeader, packet: Bytes, protocol: int) -> list[bytes]:
    """Cut a packet into segments of ``gso_size`` bytes of payload."""
    start, size = header.csum_start, header.gso_size
    version = packet[0] >> 4 if len(packet) else 0
    if version not in (4, 6) or not size or not header.flags & NEEDS_CSUM:
        raise BadFrame("a packet to be split lacks its segment size, checksum or IP version")
    if start < 40 if version == 6 else start < 20 or start != (packet[0] & 0x0F) * 4:
        raise BadFrame("the transport header lies inside of the IP header")
    if protocol == TCP:
        if start + 20 > len(packet):
            raise BadFrame("the TCP header lies outside of the packet")
        end = start + (packet[start + 12] >> 4) * 4
        least = 20
        field = start + TCP_CHECKSUM_OFFSET
    else:
        end = start + 8
        least = 8
        field = start + UDP_CHECKSUM_OFFSET
    if end - start < least or end > len(packet):
        raise BadFrame("the transport header lies outside of the packet")

    head = bytearray(packet[:end])
    payload = memoryview(packet)[end:]
    # The field holds the pseudo header's sum with the length of the whole.
    pseudo = _U16.unpack_from(head, field)[0] - (len(packet) - start)
    _U16.pack_into(head, field, 0)
    flags = head[start + 13] if protocol == TCP else 0
    sequence = _U32.unpack_from(head, start + 4)[0] if protocol == TCP else 0
    # The identification of a packet that nobody may fragment means nothing (RFC 6864),
    # and one that stays the same spares every segment its own header checksum.
    numbered = version == 4 and not head[6] & _DONT_FRAGMENT
    identification = _U16.unpack_from(head, 4)[0]

    packets = []
    count = max(1, -(-len(payload) // size))
    for index in range(count):
        piece = payload[index * size : (index + 1) * size]
        length = end - start + len(piece)
        if version == 4:
            _U16.pack_into(head, 2, start + length)
            if numbered:
                _U16.pack_into(head, 4, (identification + index) & 0xFFFF)
            _U16.pack_into(head, 10, 0)
            _U16.pack_into(head, 10, complement(word_sum(memoryview(head)[:start])))
        else:
            _U16.pack_into(head, 4, start - 40 + length)
        if protocol == TCP:
            _U32.pack_into(head, start + 4, (sequence + index * size) & 0xFFFFFFFF)
            kept = flags
            if index:
                kept &= ~CWR
            if index + 1 < count:
                kept &= ~(FIN | PSH)
            head[start + 13] = kept
        else:
            _U16.pack_into(head, start + 4, length)
        total = pseudo + length + word_sum(memoryview(head)[start:]) + word_sum(piece)
        checksum = complement(total)
        if protocol == UDP:
            checksum = checksum or MODULUS
        segment = head + piece
        _U16.pack_into(segment, field, checksum)
        packets.append(bytes(segment))
    return packets
