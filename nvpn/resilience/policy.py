"""How patient to be with what may fail: figures, checked once, that everything here is made of.

Durations are nanoseconds. A figure that makes no sense raises ValueError with one sentence.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Final

_MS: Final = 1_000_000
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is followed by another.

    Args:
        max_attempts: of one operation, the first included; 0 for no limit.
        initial: the wait after the first attempt, before jitter.
        maximum: no wait is longer.
        multiplier: each wait is this many times the one before; 1 for a steady pace.
        jitter: the part of each wait that is left to chance, 0 to 1: a wait of ``w`` becomes
            one between ``w * (1 - jitter)`` and ``w``. 1 is what AWS calls full jitter, 0.5
            equal jitter.
    """

    max_attempts: int = 5
    initial: int = 500 * _MS
    maximum: int = 60 * _SECOND
    multiplier: float = 2.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.max_attempts < 0:
            raise ValueError(f"max_attempts must be 0 (no limit) or more, not {self.max_attempts}")
        if self.initial <= 0:
            raise ValueError(f"the initial wait must be longer than 0 ns, not {self.initial}")
        if self.maximum < self.initial:
            raise ValueError(
                f"the longest wait ({self.maximum} ns) is shorter than"
                f" the initial one ({self.initial} ns)"
            )
        if not 1 <= self.multiplier < math.inf:
            raise ValueError(f"the multiplier must be 1 or more, not {self.multiplier}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be between 0 and 1, not {self.jitter}")

    def without_limit(self) -> RetryPolicy:
        """The same pace for what must never be given up."""
        return dataclasses.replace(self, max_attempts=0)


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a service that fails is left alone, and when it is tried again.

    Args:
        failure_threshold: failures in a row after which it is left alone.
        reset_timeout: how long it is.
        success_threshold: probes in a row that must then succeed.
    """

    failure_threshold: int = 5
    reset_timeout: int = 10 * _SECOND
    success_threshold: int = 1

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "success_threshold"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        if self.reset_timeout <= 0:
            raise ValueError(
                f"the reset timeout must be longer than 0 ns, not {self.reset_timeout}"
            )


@dataclass(frozen=True, slots=True)
class Policies:
    """What a configuration's ``[resilience]`` says; the defaults where it says nothing."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
