"""Every timer of the protocol: one table of what starts and stops them, one queue they wait in.

:data:`TIMER_RULES` is the state machine; the rest of this file only obeys it. A *moment*
is something that happened to a peer; a *timer* is a question that is asked later. What the
answer is when a timer fires stands in :mod:`nvpn.protocol.peer`.

The datapath does not tell every packet, so timers that depend on packets are lazy: they
are armed by the first one, and when they fire the peer's instants are read to see whether
anything is due yet (``nvpn.datapath.api``, "Timers live above").

Instants are boot-clock nanoseconds, which count suspend.

Source: WireGuard paper, section 6; where it is silent, the Linux kernel module.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, Union

from nvpn.model.clock import SECOND
from nvpn.wire.constants import (
    ERASE_KEYS_AFTER_TIME,
    KEEPALIVE_TIMEOUT,
    REKEY_TIMEOUT,
    RETRY_JITTER,
)

NEW_HANDSHAKE_TIMEOUT: Final = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
"""Silence after our data that means the peer lost its keys: it would have answered at
the latest by a keepalive."""

CROSSING_TIMEOUT: Final = 1 * SECOND
"""How long after our own initiation a crossing one may wait for its answer; round trips
are shorter. See :meth:`nvpn.protocol.peer.Peer.receive_initiation`."""


class Timer(enum.Enum):
    """What a peer may be waiting for."""

    RETRY_HANDSHAKE = "send the next initiation, or give up"
    ANSWER_CROSSING = "answer an initiation that crossed ours"
    NEW_HANDSHAKE = "has anything come since we sent data?"
    SEND_KEEPALIVE = "have we sent anything since data came?"
    PERSISTENT_KEEPALIVE = "has anything passed in either direction?"
    ERASE_KEYS = "forget the session"


class Moment(enum.Enum):
    """What happened to a peer."""

    INITIATION_DUE = "a handshake is wanted at once"
    INITIATION_DUE_LATER = "a handshake is wanted, but the last message was too recent"
    INITIATION_SENT = "an initiation was sent, or could not be made"
    INITIATION_CROSSED = "an initiation came while ours was out"
    CROSSING_SETTLED = "the crossing one was answered, or needs no answer any more"
    HANDSHAKE_OVER = "a session was confirmed, or none is wanted any more"
    HANDSHAKE_GIVEN_UP = "the peer does not answer"
    SESSION_DERIVED = "there are new keys"
    KEYS_ERASED = "there are no keys"
    DATA_SENT = "data was sent, and nothing came since"
    DATA_RECEIVED = "data came, and nothing was sent since"
    KEEPALIVE_REPEATED = "a keepalive was sent, and data had come more than once"
    PERSISTENT_KEEPALIVE_SENT = "the persistent keepalive was sent"
    PERSISTENT_KEEPALIVE_OFF = "it was turned off"
    STOPPED = "the interface went down, or the peer was removed"


@dataclass(frozen=True, slots=True)
class Arm:
    """Fire so many nanoseconds after the moment; ``jitter`` adds up to RETRY_JITTER.

    ``after`` None: what the peer is configured with, handed in with the moment.
    """

    timer: Timer
    after: int | None
    jitter: bool = False


@dataclass(frozen=True, slots=True)
class ArmIfIdle:
    """As :class:`Arm`, unless the timer is running."""

    timer: Timer
    after: int
    jitter: bool = False


@dataclass(frozen=True, slots=True)
class Disarm:
    """Do not fire."""

    timer: Timer


Rule = Union[Arm, ArmIfIdle, Disarm]  # noqa: UP007 - a runtime value on Python 3.10

TIMER_RULES: Final[Mapping[Moment, tuple[Rule, ...]]] = {
    Moment.INITIATION_DUE: (Arm(Timer.RETRY_HANDSHAKE, 0),),
    Moment.INITIATION_DUE_LATER: (Arm(Timer.RETRY_HANDSHAKE, REKEY_TIMEOUT),),
    Moment.INITIATION_SENT: (Arm(Timer.RETRY_HANDSHAKE, REKEY_TIMEOUT, jitter=True),),
    Moment.INITIATION_CROSSED: (Arm(Timer.ANSWER_CROSSING, CROSSING_TIMEOUT),),
    Moment.CROSSING_SETTLED: (Disarm(Timer.ANSWER_CROSSING),),
    Moment.HANDSHAKE_OVER: (Disarm(Timer.RETRY_HANDSHAKE), Disarm(Timer.ANSWER_CROSSING)),
    Moment.HANDSHAKE_GIVEN_UP: (Disarm(Timer.SEND_KEEPALIVE),),
    Moment.SESSION_DERIVED: (Arm(Timer.ERASE_KEYS, ERASE_KEYS_AFTER_TIME),),
    Moment.KEYS_ERASED: (Disarm(Timer.ERASE_KEYS),),
    Moment.DATA_SENT: (ArmIfIdle(Timer.NEW_HANDSHAKE, NEW_HANDSHAKE_TIMEOUT, jitter=True),),
    Moment.DATA_RECEIVED: (ArmIfIdle(Timer.SEND_KEEPALIVE, KEEPALIVE_TIMEOUT),),
    Moment.KEEPALIVE_REPEATED: (Arm(Timer.SEND_KEEPALIVE, KEEPALIVE_TIMEOUT),),
    Moment.PERSISTENT_KEEPALIVE_SENT: (Arm(Timer.PERSISTENT_KEEPALIVE, None),),
    Moment.PERSISTENT_KEEPALIVE_OFF: (Disarm(Timer.PERSISTENT_KEEPALIVE),),
    Moment.STOPPED: tuple(Disarm(timer) for timer in Timer),
}

P = TypeVar("P")


class PeerTimers(Generic[P]):
    """The deadlines of one peer; made by and kept in one :class:`TimerQueue`."""

    __slots__ = ("_deadlines", "_queued", "owner")

    def __init__(self, owner: P) -> None:
        self.owner: Final = owner
        self._deadlines: dict[Timer, int] = {}
        self._queued: dict[Timer, int] = {}

    def deadline(self, timer: Timer) -> int | None:
        """When the timer fires; None when it is not armed."""
        return self._deadlines.get(timer)


class TimerQueue(Generic[P]):
    """All armed timers of a device, earliest first.

    Arming and firing cost O(log n), asking for the next deadline O(1); disarming, and
    arming for later than before, cost nothing until the old deadline has passed.

    Args:
        jitter: a fresh uniform number of nanoseconds below its argument.
    """

    def __init__(self, jitter: Callable[[int], int]) -> None:
        self._jitter = jitter
        # A timer has at most one entry that counts: the one that its `_queued` names.
        # The number in the middle keeps owners from being compared.
        self._heap: list[tuple[int, int, PeerTimers[P], Timer]] = []
        self._pushed = 0
        self._counting = 0  # entries that count

    def note(
        self, timers: PeerTimers[P], moment: Moment, at: int, configured: int | None = None
    ) -> None:
        """Do what the table says about the moment, which was at the instant ``at``."""
        for rule in TIMER_RULES[moment]:
            if isinstance(rule, Disarm):
                timers._deadlines.pop(rule.timer, None)
            elif isinstance(rule, Arm) or rule.timer not in timers._deadlines:
                after = configured if rule.after is None else rule.after
                assert after is not None, f"{moment} needs a configured interval"
                self.arm(timers, rule.timer, at + after, jitter=rule.jitter)

    def arm(
        self, timers: PeerTimers[P], timer: Timer, deadline: int, *, jitter: bool = False
    ) -> None:
        """Let the timer fire at the deadline, and at no other."""
        if jitter:
            deadline += self._jitter(RETRY_JITTER)
        timers._deadlines[timer] = deadline
        queued = timers._queued.get(timer)
        if queued is None or deadline < queued:
            self._push(timers, timer, deadline)

    def forget(self, timers: PeerTimers[P]) -> None:
        """The owner is gone: let go of it, at the latest when as many entries are of no use
        as of some."""
        self._counting -= len(timers._queued)
        timers._deadlines.clear()
        timers._queued.clear()
        if len(self._heap) > 2 * self._counting:
            self._heap = [
                entry for entry in self._heap if entry[2]._queued.get(entry[3]) == entry[0]
            ]
            heapq.heapify(self._heap)

    def next_deadline(self) -> int | None:
        """The earliest deadline; None when nothing is armed."""
        heap = self._heap
        while heap:
            queued, _, timers, timer = heap[0]
            deadline = timers._deadlines.get(timer)
            if timers._queued.get(timer) == queued:
                if deadline == queued:
                    return deadline
                del timers._queued[timer]
                self._counting -= 1
                heapq.heappop(heap)
                if deadline is not None:
                    self._push(timers, timer, deadline)
            else:
                heapq.heappop(heap)
        return None

    def take_due(self, now: int) -> tuple[P, Timer] | None:
        """The timer whose deadline has passed for longest, disarmed; None when none has."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None
        _, _, timers, timer = heapq.heappop(self._heap)
        del timers._queued[timer], timers._deadlines[timer]
        self._counting -= 1
        return timers.owner, timer

    def _push(self, timers: PeerTimers[P], timer: Timer, deadline: int) -> None:
        self._pushed += 1
        self._counting += timer not in timers._queued
        timers._queued[timer] = deadline
        heapq.heappush(self._heap, (deadline, self._pushed, timers, timer))
