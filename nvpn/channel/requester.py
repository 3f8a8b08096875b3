"""Asks peers, and asks again until they answer or it is to be given up.

A request that is repeated is the same datagrams under the same id, so that the other side can
tell; an answer counts only if it comes from whom it was asked of.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nvpn.channel.drops import ChannelDrop
from nvpn.channel.frames import ID_BYTES, FrameKind, cut
from nvpn.channel.messages import Failure
from nvpn.channel.schema import MalformedMessage, Message, Request, answer_of, decode, encode
from nvpn.errors import Unavailable
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.keys import PublicKey
from nvpn.resilience.backoff import Backoff
from nvpn.resilience.policy import RetryPolicy

CHANNEL_RETRY: Final = RetryPolicy(
    max_attempts=5, initial=500 * MILLISECOND, maximum=8 * SECOND, multiplier=2.0, jitter=0.25
)
"""Given up after 15.5 s at most: long enough for a handshake that has to be repeated."""

ONCE: Final = RetryPolicy(
    max_attempts=1, initial=10 * SECOND, maximum=10 * SECOND, multiplier=1.0, jitter=0.0
)
"""One datagram, and ten seconds for its answer."""

MAX_QUESTIONS: Final = 4096


@dataclass(frozen=True, slots=True)
class Answered:
    """The peer answered: what its kind of request is answered by, or a Failure."""

    id: bytes
    answer: Message


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The peer did not answer, or ``was_strange``: in a way that we do not understand."""

    id: bytes
    was_strange: bool = False


Outcome = Answered | Unanswered


@dataclass(slots=True)
class _Question:
    peer: PublicKey
    datagrams: tuple[bytes, ...]
    answer: type[Message]
    backoff: Backoff
    again_at: int
    is_last: bool = False


class Requester:
    """All questions of a node that wait for an answer; pure over ``now``, in nanoseconds.

    Args:
        random: that many random bytes.
    """

    def __init__(self, *, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._questions: dict[bytes, _Question] = {}
        # Instants of questions, some of which have been answered or moved meanwhile.
        self._deadlines: list[tuple[int, bytes]] = []
        self._datagrams: list[tuple[PublicKey, bytes]] = []
        self._outcomes: list[Outcome] = []
        self._drops: Counter[ChannelDrop] = Counter()

    def __len__(self) -> int:
        return len(self._questions)

    def drops(self) -> Mapping[ChannelDrop, int]:
        """What was dropped here, by reason."""
        return self._drops

    def request(
        self, peer: PublicKey, request: Request[Any], now: int, retry: RetryPolicy = CHANNEL_RETRY
    ) -> bytes:
        """Ask, and return the id under which the outcome will be told.

        Raises:
            Unavailable: too much is being asked already, or there is no randomness.
            ValueError: the request is out of the bounds of its schema.
        """
        if len(self._questions) >= MAX_QUESTIONS:
            raise Unavailable(f"{MAX_QUESTIONS} requests wait for their answers already")
        try:
            message_id = self._random(ID_BYTES)
        except OSError as error:
            raise Unavailable(f"the system gives no random bytes: {error.strerror}") from None
        question = _Question(
            peer,
            cut(FrameKind.REQUEST, message_id, encode(request)),
            answer_of(type(request)),
            Backoff(retry, self._random),
            0,
        )
        self._questions[message_id] = question
        self._send(message_id, question, now)
        return message_id

    def cancel(self, message_id: bytes) -> None:
        """Nobody wants the answer any more."""
        self._questions.pop(message_id, None)

    def receive(self, peer: PublicKey, message_id: bytes, body: bytes) -> None:
        """A response came."""
        question = self._questions.get(message_id)
        if question is None or question.peer != peer:
            self._drops[ChannelDrop.NOT_ASKED] += 1
            return
        del self._questions[message_id]
        try:
            answer = decode(body)
        except MalformedMessage:
            self._drops[ChannelDrop.MALFORMED] += 1
            self._outcomes.append(Unanswered(message_id, was_strange=True))
            return
        if isinstance(answer, (question.answer, Failure)):
            self._outcomes.append(Answered(message_id, answer))
            return
        self._drops[ChannelDrop.NOT_ASKED] += 1
        self._outcomes.append(Unanswered(message_id, was_strange=True))

    def handle_timeout(self, now: int) -> None:
        """Repeat what is due, and give up what was repeated enough."""
        while self._deadlines and self._deadlines[0][0] <= now:
            at, message_id = heapq.heappop(self._deadlines)
            question = self._questions.get(message_id)
            if question is None or question.again_at != at:
                continue
            if question.is_last:
                del self._questions[message_id]
                self._outcomes.append(Unanswered(message_id))
            else:
                self._send(message_id, question, now)

    def next_timeout(self) -> int | None:
        """When :meth:`handle_timeout` is to be called; None for never."""
        while self._deadlines:
            at, message_id = self._deadlines[0]
            question = self._questions.get(message_id)
            if question is not None and question.again_at == at:
                return at
            heapq.heappop(self._deadlines)
        return None

    def take_datagrams(self) -> list[tuple[PublicKey, bytes]]:
        """What is to be sent, to whom."""
        taken, self._datagrams = self._datagrams, []
        return taken

    def take_outcomes(self) -> list[Outcome]:
        """What became of questions; none is told twice."""
        taken, self._outcomes = self._outcomes, []
        return taken

    def _send(self, message_id: bytes, question: _Question, now: int) -> None:
        self._datagrams += ((question.peer, datagram) for datagram in question.datagrams)
        delay = question.backoff.next_delay()
        if delay is None:
            question.is_last = True
            delay = question.backoff.last_delay()
        question.again_at = now + delay
        heapq.heappush(self._deadlines, (question.again_at, message_id))
