"""A superpacket from the TUN device to sealed datagrams, without a loop over its segments.

A TCP or UDP packet of up to 64 KiB is cut straight into the layout that one UDP_SEGMENT
send wants, [header | segment | tag] again and again: numpy fills the columns in which
the segments differ, then each is sealed where it lies.

What it makes equals what ``offloads.read_frame`` and ``Core.send_inner`` make of the
same packet, byte for byte; ``tests/datapath/test_batches.py`` holds it to that. It is
for the common case alone: anything odd it leaves to them.

The style gives way to speed here: views are made once per layout and kept, and numpy is
called as few times as possible, for each call costs as much as 40 bytes of cipher.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import repeat
from typing import Any, Final, NamedTuple

import numpy as np

from nvpn.datapath.checksum import MODULUS, complement, word_sum
from nvpn.datapath.inner import padded_size
from nvpn.datapath.keypairs import EXHAUSTED, Keypair
from nvpn.datapath.offloads import (
    CWR,
    FIN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    MAX_UDP_PAYLOAD,
    NEEDS_CSUM,
    PSH,
    TCP,
    TCP_CHECKSUM_OFFSET,
    UDP,
    UDP_CHECKSUM_OFFSET,
    VirtioHeader,
)
from nvpn.wire.constants import TAG_SIZE, TRANSPORT_HEADER_SIZE, TRANSPORT_OVERHEAD

Array = np.ndarray[Any, Any]

_NONE: Final = repeat(None)
_MAX_LAYOUTS: Final = 64
_BUFFER_BYTES: Final = 1 << 17
# A multiple of the modulus above every sum that occurs, so that differences stay positive.
_ABOVE: Final = MODULUS << 44
_SEQUENCES: Final = 1 << 32


class Sealed(NamedTuple):
    """Datagrams of ``segment`` bytes each, the last maybe shorter, valid until the next."""

    datagrams: memoryview
    segment: int
    packets: int


class Superpacket(NamedTuple):
    """Where things are in an unsegmented packet. ``start`` is the transport header's."""

    version: int
    protocol: int
    start: int
    head_size: int
    gso_size: int


def recognise(header: VirtioHeader, packet: memoryview) -> Superpacket | None:
    """The superpacket that this is, if it is an ordinary one."""
    if len(packet) < 60 or not header.gso_size or not header.flags & NEEDS_CSUM:
        return None
    version = packet[0] >> 4
    if version == 4:
        # Without options, and not to be fragmented: then its number means nothing.
        if packet[0] != 0x45 or packet[6] != 0x40 or header.csum_start != 20:
            return None
        protocol, start = packet[9], 20
    elif version == 6 and header.csum_start == 40:
        protocol, start = packet[6], 40
    else:
        return None
    if header.gso_type == (GSO_TCPV4 if version == 4 else GSO_TCPV6) and protocol == TCP:
        head_size = start + (packet[start + 12] >> 4) * 4
        if head_size < start + 20:
            return None
    elif header.gso_type == GSO_UDP_L4 and protocol == UDP:
        head_size = start + 8
    else:
        return None
    if head_size + header.gso_size >= len(packet):
        return None
    return Superpacket(version, protocol, start, head_size, header.gso_size)


class BatchSealer:
    """Owns the buffer that datagrams are made in.

    Args:
        source: what superpackets are read into, at most 70,000 bytes.
        max_segments: UDP_MAX_SEGMENTS.
    """

    __slots__ = ("_layouts", "_max_segments", "_out", "_out_view", "_source", "_source_view")

    def __init__(self, source: bytearray, max_segments: int) -> None:
        self._source: Final = source
        self._source_view: Final = memoryview(source)
        self._out: Final = bytearray(_BUFFER_BYTES)
        self._out_view: Final = memoryview(self._out)
        self._max_segments: Final = max_segments
        self._layouts: dict[tuple[int, int, int, int], _Layout] = {}

    def seal(
        self, shape: Superpacket, at: int, size: int, keypair: Keypair, mtu: int, now: int
    ) -> Iterator[Sealed] | None:
        """Cut and seal the packet of ``size`` bytes at ``at`` in the source buffer.

        Returns:
            what to send, one after the other; None when this has to go the plain way.
        """
        layout = self._layout(shape, mtu)
        payload = size - shape.head_size
        full, rest = divmod(payload, shape.gso_size)
        if layout is None:
            return None
        if shape.protocol == TCP:
            sequence = int.from_bytes(
                self._source_view[at + shape.start + 4 : at + shape.start + 8], "big"
            )
            if sequence + payload >= _SEQUENCES:
                return None
        counter = keypair.reserve(full + (rest > 0), now)
        if counter == EXHAUSTED:
            return None
        return self._seal(shape, layout, at, size, keypair, counter, mtu)

    def _seal(
        self,
        shape: Superpacket,
        layout: _Layout,
        at: int,
        size: int,
        keypair: Keypair,
        counter: int,
        mtu: int,
    ) -> Iterator[Sealed]:
        head = _Head(shape, self._source_view[at : at + shape.head_size], size)
        at += shape.head_size
        end = at + size - shape.head_size
        gso_size = shape.gso_size
        index = 0
        while at + gso_size <= end:
            count = min(layout.room, (end - at) // gso_size)
            finished = at + count * gso_size
            views = layout.views(count, at)
            views.fill(head, keypair.header, counter, index, last=finished == end)
            deque(map(keypair.seal, views.nonces, views.plains, _NONE, views.sealed), 0)
            counter += count
            index += count
            at = finished
            filled = count * layout.stride
            if at < end < at + gso_size and count < self._max_segments:
                more = self._tail_size(head, end - at, mtu)
                if filled + more <= MAX_UDP_PAYLOAD:
                    self._seal_tail(head, at, end, filled, keypair, counter, index, mtu)
                    at = end
                    count += 1
                    filled += more
            yield Sealed(self._out_view[:filled], layout.stride, count)
        if at < end:
            filled = self._seal_tail(head, at, end, 0, keypair, counter, index, mtu)
            yield Sealed(self._out_view[:filled], filled, 1)

    def _tail_size(self, head: _Head, payload: int, mtu: int) -> int:
        return padded_size(head.size + payload, mtu) + TRANSPORT_OVERHEAD

    def _seal_tail(
        self,
        head: _Head,
        at: int,
        end: int,
        to: int,
        keypair: Keypair,
        counter: int,
        index: int,
        mtu: int,
    ) -> int:
        """The last segment, which is shorter. Returns the datagram's size."""
        out = self._out
        payload = self._source_view[at:end]
        plain = head.segment(payload, index)
        size = padded_size(len(plain), mtu)
        first = to + TRANSPORT_HEADER_SIZE
        number = counter.to_bytes(8, "little")
        out[to:first] = keypair.header + number
        out[first : first + size] = plain + bytes(size - len(plain))
        keypair.seal(
            b"\0\0\0\0" + number,
            self._out_view[first : first + size],
            None,
            self._out_view[first : first + size + TAG_SIZE],
        )
        return size + TRANSPORT_OVERHEAD

    def _layout(self, shape: Superpacket, mtu: int) -> _Layout | None:
        key = (shape.start, shape.head_size, shape.gso_size, mtu)
        layout = self._layouts.get(key)
        if layout is None:
            plain = padded_size(shape.head_size + shape.gso_size, mtu)
            if plain + TRANSPORT_OVERHEAD > MAX_UDP_PAYLOAD:
                return None
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[key] = _Layout(
                shape, plain, self._source, self._out, self._max_segments
            )
        return layout


class _Head:
    """The headers of a superpacket, made into what all its segments share.

    ``template`` has zeros where segments differ: sequence number and checksum. ``base``
    is the sum of everything in it that a full segment's transport checksum covers.
    """

    __slots__ = ("base", "first_flags", "last_flags", "pseudo", "sequence", "shape", "template")

    def __init__(self, shape: Superpacket, head: memoryview, size: int) -> None:
        self.shape: Final = shape
        start = shape.start
        template = self.template = bytearray(head)
        segment = shape.head_size + shape.gso_size
        if shape.protocol == TCP:
            field = start + TCP_CHECKSUM_OFFSET
            flags = template[start + 13]
            self.first_flags = flags & CWR
            self.last_flags = flags & (FIN | PSH)
            template[start + 13] = flags & ~(CWR | FIN | PSH)
            self.sequence = int.from_bytes(template[start + 4 : start + 8], "big")
            template[start + 4 : start + 8] = b"\0\0\0\0"
        else:
            field = start + UDP_CHECKSUM_OFFSET
            self.first_flags = self.last_flags = self.sequence = 0
        # The field holds the pseudo header's sum with the length of the whole.
        self.pseudo = (template[field] << 8 | template[field + 1]) - (size - start)
        template[field] = template[field + 1] = 0
        self._fit(template, segment)
        self.base = (self.pseudo + segment - start + word_sum(template[start:])) % MODULUS

    @property
    def size(self) -> int:
        """Bytes of all headers."""
        return self.shape.head_size

    def segment(self, payload: memoryview, index: int) -> bytearray:
        """The last segment as a whole packet: ``index`` full ones are before it."""
        start, protocol = self.shape.start, self.shape.protocol
        packet = bytearray(self.template)
        length = len(packet) - start + len(payload)
        self._fit(packet, start + length)
        if protocol == TCP:
            field = start + TCP_CHECKSUM_OFFSET
            sequence = self.sequence + index * self.shape.gso_size
            packet[start + 4 : start + 8] = sequence.to_bytes(4, "big")
            packet[start + 13] |= self.last_flags
        else:
            field = start + UDP_CHECKSUM_OFFSET
        total = self.pseudo + length + word_sum(packet[start:]) + word_sum(payload)
        checksum = complement(total)
        if protocol == UDP:
            checksum = checksum or MODULUS
        packet[field : field + 2] = checksum.to_bytes(2, "big")
        packet += payload
        return packet

    def _fit(self, head: bytearray, size: int) -> None:
        """Lengths, and the IPv4 header's checksum, of a segment of ``size`` bytes."""
        start = self.shape.start
        if start == 20:
            head[2:4] = size.to_bytes(2, "big")
            head[10:12] = b"\0\0"
            head[10:12] = complement(word_sum(head[:20])).to_bytes(2, "big")
        else:
            head[4:6] = (size - 40).to_bytes(2, "big")
        if self.shape.protocol == UDP:
            head[start + 4 : start + 6] = (size - start).to_bytes(2, "big")


class _Layout:
    """Where the segments of one shape of superpacket lie: ``stride`` bytes apart."""

    __slots__ = ("_by_count", "out", "plain", "room", "shape", "source", "stride")

    def __init__(
        self,
        shape: Superpacket,
        plain: int,
        source: bytearray,
        out: bytearray,
        max_segments: int,
    ) -> None:
        self.shape: Final = shape
        self.plain: Final = plain
        self.source: Final = source
        self.out: Final = out
        self.stride: Final = plain + TRANSPORT_OVERHEAD
        self.room: Final = max(1, min(max_segments, MAX_UDP_PAYLOAD // self.stride))
        self._by_count: dict[tuple[int, int], _Views] = {}

    def views(self, count: int, at: int) -> _Views:
        """Ready-made views for ``count`` segments with payload from ``at`` on."""
        key = count, at
        views = self._by_count.get(key)
        if views is None:
            if len(self._by_count) >= 2 * self.room:
                self._by_count.clear()
            views = self._by_count[key] = _Views(self, count, at)
        return views


class _Views:
    """``count`` segments in the output buffer, by column for numpy, by row for the cipher."""

    __slots__ = (
        "_checksums",
        "_counters",
        "_counters_out",
        "_first_flags",
        "_heads",
        "_index",
        "_last_flags",
        "_odd",
        "_offsets",
        "_out",
        "_padding",
        "_payload",
        "_payload_out",
        "_sequences",
        "_shape",
        "_sums",
        "_words",
        "nonces",
        "plains",
        "sealed",
    )

    def __init__(self, layout: _Layout, count: int, at: int) -> None:
        shape, stride, out, source = layout.shape, layout.stride, layout.out, layout.source
        head_size, gso_size, start = shape.head_size, shape.gso_size, shape.start
        first = TRANSPORT_HEADER_SIZE
        ends = first + head_size + gso_size
        self._shape = shape
        self._out = out

        view = memoryview(out)
        rows = range(0, count * stride, stride)
        self.plains = [view[row + first : row + first + layout.plain] for row in rows]
        self.sealed = [view[row + first : row + stride] for row in rows]
        numbers = bytearray(16 * count)
        number_view = memoryview(numbers)
        # Four zero bytes, then the counter.
        self.nonces = [number_view[16 * i + 4 : 16 * i + 16] for i in range(count)]

        def column(dtype: str, offset: int) -> Array:
            made: Array = np.ndarray((count,), dtype, out, offset, (stride,))
            return made

        def rectangle(offset: int, width: int) -> Array:
            made: Array = np.ndarray((count, width), np.uint8, out, offset, (stride, 1))
            return made

        self._counters = np.ndarray((count,), "<u8", numbers, 8, (16,))
        self._counters_out = column("<u8", 8)
        self._index = np.arange(count, dtype=np.uint64)
        self._heads = rectangle(0, first + head_size)
        self._payload = np.ndarray((count, gso_size), np.uint8, source, at)
        self._payload_out = rectangle(first + head_size, gso_size)
        padding = first + layout.plain - ends
        self._padding = rectangle(ends, padding) if padding else None
        even = gso_size & ~1
        if gso_size % 4 == 0 and at % 4 == 0:
            self._words = np.ndarray((count, gso_size // 4), "<u4", source, at)
        else:
            self._words = np.ndarray((count, even // 2), "<u2", source, at, (gso_size, 2))
        self._odd = self._payload[:, -1] if gso_size & 1 else None
        self._sums = np.zeros(count, np.uint64)
        transport = first + start
        self._sequences: Array | None = None
        self._offsets = self._index * np.uint64(gso_size)
        if shape.protocol == TCP:
            self._sequences = column(">u4", transport + 4)
            self._checksums = column("<u2", transport + TCP_CHECKSUM_OFFSET)
        else:
            self._checksums = column("<u2", transport + UDP_CHECKSUM_OFFSET)
        self._first_flags = transport + 13
        self._last_flags = (count - 1) * stride + transport + 13

    def fill(self, head: _Head, header: bytes, counter: int, index: int, *, last: bool) -> None:
        """Write everything but the ciphertext.

        Args:
            header: type and receiver index, as all datagrams begin.
            counter: of the first of them.
            index: of the first segment within its superpacket.
            last: whether the superpacket ends with these segments.
        """
        sums = self._sums
        np.add(self._index, counter, out=self._counters)
        self._heads[...] = np.frombuffer(header + bytes(8) + head.template, np.uint8)
        self._counters_out[...] = self._counters
        self._payload_out[...] = self._payload
        if self._padding is not None:
            self._padding[...] = 0

        # In sums of little-endian words the number n of a big-endian one counts 256 n:
        # swapping the bytes of a word is that, modulo 65535.
        np.add.reduce(self._words, axis=1, dtype=np.uint64, out=sums)
        if self._odd is not None:
            sums += self._odd
        total = head.base
        if self._sequences is not None:
            sequence = head.sequence + index * self._shape.gso_size
            total += sequence
            self._sequences[...] = self._offsets + sequence
            sums += self._offsets << _EIGHT
            if head.first_flags and not index:
                self._out[self._first_flags] |= head.first_flags
                sums[0] += np.uint64(head.first_flags << 8)
            if last and head.last_flags:
                self._out[self._last_flags] |= head.last_flags
                sums[-1] += np.uint64(head.last_flags << 8)
        np.subtract(_ABOVE - (total << 8), sums, out=sums)
        np.remainder(sums, MODULUS, out=sums)
        if self._sequences is None:
            sums[sums == 0] = MODULUS  # in UDP 0 means "no checksum"
        self._checksums[...] = sums


_EIGHT: Final = np.uint64(8)
