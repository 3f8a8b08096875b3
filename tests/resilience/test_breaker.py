"""A breaker opens, probes and closes again, in whatever order its attempts end."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from nvpn.resilience.breaker import Attempt, Breaker, BreakerSnapshot, BreakerState
from nvpn.resilience.policy import BreakerPolicy

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
REST = 100
POLICY = BreakerPolicy(failure_threshold=3, reset_timeout=REST)


def attempt(breaker: Breaker, now: int) -> Attempt:
    """One that must be allowed."""
    given = breaker.attempt(now)
    assert given is not None
    return given


def fail(breaker: Breaker, now: int, times: int = 1) -> None:
    for _ in range(times):
        attempt(breaker, now).failed(now)


def opened(policy: BreakerPolicy = POLICY, now: int = 0) -> Breaker:
    breaker = Breaker("etcd", policy)
    fail(breaker, now, policy.failure_threshold)
    assert breaker.snapshot(now).state is OPEN
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    breaker = Breaker("etcd", POLICY)
    fail(breaker, 0, 2)
    attempt(breaker, 0).succeeded(0)
    fail(breaker, 0, 2)
    assert breaker.snapshot(0).state is CLOSED
    fail(breaker, 7)
    assert breaker.snapshot(8) == BreakerSnapshot(
        "etcd", OPEN, failures=3, openings=1, retry_in=REST - 1
    )


def test_while_it_is_open_nothing_is_attempted() -> None:
    breaker = opened()
    assert breaker.attempt(0) is None
    assert breaker.attempt(REST - 1) is None
    assert breaker.retry_in(REST - 1) == 1


def test_after_the_rest_one_probe_at_a_time_is_let_through() -> None:
    breaker = opened()
    assert breaker.snapshot(REST).state is HALF_OPEN
    probe = attempt(breaker, REST)
    assert breaker.attempt(REST) is None
    probe.succeeded(REST + 1)
    assert breaker.snapshot(REST + 1).state is CLOSED
    assert breaker.snapshot(REST + 1).failures == 0
    assert breaker.is_untroubled


def test_a_probe_that_fails_opens_it_for_another_rest() -> None:
    breaker = opened()
    attempt(breaker, REST).failed(REST + 5)
    assert breaker.attempt(2 * REST + 4) is None
    assert breaker.snapshot(2 * REST).openings == 2
    attempt(breaker, 2 * REST + 5).succeeded(2 * REST + 6)
    assert breaker.snapshot(2 * REST + 6).state is CLOSED


def test_as_many_probes_must_succeed_as_the_policy_says() -> None:
    breaker = opened(BreakerPolicy(3, REST, success_threshold=2))
    attempt(breaker, REST).succeeded(REST)
    assert breaker.snapshot(REST).state is HALF_OPEN
    attempt(breaker, REST).succeeded(REST)
    assert breaker.snapshot(REST).state is CLOSED


def test_successes_before_a_failure_are_forgotten() -> None:
    breaker = opened(BreakerPolicy(3, REST, success_threshold=2))
    attempt(breaker, REST).succeeded(REST)
    attempt(breaker, REST).failed(REST)
    attempt(breaker, 2 * REST).succeeded(2 * REST)
    assert breaker.snapshot(2 * REST).state is HALF_OPEN


def test_a_probe_that_was_cancelled_gives_its_slot_back() -> None:
    breaker = opened()
    attempt(breaker, REST).abandoned()
    attempt(breaker, REST).succeeded(REST)
    assert breaker.snapshot(REST).state is CLOSED


def test_a_probe_that_nobody_hears_of_any_more_does_not_keep_it_half_open_for_ever() -> None:
    breaker = opened()
    attempt(breaker, REST)
    assert breaker.attempt(2 * REST - 1) is None
    attempt(breaker, 2 * REST).succeeded(2 * REST)
    assert breaker.snapshot(2 * REST).state is CLOSED


def test_a_service_slower_than_a_rest_counts_all_the_same() -> None:
    breaker = opened()
    slow = attempt(breaker, REST)
    attempt(breaker, 2 * REST)
    slow.succeeded(2 * REST + 1)
    assert breaker.snapshot(2 * REST + 1).state is CLOSED


def test_what_began_before_it_opened_neither_closes_nor_opens_it_later() -> None:
    breaker = Breaker("etcd", BreakerPolicy(3, REST, success_threshold=2))
    old = [attempt(breaker, 0) for _ in range(3)]
    fail(breaker, 0, 3)
    probe = attempt(breaker, REST)
    old[0].succeeded(REST)
    old[1].failed(REST)
    old[2].abandoned()
    assert breaker.snapshot(REST).state is HALF_OPEN
    assert breaker.attempt(REST) is None, "the slot is the probe's"
    probe.succeeded(REST)
    assert breaker.snapshot(REST).state is HALF_OPEN, "the old success is none of the two"
    attempt(breaker, REST).succeeded(REST)
    assert breaker.snapshot(REST).state is CLOSED


def test_how_an_attempt_went_is_said_once() -> None:
    breaker = Breaker("etcd", POLICY)
    one = attempt(breaker, 0)
    for _ in range(5):
        one.failed(0)
    assert breaker.snapshot(0).failures == 1
    one.succeeded(0)
    assert breaker.snapshot(0).failures == 1


def test_a_change_that_may_have_helped_ends_the_rest() -> None:
    breaker = opened()
    breaker.retry_now(1)
    attempt(breaker, 1).failed(1)
    assert breaker.attempt(2) is None
    breaker.retry_now(2)
    attempt(breaker, 2).succeeded(2)
    breaker.retry_now(3)
    assert breaker.snapshot(3).state is CLOSED


def test_a_machine_that_was_suspended_finds_the_rest_over() -> None:
    breaker = opened()
    assert breaker.attempt(1_000_000 * REST) is not None


def test_a_clock_that_was_set_back_does_not_prolong_the_rest() -> None:
    breaker = opened(now=1_000_000)
    assert breaker.attempt(0) is None
    assert breaker.attempt(REST) is not None
    assert breaker.attempt(-5 * REST) is not None, "nor does it keep a slot taken"


def test_every_change_of_state_is_told_once() -> None:
    told: list[BreakerState] = []
    breaker = Breaker("etcd", POLICY, on_change=lambda snapshot: told.append(snapshot.state))
    fail(breaker, 0, 3)
    attempt(breaker, REST).failed(REST)
    attempt(breaker, 2 * REST).succeeded(2 * REST)
    breaker.snapshot(10 * REST)
    assert told == [OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED]


@pytest.mark.parametrize("now", [0, REST])
def test_looking_at_it_changes_nothing(now: int) -> None:
    breaker = opened()
    assert breaker.snapshot(now) == breaker.snapshot(now)
    attempt(breaker, REST)
    assert breaker.attempt(REST) is None


class AnyOrder(RuleBasedStateMachine):
    """Attempts that begin and end in any order, and a clock that does what it likes."""

    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.policy = BreakerPolicy(3, REST, success_threshold=2)
        self.told: list[BreakerSnapshot] = []
        self.breaker = Breaker("etcd", self.policy, on_change=self.told.append)
        self.now = 0

    @rule(target=attempts)
    def begin(self) -> Attempt | None:
        given = self.breaker.attempt(self.now)
        state = self.breaker.snapshot(self.now).state
        if state is CLOSED:
            assert given is not None
        elif state is OPEN:
            assert given is None
        return given

    @rule(one=consumes(attempts))
    def succeed(self, one: Attempt | None) -> None:
        if one is not None:
            one.succeeded(self.now)

    @rule(one=consumes(attempts))
    def fail(self, one: Attempt | None) -> None:
        if one is not None:
            one.failed(self.now)

    @rule(one=consumes(attempts))
    def abandon(self, one: Attempt | None) -> None:
        if one is not None:
            one.abandoned()

    @rule(one=consumes(attempts))
    def be_forgotten(self, one: Attempt | None) -> None:
        pass

    @rule(ticks=st.sampled_from([1, 10, REST - 1, REST, 10**6, -1, -REST, -(10**6)]))
    def let_time_pass(self, ticks: int) -> None:
        self.now += ticks

    @rule()
    def hurry(self) -> None:
        self.breaker.retry_now(self.now)

    @invariant()
    def changes_follow_the_table(self) -> None:
        follows = {
            CLOSED: {OPEN},
            OPEN: {HALF_OPEN},
            HALF_OPEN: {OPEN, CLOSED},
        }
        before = CLOSED
        for change in self.told:
            assert change.state in follows[before]
            before = change.state

    @invariant()
    def it_is_open_no_longer_than_a_rest(self) -> None:
        seen = self.breaker.snapshot(self.now)
        assert (seen.retry_in is not None) == (seen.state is OPEN)
        assert 0 < (seen.retry_in or 1) <= REST

    def teardown(self) -> None:
        """Once the service works again it closes, whatever happened and whoever is gone."""
        for _ in range(2 * self.policy.success_threshold):
            self.now += REST
            one = self.breaker.attempt(self.now)
            if one is not None:
                one.succeeded(self.now)
        assert self.breaker.snapshot(self.now).state is CLOSED


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
