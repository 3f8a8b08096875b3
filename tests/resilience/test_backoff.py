"""Waits grow, are bounded, and are spread as the policy says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.resilience.backoff import Backoff
from nvpn.resilience.policy import RetryPolicy

STEADY = RetryPolicy(max_attempts=0, initial=100, maximum=1000, jitter=0.0)


def drawing(fraction: float) -> Callable[[int], bytes]:
    """Randomness that always draws this part, 0 to 1, of a range."""
    return lambda size: int(fraction * (256**size - 1)).to_bytes(size, "little")


def no_randomness(size: int) -> bytes:
    raise OSError("no randomness")


def delays(backoff: Backoff, count: int) -> list[int | None]:
    return [backoff.next_delay() for _ in range(count)]


def test_each_wait_doubles_the_one_before_up_to_the_longest() -> None:
    assert delays(Backoff(STEADY, drawing(0)), 6) == [100, 200, 400, 800, 1000, 1000]


def test_a_success_begins_anew() -> None:
    backoff = Backoff(STEADY, drawing(0))
    assert delays(backoff, 3) == [100, 200, 400]
    assert backoff.attempts == 3
    backoff.reset()
    assert delays(backoff, 2) == [100, 200]


def test_another_policy_holds_from_the_next_wait_on() -> None:
    backoff = Backoff(STEADY, drawing(0))
    assert delays(backoff, 2) == [100, 200]
    backoff.policy = RetryPolicy(max_attempts=4, initial=1, maximum=1000, jitter=0.0)
    assert delays(backoff, 2) == [4, None]


def test_the_first_attempt_counts_as_one() -> None:
    policy = RetryPolicy(max_attempts=3, initial=100, maximum=1000, jitter=0.0)
    assert delays(Backoff(policy, drawing(0)), 4) == [100, 200, None, None]
    alone = RetryPolicy(max_attempts=1, initial=100, maximum=1000, jitter=0.0)
    assert Backoff(alone, drawing(0)).next_delay() is None


def test_the_last_attempt_is_waited_for_as_if_another_followed() -> None:
    policy = RetryPolicy(max_attempts=3, initial=100, maximum=1000, jitter=0.0)
    backoff = Backoff(policy, drawing(0))
    assert delays(backoff, 3) == [100, 200, None]
    assert backoff.last_delay() == 400


@pytest.mark.parametrize(
    ("jitter", "drawn", "expected"),
    [
        (0.0, 1.0, 1000),
        (0.5, 0.0, 1000),
        (0.5, 0.5, 750),
        (0.5, 1.0, 501),  # not quite the half: the range is open there
        (1.0, 0.0, 1000),
        (1.0, 1.0, 1),
    ],
)
def test_jitter_takes_away_up_to_its_part_of_a_wait(
    jitter: float, drawn: float, expected: int
) -> None:
    policy = RetryPolicy(initial=1000, maximum=1000, jitter=jitter)
    delay = Backoff(policy, drawing(drawn)).next_delay()
    assert delay is not None
    assert abs(delay - expected) <= 1


def test_without_randomness_the_whole_wait_is_waited() -> None:
    policy = RetryPolicy(initial=1000, maximum=1000, jitter=1.0)
    assert Backoff(policy, no_randomness).next_delay() == 1000


def test_many_attempts_do_not_overflow() -> None:
    policy = RetryPolicy(max_attempts=0, initial=100, maximum=1000, multiplier=1e300, jitter=0.0)
    assert delays(Backoff(policy, drawing(0)), 5) == [100, 1000, 1000, 1000, 1000]


@given(
    initial=st.integers(1, 10**12),
    more=st.integers(0, 10**12),
    multiplier=st.floats(1, 10),
    jitter=st.floats(0, 1),
    draws=st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=40),
)
def test_every_wait_is_longer_than_nothing_and_no_longer_than_the_longest(
    initial: int, more: int, multiplier: float, jitter: float, draws: list[bytes]
) -> None:
    policy = RetryPolicy(0, initial, initial + more, multiplier, jitter)
    drawn = iter(draws)
    backoff = Backoff(policy, lambda size: next(drawn))
    for _ in range(len(draws)):
        delay = backoff.next_delay()
        assert delay is not None
        assert 1 <= delay <= policy.maximum
        assert delay >= int(initial * (1 - jitter)) - 1
        if not int(initial * jitter):
            break  # nothing was drawn
