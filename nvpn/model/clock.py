"""Time as it is handed in. Nothing below the daemon reads a clock by itself.

Two clocks, because they answer different questions: *how long ago* is asked of the
boot clock, which counts suspend and never jumps; *what date is it* of the wall clock,
which does jump and is used for TAI64N timestamps and for telling people.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000


class Now(NamedTuple):
    """One reading of both clocks, in nanoseconds.

    ``boot`` is CLOCK_BOOTTIME (or monotonic where that does not exist), ``wall`` is
    Unix time.
    """

    boot: int
    wall: int


_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_ns() -> int:
    """The boot clock, in nanoseconds."""
    return time.clock_gettime_ns(_BOOT_CLOCK)


def read_clocks() -> Now:
    """Both clocks of this machine. Called by the daemon only."""
    return Now(boot_ns(), time.time_ns())
