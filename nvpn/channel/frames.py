"""Cuts messages into datagrams that fit through any tunnel, and joins them again.

Twelve bytes stand before each piece: version, kind, number of the part, number of parts, and
an id of 8 bytes, which an answer has from its request. Peers are many and may be hostile, so
what is unfinished is bounded: one message a peer, for some seconds, and a number of all.
"""

from __future__ import annotations

import enum
import struct
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from nvpn.channel.drops import ChannelDrop
from nvpn.channel.schema import MAX_BODY
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey

VERSION: Final = 1
ID_BYTES: Final = 8
MAX_PIECE: Final = 1180
"""Bytes of a message in one datagram: with the headers of frame, UDP and IPv6 less than 1280."""
MAX_PARTS: Final = 8
MAX_UNFINISHED: Final = 512
"""Messages of which parts are missing, of all peers: 4 MiB."""
PATIENCE: Final = 5 * SECOND
"""How long missing parts are waited for."""

_HEADER: Final = struct.Struct("!BBBB8s")
MAX_DATAGRAM: Final = _HEADER.size + MAX_PIECE


class FrameKind(enum.IntEnum):
    """What a message is for."""

    REQUEST = 1
    RESPONSE = 2
    NOTICE = 3


class Frame(NamedTuple):
    """A whole message as it came."""

    kind: FrameKind
    id: bytes
    body: bytes


def cut(kind: FrameKind, message_id: bytes, body: bytes) -> tuple[bytes, ...]:
    """The datagrams of a message of at most MAX_BODY bytes; ``message_id`` has ID_BYTES."""
    assert len(body) <= MAX_BODY
    parts = max(1, -(-len(body) // MAX_PIECE))
    return tuple(
        _HEADER.pack(VERSION, kind, part, parts, message_id)
        + body[part * MAX_PIECE : (part + 1) * MAX_PIECE]
        for part in range(parts)
    )


@dataclass(slots=True)
class _Unfinished:
    kind: int
    id: bytes
    pieces: list[bytes | None]
    begun_at: int


class Reassembler:
    """Joins what peers send."""

    def __init__(self) -> None:
        # The oldest first.
        self._unfinished: OrderedDict[PublicKey, _Unfinished] = OrderedDict()
        self._drops: Counter[ChannelDrop] = Counter()

    def __len__(self) -> int:
        return len(self._unfinished)

    def drops(self) -> Mapping[ChannelDrop, int]:
        """What was dropped here, by reason."""
        return self._drops

    def receive(self, peer: PublicKey, datagram: bytes, now: int) -> Frame | None:
        """The message that this datagram completes. ``now``: monotonic nanoseconds."""
        self._forget_old(now)
        reason = _fault(datagram)
        if reason is not None:
            self._drops[reason] += 1
            return None
        _, kind, part, parts, message_id = _HEADER.unpack_from(datagram)
        body: bytes | None = datagram[_HEADER.size :]
        if parts > 1:
            assert body is not None
            body = self._join(peer, kind, message_id, part, parts, body, now)
        if body is None:
            return None
        if len(body) > MAX_BODY:
            self._drops[ChannelDrop.MALFORMED] += 1
            return None
        return Frame(FrameKind(kind), message_id, body)

    def _join(
        self,
        peer: PublicKey,
        kind: int,
        message_id: bytes,
        part: int,
        parts: int,
        piece: bytes,
        now: int,
    ) -> bytes | None:
        known = self._unfinished.get(peer)
        if known is None or (known.kind, known.id, len(known.pieces)) != (kind, message_id, parts):
            if known is not None:
                del self._unfinished[peer]
                self._drops[ChannelDrop.UNFINISHED] += 1
            elif len(self._unfinished) >= MAX_UNFINISHED:
                self._unfinished.popitem(last=False)
                self._drops[ChannelDrop.UNFINISHED] += 1
            known = _Unfinished(kind, message_id, [None] * parts, now)
            self._unfinished[peer] = known
        # The first stays: a part that comes again is a copy of it.
        if known.pieces[part] is None:
            known.pieces[part] = piece
        pieces = [each for each in known.pieces if each is not None]
        if len(pieces) < parts:
            return None
        del self._unfinished[peer]
        return b"".join(pieces)

    def _forget_old(self, now: int) -> None:
        while self._unfinished:
            peer, oldest = next(iter(self._unfinished.items()))
            if now - oldest.begun_at < PATIENCE:
                return
            del self._unfinished[peer]
            self._drops[ChannelDrop.UNFINISHED] += 1


def _fault(datagram: bytes) -> ChannelDrop | None:
    if not _HEADER.size <= len(datagram) <= MAX_DATAGRAM:
        return ChannelDrop.MALFORMED
    version, kind, part, parts, _ = _HEADER.unpack_from(datagram)
    if version != VERSION:
        return ChannelDrop.OTHER_VERSION
    if not FrameKind.REQUEST <= kind <= FrameKind.NOTICE or not part < parts <= MAX_PARTS:
        return ChannelDrop.MALFORMED
    return None
