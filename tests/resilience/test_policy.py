"""Policies are checked where they are made, and say what is wrong in one sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nvpn.resilience.policy import BreakerPolicy, Policies, RetryPolicy


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"max_attempts": -1}, "max_attempts must be 0 (no limit) or more, not -1"),
        ({"initial": 0}, "the initial wait must be longer than 0 ns, not 0"),
        (
            {"initial": 10, "maximum": 9},
            "the longest wait (9 ns) is shorter than the initial one (10 ns)",
        ),
        ({"multiplier": 0.5}, "the multiplier must be 1 or more, not 0.5"),
        ({"multiplier": math.inf}, "the multiplier must be 1 or more, not inf"),
        ({"multiplier": math.nan}, "the multiplier must be 1 or more, not nan"),
        ({"jitter": -0.1}, "jitter must be between 0 and 1, not -0.1"),
        ({"jitter": 1.1}, "jitter must be between 0 and 1, not 1.1"),
        ({"jitter": math.nan}, "jitter must be between 0 and 1, not nan"),
    ],
)
def test_a_retry_policy_that_makes_no_sense_is_refused(
    figures: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError) as refused:
        RetryPolicy(**figures)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"failure_threshold": 0}, "failure_threshold must be 1 or more, not 0"),
        ({"success_threshold": 0}, "success_threshold must be 1 or more, not 0"),
        ({"reset_timeout": 0}, "the reset timeout must be longer than 0 ns, not 0"),
    ],
)
def test_a_breaker_policy_that_makes_no_sense_is_refused(
    figures: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError) as refused:
        BreakerPolicy(**figures)
    assert str(refused.value) == sentence


def test_what_must_not_be_given_up_keeps_the_pace_and_loses_the_limit() -> None:
    policy = RetryPolicy(max_attempts=3, initial=7, maximum=70, multiplier=3.0, jitter=0.25)
    assert policy.without_limit() == RetryPolicy(
        max_attempts=0, initial=7, maximum=70, multiplier=3.0, jitter=0.25
    )


def test_a_configuration_that_says_nothing_has_the_defaults() -> None:
    assert Policies() == Policies(RetryPolicy(), BreakerPolicy())
