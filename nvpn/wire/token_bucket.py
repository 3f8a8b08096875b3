"""A rate with a burst, kept as one number: the "generic cell rate algorithm".

What is remembered of a bucket is the instant at which it is full again. An instant that has
passed says no more than none at all, so a table of buckets may forget it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A token comes every ``interval`` nanoseconds, and ``burst`` of them have room."""

    interval: int
    burst: int

    def take(self, full_again: int, now: int) -> int | None:
        """When a bucket is full again from which one more token is taken; None if it is empty.

        Args:
            full_again: when it is full otherwise; 0 for one that nobody took from.
        """
        later = max(full_again, now) + self.interval
        return later if later - now <= self.burst * self.interval else None
