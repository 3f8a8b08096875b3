"""Merged datagrams from one peer to one packet for the TUN device, without a loop over them.

What UDP_GRO brings in one read is usually what one UDP_SEGMENT send of the peer was: 45
datagrams under one key with consecutive counters, and inside them one TCP flow. Each is
opened by the cipher; everything else is asked of all of them at once.

Nothing is decided here that ``Core`` would decide otherwise: what is not the common case
goes back to it, as it came. ``tests/datapath/python/test_batches.py`` compares the two.

The style gives way to speed here, as in :mod:`nvpn.datapath.python.sealing`.
"""

from __future__ import annotations

import struct
from itertools import pairwise, repeat
from typing import Any, Final

import numpy as np
from cryptography.exceptions import InvalidTag

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.checksum import MODULUS, word_sum
from nvpn.datapath.coalesce import (
    MAX_PACKET,
    MAX_UDP_SEGMENTS,
    TunWrite,
    finish_head,
    recognise_segment,
    virtio_header,
)
from nvpn.datapath.inner import ECN_MASK, ECT0, NOT_ECT, parse_inner
from nvpn.datapath.keypairs import Keypair
from nvpn.datapath.offloads import ACK, PSH, TCP, UDP
from nvpn.datapath.python.core import Core
from nvpn.datapath.python.peer import Peer
from nvpn.datapath.python.tun import TunPort
from nvpn.datapath.python.udp import Arrival
from nvpn.errors import DropReason
from nvpn.wire.constants import TAG_SIZE, TRANSPORT_HEADER_SIZE, TRANSPORT_OVERHEAD
from nvpn.wire.messages import MessageType

Array = np.ndarray[Any, Any]

MIN_BATCH: Final = 3
"""Fewer datagrams than this are as quick one by one."""

_HEADER: Final = struct.Struct("<II")
_NONE: Final = repeat(None)
_MAX_LAYOUTS: Final = 128
_MAX_TRAINS: Final = 8
_MAX_SEGMENTS: Final = 128
_SMALLEST: Final = TRANSPORT_OVERHEAD + 28  # an IPv4 header with a UDP header
_SEQUENCES: Final = 1 << 32


class BatchOpener:
    """Opens datagrams where they lie.

    Args:
        buffer: what datagrams are read into, 65,536 bytes.
    """

    __slots__ = ("_buffer", "_core", "_layouts", "_tun")

    def __init__(self, core: Core, tun: TunPort, buffer: bytearray) -> None:
        self._core: Final = core
        self._tun: Final = tun
        self._buffer: Final = buffer
        self._layouts: dict[tuple[int, int, int], _Views] = {}

    def open(self, arrival: Arrival, now: int) -> bool:
        """Take what arrived; False, and nothing done, if it has to go the plain way."""
        size, segment, endpoint, tos = arrival
        full, rest = divmod(size, segment)
        if full < MIN_BATCH or full > _MAX_SEGMENTS or segment < _SMALLEST:
            return False
        if 0 < rest < TRANSPORT_OVERHEAD:
            return False
        # Before anything is made for this shape: strangers could think of new ones for ever.
        kind, index = _HEADER.unpack_from(self._buffer)
        found = self._core.receivers.get(index)
        if kind != MessageType.TRANSPORT or found is None:
            return False
        views = self._views(segment, full, rest)
        headers = views.headers.tolist()
        count = len(headers)
        if headers.count(headers[0]) != count:
            return False
        peer, keypair = found
        counters = views.counters.tolist()
        if not keypair.may_receive_at(now) or not _may_accept(keypair, counters):
            return False
        views.number()
        core = self._core
        opened: list[int] = []
        try:
            opened.extend(map(keypair.open, views.nonces, views.sealed, _NONE, views.plains))
        except InvalidTag:
            self._take_up_to(len(opened), arrival, now, views, peer, keypair, counters)
            return True
        _accept(keypair, counters)
        core.note_authentic(peer, keypair, endpoint, now, size, count, data=True)
        if not self._deliver_merged(peer, views, tos, now):
            for plain in views.plains:
                if plain:
                    core.deliver(peer, bytearray(plain), tos, now)
        return True

    def _take_up_to(
        self,
        forged: int,
        arrival: Arrival,
        now: int,
        views: _Views,
        peer: Peer,
        keypair: Keypair,
        counters: list[int],
    ) -> None:
        """What is before a forged datagram is authentic; what is after is judged alone."""
        size, segment, endpoint, tos = arrival
        core = self._core
        if forged:
            _accept(keypair, counters[:forged])
            core.note_authentic(peer, keypair, endpoint, now, forged * segment, forged, data=True)
            for plain in views.plains[:forged]:
                core.deliver(peer, bytearray(plain), tos, now)
        core.drop(DropReason.BAD_TAG)
        buffer = memoryview(self._buffer)
        for start in range((forged + 1) * segment, size, segment):
            datagram = buffer[start : min(start + segment, size)]
            core.receive(datagram, endpoint, now, tos=tos)

    def _deliver_merged(self, peer: Peer, views: _Views, tos: int, now: int) -> bool:
        """Write the packets as one, if they are a flow that the device takes merged."""
        core, tun = self._core, self._tun
        first = views.plains[0]
        inner = parse_inner(first)
        # Outer marks of these kinds change nothing inside (RFC 6040, 4.2).
        if inner is None or tos & ECN_MASK not in (NOT_ECT, ECT0):
            return False
        version, length, source, _ = inner
        if core.routes.lookup(version, source) is not peer:
            return False
        train = views.train(version, length)
        if train is None or not (tun.tso if train.protocol == TCP else tun.uso):
            return False
        if not train.holds():
            return False
        pieces, packets, size = train.pieces, train.packets, train.size
        last = packets[-1]
        if views.rest:
            tail = _cut(views.plains[-1])
            if tail is None or not train.continues(tail):
                return False
            pieces = [*pieces, tail[train.head_size :]]
            packets = [*packets, tail]
            size += len(tail) - train.head_size
            last = tail
        if size > MAX_PACKET or (train.protocol == UDP and len(packets) > MAX_UDP_SEGMENTS):
            return False
        # They are alike in all that is asked here, and none of them begins or ends a flow.
        if core.passage.is_diverted(inner, packets[0]):
            return False
        if not core.lets_pass(peer, inner, packets[0], now, len(packets)):
            return True
        head = bytearray(first[: train.head_size])
        if train.protocol == TCP:
            head[train.flags_at] |= last[train.flags_at] & PSH
        finish_head(head, size)
        if not train.virtio:
            train.virtio = virtio_header(head, train.head_size, length - train.head_size)
        waiting = core.take_inner()
        if waiting:
            tun.write(waiting)
        tun.write_merged(TunWrite([train.virtio, head, *pieces], packets))
        return True

    def _views(self, segment: int, full: int, rest: int) -> _Views:
        key = segment, full, rest
        views = self._layouts.get(key)
        if views is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            views = self._layouts[key] = _Views(self._buffer, segment, full, rest)
        return views


def _may_accept(keypair: Keypair, counters: list[int]) -> bool:
    """Whether the replay window would take all of them, one after the other."""
    first, count = counters[0], len(counters)
    if counters == list(range(first, first + count)):
        return keypair.window.may_accept_run(first, count)
    # In rising order none can push another one out of the window.
    return all(a < b for a, b in pairwise(counters)) and all(
        map(keypair.window.may_accept, counters)
    )


def _accept(keypair: Keypair, counters: list[int]) -> None:
    first, count = counters[0], len(counters)
    if counters[-1] - first == count - 1:
        keypair.window.accept_run(first, count)
    else:
        for counter in counters:
            keypair.window.accept(counter)


def _cut(plain: memoryview) -> memoryview | None:
    """The packet at the beginning of a plaintext, without its padding."""
    inner = parse_inner(plain)
    return None if inner is None else plain[: inner.length]


class _Views:
    """Datagrams in the buffer, by column for numpy, by row for the cipher.

    ``full`` of ``segment`` bytes, then one of ``rest`` bytes unless that is 0.
    """

    __slots__ = (
        "_buffer",
        "_numbers",
        "_segment",
        "_trains",
        "counters",
        "full",
        "headers",
        "nonces",
        "plains",
        "rest",
        "sealed",
    )

    def __init__(self, buffer: bytearray, segment: int, full: int, rest: int) -> None:
        self.full: Final = full
        self.rest: Final = rest
        count = full + (rest > 0)
        sizes = [segment] * full + [rest] * (rest > 0)
        view = memoryview(buffer)
        self._buffer = buffer
        self._segment = segment
        first = TRANSPORT_HEADER_SIZE
        rows = [(i * segment + first, i * segment + size) for i, size in enumerate(sizes)]
        self.sealed = [view[start:end] for start, end in rows]
        self.plains = [view[start : end - TAG_SIZE] for start, end in rows]
        numbers = bytearray(16 * count)
        number_view = memoryview(numbers)
        # Four zero bytes, then the counter.
        self.nonces = [number_view[16 * i + 4 : 16 * i + 16] for i in range(count)]
        self._numbers: Array = np.ndarray((count,), "<u8", numbers, 8, (16,))
        self.headers: Array = np.ndarray((count,), "<u8", buffer, 0, (segment,))
        self.counters: Array = np.ndarray((count,), "<u8", buffer, 8, (segment,))
        self._trains: dict[tuple[int, int, int, int], _Train] = {}

    def number(self) -> None:
        """Make the nonces of what is in the buffer."""
        self._numbers[...] = self.counters

    def train(self, version: int, length: int) -> _Train | None:
        """Views of the full packets as segments of one flow, each of ``length`` bytes.

        None if the first is nothing that the kernel would merge.
        """
        first = self.plains[0]
        if version == 4:
            protocol, start = first[9], 20
            # No options, nobody may fragment it, and it is no fragment.
            if first[0] != 0x45 or first[6] != 0x40 or first[7]:
                return None
        else:
            protocol, start = first[6], 40
        if length < start + 8:
            return None
        if protocol == TCP:
            head_size = start + (first[start + 12] >> 4) * 4 if length > start + 20 else 0
            if head_size < start + 20 or first[start + 12] & 0x0F or first[start + 13] != ACK:
                return None
        elif protocol == UDP:
            head_size = start + 8
            if (first[start + 4] << 8 | first[start + 5]) != length - start:
                return None
            if not (first[start + 6] or first[start + 7]):
                return None  # no checksum, which a merged packet could not say
        else:
            return None
        if length <= head_size:
            return None
        key = protocol, version, head_size, length
        train = self._trains.get(key)
        if train is None:
            if len(self._trains) >= _MAX_TRAINS:
                self._trains.clear()
            train = self._trains[key] = _Train(
                self._buffer,
                self.plains[: self.full],
                self._segment,
                protocol,
                start,
                head_size,
                length,
            )
        return train


class _Train:
    """Opened packets of equal size that may be segments of one flow.

    ``pieces`` are their payloads, ``packets`` the whole of them, ``size`` that of the
    merged packet, ``virtio`` its header once it was made.
    """

    __slots__ = (
        "_alike",
        "_checksums",
        "_heads",
        "_numbers",
        "_payload",
        "_scratch",
        "_sequences",
        "_varying",
        "flags_at",
        "head_size",
        "packets",
        "pieces",
        "protocol",
        "size",
        "virtio",
    )

    def __init__(
        self,
        buffer: bytearray,
        plains: list[memoryview],
        stride: int,
        protocol: int,
        start: int,
        head_size: int,
        length: int,
    ) -> None:
        count, first = len(plains), TRANSPORT_HEADER_SIZE
        self.protocol: Final = protocol
        self.head_size: Final = head_size
        self.packets: Final[list[Bytes]] = [one[:length] for one in plains]
        self.pieces: Final[list[Bytes]] = [one[head_size:length] for one in plains]
        self.size: Final = head_size + count * (length - head_size)
        self.flags_at: Final = start + 13
        self.virtio = b""
        self._payload = length - head_size

        mask = np.full((count, head_size), 0xFF, np.uint8)
        self._sequences: Array | None = None
        if protocol == TCP:
            mask[:, start + 4 : start + 8] = mask[:, start + 16 : start + 18] = 0
            mask[-1, self.flags_at] = 0xFF & ~PSH
            self._sequences = np.ndarray((count,), ">u4", buffer, first + start + 4, (stride,))
        else:
            mask[:, start + 6 : start + 8] = 0
        # What must be equal if IPv4 packets all have one number, and if they count.
        self._alike: Array = mask.copy().view("<u4")
        self._numbers: Array | None = None
        self._checksums: Array | None = None
        if start == 20:
            mask[:, 4:6] = mask[:, 10:12] = 0
            self._numbers = np.ndarray((count,), "<u2", buffer, first + 4, (stride,))
            self._checksums = np.ndarray((count,), "<u2", buffer, first + 10, (stride,))
        self._varying: Array = mask.view("<u4")
        self._heads: Array = np.ndarray(self._alike.shape, "<u4", buffer, first, (stride, 4))
        self._scratch: Array = np.empty_like(self._alike)

    def holds(self) -> bool:
        """Whether they are: everything equal to the first that must be, none missing."""
        heads, scratch = self._heads, self._scratch
        first = self.packets[0]
        if self._sequences is not None:
            sequences = self._sequences.tolist()
            beyond = sequences[0] + len(sequences) * self._payload
            if beyond >= _SEQUENCES:
                return False
            if sequences != list(range(sequences[0], beyond, self._payload)):
                return False
        np.bitwise_xor(heads, heads[0], out=scratch)
        if self._numbers is None or self._checksums is None:
            return not np.count_nonzero(np.bitwise_and(scratch, self._alike, out=scratch))
        if word_sum(first[:20]):
            return False
        if not np.count_nonzero(scratch & self._alike):
            return True
        if np.count_nonzero(np.bitwise_and(scratch, self._varying, out=scratch)):
            return False
        # The first header's checksum is right, the rest of the others is equal: then
        # number and checksum must make the same sum.
        sums = np.add(self._numbers, self._checksums, dtype=np.uint32)
        np.remainder(sums, MODULUS, out=sums)
        return not np.count_nonzero(sums != sums[0])

    def continues(self, tail: memoryview) -> bool:
        """Whether a shorter packet may be the end of it."""
        is_tcp = self.protocol == TCP
        first = recognise_segment(self.packets[0], tso=is_tcp, uso=not is_tcp)
        end = recognise_segment(tail, tso=is_tcp, uso=not is_tcp)
        if first is None or end is None or end.flow != first.flow or end.alike != first.alike:
            return False
        if is_tcp and (
            self.packets[-1][self.flags_at] & PSH
            or end.sequence != first.sequence + len(self.pieces) * self._payload
        ):
            return False
        return 0 < end.payload <= self._payload
