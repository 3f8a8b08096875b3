"""All breakers of a tunnel: found by name, bounded in number, shown without a secret."""

from __future__ import annotations

import json

from nvpn.resilience.breaker import BreakerState
from nvpn.resilience.policy import BreakerPolicy, Policies
from nvpn.resilience.registry import Breakers, describe

SECOND = 1_000_000_000
POLICIES = Policies(breaker=BreakerPolicy(failure_threshold=2, reset_timeout=30 * SECOND))


def fail(breakers: Breakers, name: str, times: int = 1, now: int = 0) -> None:
    for _ in range(times):
        attempt = breakers.get(name).attempt(now)
        assert attempt is not None
        attempt.failed(now)


def test_a_name_is_one_breaker() -> None:
    breakers = Breakers(POLICIES)
    assert breakers.get("etcd") is breakers.get("etcd")
    assert breakers.get("etcd") is not breakers.get("dns a.example")


def test_they_are_shown_by_name() -> None:
    breakers = Breakers(POLICIES)
    fail(breakers, "etcd", 2)
    breakers.get("dns a.example")
    text = json.dumps(describe(breakers.snapshots(500_000_000)))
    assert json.loads(text) == [
        {"name": "dns a.example", "state": "closed", "failures": 0, "retry_in_seconds": None},
        {"name": "etcd", "state": "open", "failures": 2, "retry_in_seconds": 29.5},
    ]


def test_there_are_never_more_than_the_bound_and_trouble_is_kept() -> None:
    breakers = Breakers(POLICIES, capacity=3)
    fail(breakers, "etcd", 2)
    for number in range(100):
        breakers.get(f"dns {number}.example")
    names = [one.name for one in breakers.snapshots(0)]
    assert names == ["dns 98.example", "dns 99.example", "etcd"]


def test_when_all_are_in_trouble_the_one_longest_unasked_for_goes() -> None:
    breakers = Breakers(POLICIES, capacity=2)
    fail(breakers, "a")
    fail(breakers, "b")
    breakers.get("a")
    breakers.get("c")
    assert [one.name for one in breakers.snapshots(0)] == ["a", "c"]


def test_what_is_not_used_any_more_is_not_shown() -> None:
    breakers = Breakers(POLICIES)
    breakers.get("etcd")
    breakers.forget("etcd")
    breakers.forget("never heard of")
    assert breakers.snapshots(0) == ()


def test_a_change_that_may_help_one_service_makes_no_breaker_for_others() -> None:
    breakers = Breakers(POLICIES)
    fail(breakers, "etcd", 2)
    breakers.retry_now("etcd", 1)
    breakers.retry_now("never heard of", 1)
    states = [(one.name, one.state) for one in breakers.snapshots(1)]
    assert states == [("etcd", BreakerState.HALF_OPEN)]


def test_other_figures_hold_for_those_that_are_there_and_those_to_come() -> None:
    breakers = Breakers(POLICIES)
    fail(breakers, "etcd")
    breakers.change(Policies(breaker=BreakerPolicy(failure_threshold=3)))
    fail(breakers, "etcd")
    fail(breakers, "other", 2)
    states = [(one.failures, one.state) for one in breakers.snapshots(0)]
    assert states == [(2, BreakerState.CLOSED), (2, BreakerState.CLOSED)]


def test_whoever_wants_to_know_hears_of_every_change_by_name() -> None:
    told: list[tuple[str, str]] = []
    breakers = Breakers(POLICIES, on_change=lambda one: told.append((one.name, one.state.value)))
    fail(breakers, "etcd", 2)
    fail(breakers, "dns a.example")
    assert told == [("etcd", "open")]
