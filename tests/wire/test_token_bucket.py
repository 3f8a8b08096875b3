from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nvpn.wire.token_bucket import TokenBucket

BUCKET = TokenBucket(interval=100, burst=3)


def test_a_burst_may_be_taken_at_once_and_then_one_an_interval() -> None:
    full_again = 0
    for expected in (1100, 1200, 1300):
        taken = BUCKET.take(full_again, 1000)
        assert taken == expected
        full_again = taken
    assert BUCKET.take(full_again, 1000) is None
    assert BUCKET.take(full_again, 1099) is None
    assert BUCKET.take(full_again, 1100) == 1400


def test_no_more_than_a_burst_is_saved_up() -> None:
    assert BUCKET.take(1300, 10**9) == 10**9 + 100


@given(st.lists(st.integers(0, 50), max_size=200))
def test_never_more_is_taken_than_the_rate_and_the_burst_allow(steps: list[int]) -> None:
    now = full_again = 10_000
    taken = []
    for step in steps:
        now += step
        after = BUCKET.take(full_again, now)
        if after is not None:
            full_again = after
            taken.append(now)
    for index, begin in enumerate(taken):
        for end in range(index, len(taken)):
            assert end - index + 1 <= BUCKET.burst + (taken[end] - begin) / BUCKET.interval
