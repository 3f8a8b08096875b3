"""Durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.config.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("12h", 43_200),
        ("1d", 86_400),
        ("2w", 1_209_600),
        ("1h30m", 5_400),
        (" 1D ", 86_400),
        ("3600", 3_600),
        ("0", 0),
    ],
)
def test_a_time_is_read_as_people_mean_it(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "d", "1x", "1 d", "-1d", "1.5h", "1d1d", "1h 30m", "٣s", "9" * 10, "1month"]
)
def test_what_could_mean_two_things_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r'^expected a time such as "90s"'):
        parse_duration(text)


@given(st.integers(0, 10**8))
def test_a_time_is_shown_as_it_is_read(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


def test_a_time_is_shown_in_the_units_that_fit() -> None:
    shown = [format_duration(each) for each in (0, 90, 5_400, 86_400, 1_209_600, 30 * 86_400)]
    assert shown == ["0s", "1m30s", "1h30m", "1d", "2w", "30d"]
