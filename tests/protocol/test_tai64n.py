from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.protocol.tai64n import GRANULARITY, TimestampSource, stamp
from tests.support.vectors import vectors

DAY = 86_400 * SECOND
NOON = 1_700_000_000 * SECOND


@pytest.mark.parametrize("vector", vectors()["tai64n"], ids=lambda vector: vector["raw"])
def test_stamps_are_those_of_the_vectors(vector: dict[str, int | str]) -> None:
    wall = int(vector["sec"]) * SECOND + int(vector["nsec"])
    assert stamp(wall).hex() == vector["coarse"]


def test_a_stamp_is_coarse() -> None:
    assert stamp(NOON) == stamp(NOON + GRANULARITY - 1)
    assert stamp(NOON) < stamp(NOON + GRANULARITY)


def test_the_first_stamp_is_the_time() -> None:
    assert TimestampSource().next(NOON) == stamp(NOON)


@given(st.lists(st.integers(-40 * 365 * DAY, 80 * 365 * DAY), min_size=2, max_size=40))
def test_stamps_grow_whatever_the_clock_does(jumps: list[int]) -> None:
    source = TimestampSource()
    given_out = [source.next(NOON + jump) for jump in jumps]
    assert all(len(one) == 12 for one in given_out)
    assert all(earlier < later for earlier, later in itertools.pairwise(given_out))


def test_stamps_in_one_instant_follow_each_other_closely() -> None:
    source = TimestampSource()
    first, second, third = (source.next(NOON) for _ in range(3))
    assert first == stamp(NOON)
    assert first < second < third < stamp(NOON + GRANULARITY)


def test_ten_thousand_peers_do_not_drive_the_stamps_away_from_the_clock() -> None:
    source = TimestampSource()
    for _ in range(10_000):
        source.next(NOON)
    assert source.lead_ns(NOON) < MILLISECOND


def test_a_step_carries_into_the_seconds() -> None:
    last_of_its_second = stamp(NOON)[:8] + (SECOND - 1).to_bytes(4, "big")
    assert TimestampSource(last_of_its_second).next(0) == stamp(NOON + SECOND)


def test_a_clock_that_was_years_ahead_does_not_lock_us_out() -> None:
    source = TimestampSource()
    wrong = source.next(NOON + 3650 * DAY)
    assert source.next(NOON) > wrong
    assert source.lead_ns(NOON) >= 3650 * DAY


def test_a_clock_in_step_has_no_lead() -> None:
    source = TimestampSource()
    assert source.lead_ns(NOON) == 0
    source.next(NOON)
    assert source.lead_ns(NOON) == 0


def test_a_restart_goes_on_after_the_last_stamp() -> None:
    before = TimestampSource()
    last = before.next(NOON)

    after = TimestampSource(before.last)
    assert after.next(NOON - DAY) > last
    assert TimestampSource(before.last).next(NOON + DAY) == stamp(NOON + DAY)


def test_a_finer_stamp_of_others_is_followed_too() -> None:
    fine = stamp(NOON)[:8] + (12_345_678).to_bytes(4, "big")
    assert TimestampSource(fine).next(0) > fine


@pytest.mark.parametrize(
    "broken", [b"", bytes(11), bytes(13), b"\xff" * 12, bytes(8) + b"\xff" * 4]
)
def test_what_is_no_timestamp_is_not_restored(broken: bytes) -> None:
    with pytest.raises(ValueError, match="TAI64N"):
        TimestampSource(broken)
