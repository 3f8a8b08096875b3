"""No crash makes us repeat a timestamp: the disk is always ahead of the wire."""

from __future__ import annotations

import random

from nvpn.daemon.timestamps import RESERVED, ReservedTimestamps
from nvpn.model.clock import SECOND
from nvpn.protocol.tai64n import stamp

START = 1_700_000_000 * SECOND


class Disk:
    """Holds what was saved; what is saved "soon" arrives when the test says so."""

    def __init__(self, last: bytes | None = None) -> None:
        self.saved = last or b""
        self.writes_that_waited = 0
        self._pending: bytes | None = None
        self.source = ReservedTimestamps(last, save_now=self._save, save_soon=self._save_later)

    def _save(self, bound: bytes) -> None:
        self.saved = max(self.saved, bound)
        self.writes_that_waited += 1

    def _save_later(self, bound: bytes) -> None:
        self._pending = bound

    def flush(self) -> None:
        if self._pending is not None:
            self.saved = max(self.saved, self._pending)
            self.source.is_reserved(self._pending)
            self._pending = None

    def next(self, wall: int) -> bytes:
        fresh = self.source.next(wall)
        assert fresh <= self.saved, "sent before it was covered"
        return fresh

    def crash(self) -> Disk:
        """A start after a kill -9."""
        return Disk(self.saved)


def test_the_first_stamp_is_on_disk_before_it_is_given() -> None:
    disk = Disk()

    assert disk.next(START) == stamp(START)
    assert disk.writes_that_waited == 1


def test_in_steady_use_no_stamp_waits_for_the_disk() -> None:
    disk = Disk()
    disk.next(START)

    for seconds in range(0, 3600, 5):
        disk.next(START + seconds * SECOND)
        disk.flush()

    assert disk.writes_that_waited == 1


def test_a_clock_that_jumps_forward_waits_once() -> None:
    disk = Disk()
    disk.next(START)
    disk.flush()

    disk.next(START + 10 * 365 * 86_400 * SECOND)

    assert disk.writes_that_waited == 2


def test_after_a_crash_and_a_clock_that_went_back_stamps_still_grow() -> None:
    disk = Disk()
    last = max(disk.next(START + second * SECOND) for second in range(50))

    restarted = disk.crash()

    assert restarted.next(START - 3600 * SECOND) > last


def test_a_thousand_crashes_in_a_row_do_not_run_away_from_the_clock() -> None:
    disk = Disk()
    for crash in range(1000):
        disk.next(START + crash * SECOND)
        disk = disk.crash()

    lead = disk.source.lead_ns(START + 1000 * SECOND)
    assert lead <= RESERVED + 10 * SECOND


def test_ten_thousand_initiations_at_once_wait_for_the_disk_rarely() -> None:
    disk = Disk()
    disk.source.burst = 10_000

    stamps = [disk.next(START + number * SECOND // 2000) for number in range(10_000)]

    assert stamps == sorted(set(stamps))
    assert disk.writes_that_waited <= 2


def test_whatever_the_clock_does_stamps_grow_over_crashes() -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    disk, last, wall = Disk(), b"", START
    for _ in range(20_000):
        wall += chance.choice((0, 1, SECOND, 5 * SECOND, -SECOND, 90 * SECOND, -7200 * SECOND))
        fresh = disk.next(wall)
        assert fresh > last, f"seed {seed}"
        last = fresh
        if chance.random() < 0.3:
            disk.flush()
        if chance.random() < 0.01:
            disk = disk.crash()
