"""The timer table and the queue that obeys it."""

from __future__ import annotations

import random
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.model.clock import SECOND
from nvpn.protocol.timers import (
    TIMER_RULES,
    Arm,
    ArmIfIdle,
    Moment,
    PeerTimers,
    Timer,
    TimerQueue,
)

HALF_JITTER = 166_500_000


def queue() -> TimerQueue[str]:
    return TimerQueue(lambda bound: bound // 2)


ARMED = {
    (Moment.INITIATION_DUE, Timer.RETRY_HANDSHAKE): 0.0,
    (Moment.INITIATION_DUE_LATER, Timer.RETRY_HANDSHAKE): 5.0,
    (Moment.INITIATION_SENT, Timer.RETRY_HANDSHAKE): 5.1665,
    (Moment.INITIATION_CROSSED, Timer.ANSWER_CROSSING): 1.0,
    (Moment.SESSION_DERIVED, Timer.ERASE_KEYS): 540.0,
    (Moment.DATA_SENT, Timer.NEW_HANDSHAKE): 15.1665,
    (Moment.DATA_RECEIVED, Timer.SEND_KEEPALIVE): 10.0,
    (Moment.KEEPALIVE_REPEATED, Timer.SEND_KEEPALIVE): 10.0,
    (Moment.PERSISTENT_KEEPALIVE_SENT, Timer.PERSISTENT_KEEPALIVE): 25.0,
}


@pytest.mark.parametrize("moment", Moment)
def test_each_moment_arms_what_the_paper_says(moment: Moment) -> None:
    timers = PeerTimers("alice")
    queue().note(timers, moment, 100 * SECOND, 25 * SECOND)
    armed = {timer: timers.deadline(timer) for timer in Timer}
    expected = {
        timer: 100 * SECOND + round(after * SECOND)
        for (when, timer), after in ARMED.items()
        if when is moment
    }
    assert {timer: at for timer, at in armed.items() if at is not None} == expected


def test_every_moment_and_every_timer_is_in_the_table() -> None:
    assert set(TIMER_RULES) == set(Moment)
    rules = [rule for rules in TIMER_RULES.values() for rule in rules]
    assert {rule.timer for rule in rules if isinstance(rule, Arm | ArmIfIdle)} == set(Timer)


def test_stopping_disarms_everything() -> None:
    waiting, timers = queue(), PeerTimers("alice")
    for moment in Moment:
        if moment is not Moment.STOPPED:
            waiting.note(timers, moment, 0, SECOND)
    waiting.note(timers, Moment.STOPPED, 0)
    assert waiting.next_deadline() is None
    assert waiting.take_due(1 << 62) is None


def test_a_timer_that_is_running_is_not_postponed_by_more_data() -> None:
    waiting, timers = queue(), PeerTimers("alice")
    waiting.note(timers, Moment.DATA_RECEIVED, 0)
    waiting.note(timers, Moment.DATA_RECEIVED, 7 * SECOND)
    assert waiting.next_deadline() == 10 * SECOND


def test_a_timer_armed_earlier_fires_once_and_then() -> None:
    waiting, timers = queue(), PeerTimers("alice")
    waiting.arm(timers, Timer.RETRY_HANDSHAKE, 50)
    waiting.arm(timers, Timer.RETRY_HANDSHAKE, 20)
    waiting.arm(timers, Timer.RETRY_HANDSHAKE, 30)
    assert waiting.take_due(29) is None
    assert waiting.take_due(30) == ("alice", Timer.RETRY_HANDSHAKE)
    assert waiting.take_due(1_000) is None
    assert waiting.next_deadline() is None


def test_timers_fire_in_the_order_of_their_deadlines() -> None:
    waiting = queue()
    peers = [PeerTimers(name) for name in "abc"]
    for timers, deadline in zip(peers, (30, 10, 20), strict=True):
        waiting.arm(timers, Timer.ERASE_KEYS, deadline)
    fired = []
    while (due := waiting.take_due(100)) is not None:
        fired.append(due[0])
    assert fired == ["b", "c", "a"]


def test_jitter_stays_within_a_third_of_a_second() -> None:
    rng = random.Random(1)
    waiting: TimerQueue[str] = TimerQueue(rng.randrange)
    deadlines = []
    for _ in range(500):
        timers = PeerTimers("alice")
        waiting.note(timers, Moment.INITIATION_SENT, 0)
        deadlines.append(timers.deadline(Timer.RETRY_HANDSHAKE) or 0)
    assert min(deadlines) >= 5 * SECOND
    assert max(deadlines) < 5 * SECOND + SECOND // 3
    assert max(deadlines) - min(deadlines) > SECOND // 4


def test_what_is_armed_again_and_again_does_not_pile_up() -> None:
    waiting, timers = queue(), PeerTimers("alice")
    for at in range(10_000):
        waiting.note(timers, Moment.SESSION_DERIVED, at)
        waiting.note(timers, Moment.INITIATION_SENT, at)
        waiting.note(timers, Moment.HANDSHAKE_OVER, at)
        waiting.next_deadline()
    assert len(waiting._heap) <= 2


steps = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.integers(0, 3), st.sampled_from(Timer), st.integers(0, 50)),
        st.tuples(st.just("stop"), st.integers(0, 3), st.none(), st.none()),
        st.tuples(st.just("pass"), st.none(), st.none(), st.integers(0, 20)),
    ),
    max_size=60,
)


@given(steps)
def test_the_queue_agrees_with_a_plain_dictionary(script: list[tuple]) -> None:  # type: ignore[type-arg]
    waiting: TimerQueue[int] = TimerQueue(lambda bound: 0)
    peers = [PeerTimers(number) for number in range(4)]
    model: dict[tuple[int, Timer], int] = {}
    now = 0
    for kind, number, timer, amount in script:
        if kind == "arm":
            waiting.arm(peers[number], timer, now + amount)
            model[number, timer] = now + amount
        elif kind == "stop":
            waiting.note(peers[number], Moment.STOPPED, now)
            model = {key: at for key, at in model.items() if key[0] != number}
        else:
            now += amount
            due = {key for key, at in model.items() if at <= now}
            fired = []
            while (taken := waiting.take_due(now)) is not None:
                fired.append(taken)
            assert sorted(map(repr, fired)) == sorted(map(repr, due))
            assert [model[key] for key in fired] == sorted(model[key] for key in fired)
            for key in due:
                del model[key]
        assert waiting.next_deadline() == min(model.values(), default=None)


def test_an_owner_that_is_gone_is_let_go_of() -> None:
    waiting: TimerQueue[object] = TimerQueue(lambda bound: 0)
    gone, stays = Named(), Named()
    gone_timers, timers = PeerTimers[object](gone), PeerTimers[object](stays)
    waiting.arm(timers, Timer.ERASE_KEYS, 100)
    for timer in Timer:
        waiting.arm(gone_timers, timer, 50)
    watching = weakref.ref(gone)
    waiting.forget(gone_timers)
    del gone, gone_timers
    assert watching() is None
    assert waiting.take_due(200) == (stays, Timer.ERASE_KEYS)
    assert waiting.take_due(200) is None


def test_what_is_kept_of_owners_that_are_gone_is_at_most_as_much_as_of_the_others() -> None:
    waiting = queue()
    kept = PeerTimers("alice")
    waiting.arm(kept, Timer.ERASE_KEYS, 10**9)
    for number in range(1000):
        timers = PeerTimers(str(number))
        waiting.arm(timers, Timer.ERASE_KEYS, 10**6 + number)
        waiting.arm(timers, Timer.ERASE_KEYS, 10**5 - number)  # leaves an entry of no use
        waiting.forget(timers)
        assert len(waiting._heap) <= 4
    assert waiting.next_deadline() == 10**9


class Named:
    """Something that a weak reference can point to."""
