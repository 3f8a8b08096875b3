"""Decides which requests of peers are answered, and remembers what was answered to them.

A peer may ask ten times a second and all of them two thousand times; of each, one request is
under way at a time. An answer may get lost, so the last ones of a peer are kept and said again
when their request comes again: nothing is done twice. Whoever asks too much is not answered
at all, and costs a look into a table.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from nvpn.channel.drops import ChannelDrop
from nvpn.channel.frames import FrameKind, cut
from nvpn.channel.messages import Failure, FailureCode
from nvpn.channel.schema import MalformedMessage, Message, decode, encode
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.wire.token_bucket import TokenBucket

ANSWERS_A_PEER: Final = 2
ANSWER_LIFE: Final = 60 * SECOND
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024

_A_PEER: Final = TokenBucket(interval=SECOND // 10, burst=20)
_ALL: Final = TokenBucket(interval=SECOND // 2000, burst=2000)


@dataclass(slots=True)
class _Kept:
    id: bytes
    datagrams: tuple[bytes, ...]
    size: int


@dataclass(slots=True)
class _Asker:
    """A peer that asked lately."""

    full_again: int = 0
    under_way: bytes | None = None
    answers: deque[_Kept] = field(default_factory=deque)
    heard_at: int = 0


class Responder:
    """What peers asked of a node lately; pure over ``now``, in nanoseconds.

    Args:
        max_answer_bytes: of all answers that are kept.
    """

    def __init__(self, *, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_answer_bytes = max_answer_bytes
        # Who asked longest ago first. Everybody in it asked within ANSWER_LIFE, or waits.
        self._askers: OrderedDict[PublicKey, _Asker] = OrderedDict()
        self._all_full_again = 0
        self._kept_bytes = 0
        self._datagrams: list[tuple[PublicKey, bytes]] = []
        self._drops: Counter[ChannelDrop] = Counter()

    @property
    def kept_bytes(self) -> int:
        """Of all answers that are kept now."""
        return self._kept_bytes

    def __len__(self) -> int:
        return len(self._askers)

    def drops(self) -> Mapping[ChannelDrop, int]:
        """What was dropped here, by reason."""
        return self._drops

    def receive(self, peer: PublicKey, message_id: bytes, body: bytes, now: int) -> Message | None:
        """The request, if it is to be served: then :meth:`answer` or :meth:`give_up` follows."""
        asker = self._admit(peer, now)
        if asker is None:
            return None
        for kept in asker.answers:
            if kept.id == message_id:
                self._datagrams += ((peer, datagram) for datagram in kept.datagrams)
                return None
        if asker.under_way is not None:
            if asker.under_way != message_id:
                self._drops[ChannelDrop.UNDER_WAY] += 1
            return None
        try:
            request = decode(body)
        except MalformedMessage:
            # Whoever asks in words of a later version need not ask five times.
            self._drops[ChannelDrop.MALFORMED] += 1
            self._keep(peer, asker, message_id, _NOT_UNDERSTOOD, now)
            return None
        asker.under_way = message_id
        return request

    def receive_notice(self, peer: PublicKey, body: bytes, now: int) -> Message | None:
        """What a peer tells without asking anything; it counts as a request does."""
        if self._admit(peer, now) is None:
            return None
        try:
            return decode(body)
        except MalformedMessage:
            self._drops[ChannelDrop.MALFORMED] += 1
            return None

    def answer(self, peer: PublicKey, message_id: bytes, answer: Message, now: int) -> None:
        """What is said to the request that is under way; too late, or unknown: nothing.

        Raises:
            ValueError: the answer is out of the bounds of its schema; the request stays
                under way.
        """
        asker = self._askers.get(peer)
        if asker is None or asker.under_way != message_id:
            return
        body = encode(answer)
        asker.under_way = None
        self._keep(peer, asker, message_id, body, now)

    def give_up(self, peer: PublicKey, message_id: bytes) -> None:
        """There will be no answer; if it comes again it is served anew."""
        asker = self._askers.get(peer)
        if asker is not None and asker.under_way == message_id:
            asker.under_way = None

    def forget(self, peer: PublicKey) -> None:
        """The peer is gone."""
        asker = self._askers.pop(peer, None)
        if asker is not None:
            self._kept_bytes -= sum(kept.size for kept in asker.answers)

    def take_datagrams(self) -> list[tuple[PublicKey, bytes]]:
        """What is to be sent, to whom."""
        taken, self._datagrams = self._datagrams, []
        return taken

    def _admit(self, peer: PublicKey, now: int) -> _Asker | None:
        self._forget_old(now)
        asker = self._askers.get(peer) or _Asker()
        full_again = _A_PEER.take(asker.full_again, now)
        all_full_again = _ALL.take(self._all_full_again, now)
        if full_again is None or all_full_again is None:
            self._drops[ChannelDrop.RATE_LIMITED] += 1
            return None
        asker.full_again, self._all_full_again = full_again, all_full_again
        asker.heard_at = now
        self._askers[peer] = asker
        self._askers.move_to_end(peer)
        return asker

    def _keep(
        self, peer: PublicKey, asker: _Asker, message_id: bytes, body: bytes, now: int
    ) -> None:
        datagrams = cut(FrameKind.RESPONSE, message_id, body)
        self._datagrams += ((peer, datagram) for datagram in datagrams)
        kept = _Kept(message_id, datagrams, sum(map(len, datagrams)))
        asker.answers.append(kept)
        self._kept_bytes += kept.size
        if len(asker.answers) > ANSWERS_A_PEER:
            self._kept_bytes -= asker.answers.popleft().size
        while self._kept_bytes > self._max_answer_bytes:
            self._forget_oldest(now)

    def _forget_old(self, now: int) -> None:
        while self._askers:
            oldest = next(iter(self._askers.values()))
            if now - oldest.heard_at < ANSWER_LIFE:
                return
            self._forget_oldest(now)

    def _forget_oldest(self, now: int) -> None:
        peer, oldest = next(iter(self._askers.items()))
        self.forget(peer)
        if oldest.under_way is not None:
            # Its answer is still to come, and it is the daemon that bounds how long.
            oldest.answers.clear()
            oldest.heard_at = now
            self._askers[peer] = oldest


_NOT_UNDERSTOOD: Final = encode(
    Failure(FailureCode.UNKNOWN_REQUEST, "this request is not understood here")
)
