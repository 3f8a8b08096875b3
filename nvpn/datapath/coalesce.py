"""Many packets of one flow as one: what a TUN device takes in a single write.

The kernel then walks its stack once for 64 KiB instead of once for each packet. Packets
of a flow keep their order; packets are merged only when the kernel's own generic receive
offload would: equal in everything but what counts them.

The transport checksums of merged packets are not verified, and will not be by the
kernel: their bytes are authentic, which is why the kernel's WireGuard skips the sum too.
A packet that stays alone keeps its own checksum, and the kernel verifies it.

Source: Linux's inet_gro_receive, ipv6_gro_receive, tcp_gro_receive, udp_gro_receive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.checksum import MODULUS, complement, pseudo_sum, word_sum
from nvpn.datapath.offloads import (
    ACK,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    NO_OFFLOAD,
    PSH,
    TCP,
    TCP_CHECKSUM_OFFSET,
    UDP,
    UDP_CHECKSUM_OFFSET,
    VirtioHeader,
)

MAX_PACKET: Final = 65535
MAX_UDP_SEGMENTS: Final = 64
"""UDP_MAX_SEGMENTS of kernels before 6.10; what is longer they refuse with EINVAL."""


class TunWrite(NamedTuple):
    """One write: the virtio-net header, then pieces that follow each other.

    ``packets``: what was merged, for the case that the kernel refuses the whole.
    """

    pieces: list[Bytes]
    packets: list[Bytes]


@dataclass(slots=True)
class _Train:
    """Packets of one flow, merged so far."""

    protocol: int
    alike: bytes
    next_sequence: int
    head_size: int
    segment: int
    size: int
    open: bool
    packets: list[Bytes] = field(default_factory=list)


class Segment(NamedTuple):
    """A packet that could be a part of a train.

    ``flow`` is whom it belongs to: addresses and ports; ``alike`` every other byte that
    must be equal within a train. ``ends`` tells that nothing may be appended (PSH).
    """

    protocol: int
    flow: bytes
    alike: bytes
    sequence: int
    head_size: int
    payload: int
    ends: bool


def coalesce(packets: Iterable[Bytes], *, tso: bool, uso: bool) -> list[TunWrite]:
    """Merge what can be merged.

    Args:
        packets: whole IP packets, past ``parse_inner`` and cut to their length.
        tso, uso: whether the device takes merged TCP, merged UDP.
    """
    trains: list[_Train] = []
    current: dict[bytes, _Train] = {}
    for packet in packets:
        segment = recognise_segment(packet, tso=tso, uso=uso)
        if segment is None:
            trains.append(_Train(0, b"", 0, 0, 0, 0, False, [packet]))
            # What it belongs to is unknown here: nothing may overtake it.
            current.clear()
            continue
        train = current.get(segment.flow)
        if train is not None and _may_join(train, segment):
            train.packets.append(packet)
            train.size += segment.payload
            train.next_sequence = (segment.sequence + segment.payload) & 0xFFFFFFFF
            train.open = not segment.ends and segment.payload == train.segment
        else:
            train = current[segment.flow] = _Train(
                segment.protocol,
                segment.alike,
                (segment.sequence + segment.payload) & 0xFFFFFFFF,
                segment.head_size,
                segment.payload,
                segment.head_size + segment.payload,
                not segment.ends and segment.payload > 0,
                [packet],
            )
            trains.append(train)
    return [_write(train) for train in trains]


def _may_join(train: _Train, segment: Segment) -> bool:
    return (
        train.open
        and train.alike == segment.alike
        and 0 < segment.payload <= train.segment
        and train.size + segment.payload <= MAX_PACKET
        and (segment.sequence == train.next_sequence or train.protocol == UDP)
        and (len(train.packets) < MAX_UDP_SEGMENTS or train.protocol == TCP)
    )


def recognise_segment(packet: Bytes, *, tso: bool, uso: bool) -> Segment | None:
    """What decides whether a packet may be merged; None if it never may."""
    version = packet[0] >> 4
    if version == 4:
        # Nobody may fragment it, and it is no fragment: then its number means nothing.
        if packet[0] != 0x45 or packet[6] != 0x40 or packet[7] or len(packet) < 28:
            return None
        if word_sum(packet[:20]):
            return None
        protocol, start = packet[9], 20
        addresses, rest = bytes(packet[12:20]), bytes(packet[1:2]) + bytes(packet[8:9])
    else:
        if len(packet) < 48:
            return None
        protocol, start = packet[6], 40
        addresses, rest = bytes(packet[8:40]), bytes(packet[0:4]) + bytes(packet[7:8])
    if protocol == TCP and tso:
        return _recognise_tcp(packet, start, addresses, rest)
    if protocol == UDP and uso:
        return _recognise_udp(packet, start, addresses, rest)
    return None


def _recognise_tcp(packet: Bytes, start: int, addresses: bytes, rest: bytes) -> Segment | None:
    if len(packet) < start + 20:
        return None
    head_size = start + (packet[start + 12] >> 4) * 4
    flags = packet[start + 13]
    if not start + 20 <= head_size <= len(packet) or flags & ~PSH != ACK:
        return None
    if packet[start + 12] & 0x0F:
        return None
    return Segment(
        TCP,
        addresses + bytes(packet[start : start + 4]) + b"\6",
        # acknowledgement, data offset | window | urgent pointer, options
        b"".join(
            (
                rest,
                packet[start + 8 : start + 13],
                packet[start + 14 : start + 16],
                packet[start + 18 : head_size],
            )
        ),
        int.from_bytes(packet[start + 4 : start + 8], "big"),
        head_size,
        len(packet) - head_size,
        bool(flags & PSH),
    )


def _recognise_udp(packet: Bytes, start: int, addresses: bytes, rest: bytes) -> Segment | None:
    length = packet[start + 4] << 8 | packet[start + 5]
    if length != len(packet) - start or not (packet[start + 6] or packet[start + 7]):
        return None
    return Segment(
        UDP,
        addresses + bytes(packet[start : start + 4]) + b"\x11",
        rest,
        0,
        start + 8,
        len(packet) - start - 8,
        False,
    )


def _write(train: _Train) -> TunWrite:
    packets = train.packets
    if len(packets) == 1:
        return TunWrite([NO_OFFLOAD, packets[0]], packets)
    cut = train.head_size
    head = bytearray(packets[0][:cut])
    if train.protocol == TCP:
        start = 20 if head[0] >> 4 == 4 else 40
        head[start + 13] |= packets[-1][start + 13] & PSH
    finish_head(head, train.size)
    pieces: list[Bytes] = [virtio_header(head, cut, train.segment), head]
    pieces += [memoryview(packet)[cut:] for packet in packets]
    return TunWrite(pieces, packets)


def virtio_header(head: bytearray, head_size: int, segment: int) -> bytes:
    """What tells the kernel to treat a merged packet as segments of ``segment`` bytes."""
    is_ipv4 = head[0] >> 4 == 4
    start = 20 if is_ipv4 else 40
    if head[9 if is_ipv4 else 6] == UDP:
        return VirtioHeader(
            NEEDS_CSUM, GSO_UDP_L4, head_size, segment, start, UDP_CHECKSUM_OFFSET
        ).pack()
    kind = GSO_TCPV4 if is_ipv4 else GSO_TCPV6
    return VirtioHeader(NEEDS_CSUM, kind, head_size, segment, start, TCP_CHECKSUM_OFFSET).pack()


def finish_head(head: bytearray, size: int) -> None:
    """Fit the head of the first packet of a train to the whole of ``size`` bytes.

    Lengths, the IPv4 header's checksum, and the pseudo header's sum where the transport
    checksum goes, as CHECKSUM_PARTIAL wants it.
    """
    if head[0] >> 4 == 4:
        start, protocol, addresses = 20, head[9], head[12:20]
        head[2:4] = size.to_bytes(2, "big")
        head[10:12] = b"\0\0"
        head[10:12] = complement(word_sum(head[:20])).to_bytes(2, "big")
    else:
        start, protocol, addresses = 40, head[6], head[8:40]
        head[4:6] = (size - 40).to_bytes(2, "big")
    length = size - start
    if protocol == UDP:
        head[start + 4 : start + 6] = length.to_bytes(2, "big")
        field = start + UDP_CHECKSUM_OFFSET
    else:
        field = start + TCP_CHECKSUM_OFFSET
    pseudo = pseudo_sum(addresses, protocol, length)
    if protocol == UDP:
        pseudo = pseudo or MODULUS  # 0 would mean "no checksum"
    head[field : field + 2] = pseudo.to_bytes(2, "big")
