"""Where the segments of a superpacket lie once they are datagrams, and what fills them.

A TCP or UDP packet of up to 64 KiB is cut straight into what one UDP_SEGMENT send
wants, [header | segment | tag] again and again: numpy fills the columns in which the
segments differ, then each is sealed where it lies.

The style gives way to speed here: views are made once per layout and kept, and numpy is
called as few times as possible, for each call costs as much as 40 bytes of cipher.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from itertools import repeat
from typing import Any, Final, NamedTuple

import numpy as np

from nvpn.datapath.checksum import MODULUS, complement, word_sum
from nvpn.datapath.inner import padded_size
from nvpn.datapath.keypairs import Keypair
from nvpn.datapath.offloads import (
    CWR,
    FIN,
    MAX_UDP_PAYLOAD,
    PSH,
    TCP,
    TCP_CHECKSUM_OFFSET,
    UDP,
    UDP_CHECKSUM_OFFSET,
)
from nvpn.wire.constants import TAG_SIZE, TRANSPORT_HEADER_SIZE, TRANSPORT_OVERHEAD

Array = np.ndarray[Any, Any]

_NONE: Final = repeat(None)
# A multiple of the modulus above every sum that occurs, so that differences stay positive.
_ABOVE: Final = MODULUS << 44
_SEQUENCES: Final = 1 << 32
_FIRST: Final = TRANSPORT_HEADER_SIZE
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")


class Sealed(NamedTuple):
    """Datagrams of ``segment`` bytes each, the last maybe shorter, valid until the next."""

    datagrams: memoryview
    segment: int
    packets: int


class Shape(NamedTuple):
    """Of a superpacket; ``start`` is where its transport header begins."""

    protocol: int
    start: int
    head_size: int
    gso_size: int


class Layout:
    """Where the segments of one shape of superpacket lie, and what they share.

    ``prepare`` takes the headers apart: ``_template`` becomes what all datagrams begin
    with, with zeros where they differ (counter, sequence number, checksum), and
    ``_base`` the sum of everything in it that a full segment's checksum covers.
    """

    __slots__ = (
        "_base",
        "_by_count",
        "_first_flags",
        "_last_flags",
        "_mtu",
        "_out",
        "_plain",
        "_pseudo",
        "_room",
        "_sequence",
        "_source",
        "_stride",
        "_template",
        "_template_array",
        "gso_size",
        "head_size",
        "max_segments",
        "shape",
    )

    def __init__(
        self, shape: Shape, mtu: int, source: bytearray, out: bytearray, max_segments: int
    ) -> None:
        self.shape: Final = shape
        self.head_size: Final = shape.head_size
        self.gso_size: Final = shape.gso_size
        self.max_segments: Final = max_segments
        self._mtu: Final = mtu
        self._source: Final = source
        self._out: Final = out
        self._plain: Final = padded_size(shape.head_size + shape.gso_size, mtu)
        self._stride: Final = self._plain + TRANSPORT_OVERHEAD
        self._room: Final = max(1, min(max_segments, MAX_UDP_PAYLOAD // self._stride))
        self._by_count: dict[tuple[int, int], _Views] = {}
        self._template: Final = bytearray(TRANSPORT_HEADER_SIZE + shape.head_size)
        self._template_array: Array = np.frombuffer(self._template, np.uint8)
        self._base = self._pseudo = self._sequence = 0
        self._first_flags = self._last_flags = 0

    def prepare(self, packet: memoryview, size: int, header: bytes) -> bool:
        """Take the headers apart; False if the sequence number would overflow on the way.

        Args:
            packet: the superpacket, of ``size`` bytes.
            header: type and receiver index, as all datagrams begin.
        """
        protocol, start, head_size, gso_size = self.shape
        template = self._template
        template[:8] = header
        template[_FIRST:] = packet[:head_size]
        transport = _FIRST + start
        if protocol == TCP:
            field = transport + TCP_CHECKSUM_OFFSET
            flags = template[transport + 13]
            self._first_flags = flags & CWR
            self._last_flags = flags & (FIN | PSH)
            template[transport + 13] = flags & ~(CWR | FIN | PSH)
            sequence = self._sequence = _U32.unpack_from(template, transport + 4)[0]
            if sequence + size >= _SEQUENCES:
                return False
            _U32.pack_into(template, transport + 4, 0)
        else:
            field = transport + UDP_CHECKSUM_OFFSET
        # The field holds the pseudo header's sum with the length of the whole.
        self._pseudo = _U16.unpack_from(template, field)[0] - (size - start)
        _U16.pack_into(template, field, 0)
        length = head_size - start + gso_size
        self._fit(template, _FIRST, start + length)
        self._base = (self._pseudo + length + word_sum(template[transport:])) % MODULUS
        return True

    def seal(
        self, at: int, full: int, rest: int, keypair: Keypair, counter: int
    ) -> Iterator[Sealed]:
        """Make the datagrams of ``full`` segments and one of ``rest`` bytes if that is not 0."""
        gso_size, stride = self.gso_size, self._stride
        at += self.head_size
        done = 0
        while done < full:
            count = min(self._room, full - done)
            views = self._views(count, at)
            self._fill(views, counter, done, last=not rest and done + count == full)
            deque(map(keypair.seal, views.nonces, views.plains, _NONE, views.sealed), 0)
            counter += count
            done += count
            at += count * gso_size
            filled = count * stride
            if rest and done == full and count < self.max_segments:
                more = padded_size(self.head_size + rest, self._mtu) + TRANSPORT_OVERHEAD
                if filled + more <= MAX_UDP_PAYLOAD:
                    self._seal_tail(at, rest, full, filled, keypair, counter)
                    filled += more
                    count += 1
                    rest = 0
            yield Sealed(memoryview(self._out)[:filled], stride, count)
        if rest:
            filled = self._seal_tail(at, rest, full, 0, keypair, counter)
            yield Sealed(memoryview(self._out)[:filled], filled, 1)

    def _views(self, count: int, at: int) -> _Views:
        """Ready-made views for ``count`` segments with payload from ``at`` on."""
        key = count, at
        views = self._by_count.get(key)
        if views is None:
            if len(self._by_count) >= 2 * self._room:
                self._by_count.clear()
            views = self._by_count[key] = _Views(
                self.shape, self._plain, self._stride, self._source, self._out, count, at
            )
        return views

    def _fill(self, views: _Views, counter: int, index: int, *, last: bool) -> None:
        """Write everything but the ciphertext.

        Args:
            counter: of the first of the datagrams.
            index: of the first segment within its superpacket.
            last: whether the superpacket ends with these segments.
        """
        sums = views.sums
        np.add(views.index, counter, out=views.counters)
        views.heads[...] = self._template_array
        views.counters_out[...] = views.counters
        # In sums of little-endian words the number n of a big-endian one counts 256 n:
        # swapping the bytes of a word is that, modulo 65535.
        np.add.reduce(views.words, axis=1, dtype=np.uint64, out=sums)
        views.payload_out[...] = views.payload
        if views.padding is not None:
            views.padding[...] = 0
        if views.odd is not None:
            np.add(sums, views.odd, out=sums)
        total = self._base
        if views.sequences is not None:
            sequence = self._sequence + index * self.gso_size
            total += sequence
            np.add(views.offsets, sequence, out=views.scratch)
            views.sequences[...] = views.scratch
            if self._first_flags and not index:
                self._out[views.first_flags] |= self._first_flags
                sums[0] += np.uint64(self._first_flags << 8)
            if last and self._last_flags:
                self._out[views.last_flags] |= self._last_flags
                sums[-1] += np.uint64(self._last_flags << 8)
        np.subtract(views.above, sums, out=sums)
        np.subtract(sums, total << 8, out=sums)
        np.remainder(sums, MODULUS, out=sums)
        if views.sequences is None:
            sums[sums == 0] = MODULUS  # in UDP 0 means "no checksum"
        views.checksums[...] = sums

    def _seal_tail(
        self, at: int, size: int, index: int, to: int, keypair: Keypair, counter: int
    ) -> int:
        """The last segment, which is shorter. Returns the datagram's size."""
        protocol, start = self.shape.protocol, self.shape.start
        out, first = self._out, to + _FIRST
        length = self.head_size - start + size
        plain = start + length
        padded = padded_size(plain, self._mtu)
        payload = memoryview(self._source)[at : at + size]
        out[to:first] = self._template[:8] + counter.to_bytes(8, "little")
        out[first : first + self.head_size] = self._template[_FIRST:]
        out[first + self.head_size : first + padded] = bytes(payload) + bytes(padded - plain)
        self._fit(out, first, plain)
        transport = first + start
        if protocol == TCP:
            field = transport + TCP_CHECKSUM_OFFSET
            _U32.pack_into(out, transport + 4, self._sequence + index * self.gso_size)
            out[transport + 13] |= self._last_flags
        else:
            field = transport + UDP_CHECKSUM_OFFSET
        checksum = complement(
            self._pseudo
            + length
            + word_sum(out[transport : first + self.head_size])
            + word_sum(payload)
        )
        _U16.pack_into(out, field, checksum or (MODULUS if protocol == UDP else 0))
        body = memoryview(out)[first : first + padded + TAG_SIZE]
        nonce = b"\0\0\0\0" + out[to + 8 : first]
        keypair.seal(nonce, body[:padded], None, body)
        return padded + TRANSPORT_OVERHEAD

    def _fit(self, head: bytearray, at: int, size: int) -> None:
        """Lengths, and the IPv4 header's checksum, of a segment of ``size`` bytes."""
        start = self.shape.start
        if start == 20:
            _U16.pack_into(head, at + 2, size)
            _U16.pack_into(head, at + 10, 0)
            _U16.pack_into(head, at + 10, complement(word_sum(head[at : at + 20])))
        else:
            _U16.pack_into(head, at + 4, size - 40)
        if self.shape.protocol == UDP:
            _U16.pack_into(head, at + start + 4, size - start)


class _Views:
    """``count`` segments in the output buffer, by column for numpy, by row for the cipher."""

    __slots__ = (
        "above",
        "checksums",
        "counters",
        "counters_out",
        "first_flags",
        "heads",
        "index",
        "last_flags",
        "nonces",
        "odd",
        "offsets",
        "padding",
        "payload",
        "payload_out",
        "plains",
        "scratch",
        "sealed",
        "sequences",
        "sums",
        "words",
    )

    def __init__(
        self,
        shape: Shape,
        plain: int,
        stride: int,
        source: bytearray,
        out: bytearray,
        count: int,
        at: int,
    ) -> None:
        protocol, start, head_size, gso_size = shape
        view = memoryview(out)
        rows = range(0, count * stride, stride)
        self.plains = [view[row + _FIRST : row + _FIRST + plain] for row in rows]
        self.sealed = [view[row + _FIRST : row + stride] for row in rows]
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

        self.counters: Array = np.ndarray((count,), "<u8", numbers, 8, (16,))
        self.counters_out = column("<u8", 8)
        self.index: Array = np.arange(count, dtype=np.uint64)
        self.heads = rectangle(0, _FIRST + head_size)
        self.payload: Array = np.ndarray((count, gso_size), np.uint8, source, at)
        self.payload_out = rectangle(_FIRST + head_size, gso_size)
        ends = head_size + gso_size
        self.padding = rectangle(_FIRST + ends, plain - ends) if plain > ends else None
        self.words: Array
        if gso_size % 4 == 0 and at % 4 == 0:
            self.words = np.ndarray((count, gso_size // 4), "<u4", source, at)
        else:
            self.words = np.ndarray((count, gso_size // 2), "<u2", source, at, (gso_size, 2))
        self.odd = self.payload[:, -1] if gso_size & 1 else None
        self.sums: Array = np.zeros(count, np.uint64)
        self.offsets: Array = self.index * np.uint64(gso_size)
        self.scratch: Array = np.zeros(count, np.uint64)
        transport = _FIRST + start
        self.sequences: Array | None = None
        if protocol == TCP:
            self.above: Array = np.uint64(_ABOVE) - (self.offsets << np.uint64(8))
            self.sequences = column(">u4", transport + 4)
            self.checksums = column("<u2", transport + TCP_CHECKSUM_OFFSET)
        else:
            self.above = np.full(count, _ABOVE, np.uint64)
            self.checksums = column("<u2", transport + UDP_CHECKSUM_OFFSET)
        self.first_flags = transport + 13
        self.last_flags = (count - 1) * stride + transport + 13
