from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from nvpn.backend.alarm import Alarm, LoopAlarm, TimerfdAlarm, open_alarm
from nvpn.model.clock import MILLISECOND, SECOND, boot_ns
from tests.support.descriptors import descriptors

Opener = Callable[[asyncio.AbstractEventLoop, Callable[[], None]], Alarm]


class Bell:
    """Counts, and lets a test wait for the next stroke."""

    def __init__(self) -> None:
        self.strokes: list[int] = []
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.strokes.append(boot_ns())
        self._event.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self._event.wait(), 60)
        self._event.clear()


@pytest.fixture(params=[TimerfdAlarm, LoopAlarm])
def opener(request: pytest.FixtureRequest) -> Opener:
    return request.param


def test_fires_once_and_not_before_its_instant(opener: Opener) -> None:
    async def scenario() -> None:
        bell = Bell()
        alarm = opener(asyncio.get_running_loop(), bell)
        at = boot_ns() + 20 * MILLISECOND
        alarm.set(at)
        await bell.wait()
        assert bell.strokes[0] >= at
        await asyncio.sleep(0.03)
        assert len(bell.strokes) == 1
        alarm.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("at", [0, 1, -5])
def test_an_instant_that_has_passed_fires_at_once(opener: Opener, at: int) -> None:
    async def scenario() -> None:
        bell = Bell()
        alarm = opener(asyncio.get_running_loop(), bell)
        alarm.set(at)
        await bell.wait()
        alarm.set(at)
        await bell.wait()
        alarm.close()

    asyncio.run(scenario())


def test_a_new_instant_takes_the_place_of_the_old_one(opener: Opener) -> None:
    async def scenario() -> None:
        bell = Bell()
        alarm = opener(asyncio.get_running_loop(), bell)
        alarm.set(boot_ns() + 10 * MILLISECOND)
        alarm.set(boot_ns() + 3600 * SECOND)
        await asyncio.sleep(0.03)
        assert bell.strokes == []
        alarm.set(boot_ns() + 5 * MILLISECOND)
        await bell.wait()
        alarm.close()

    asyncio.run(scenario())


def test_none_and_close_silence_it(opener: Opener) -> None:
    async def scenario() -> None:
        bell = Bell()
        alarm = opener(asyncio.get_running_loop(), bell)
        alarm.set(boot_ns() + 5 * MILLISECOND)
        alarm.set(None)
        await asyncio.sleep(0.02)
        alarm.set(boot_ns() + 5 * MILLISECOND)
        alarm.close()
        await asyncio.sleep(0.02)
        alarm.close()
        assert bell.strokes == []

    asyncio.run(scenario())


def test_a_clock_that_jumps_over_the_instant_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a suspend, on a platform whose loop timers stood still meanwhile."""

    async def scenario() -> None:
        bell = Bell()
        monkeypatch.setattr("nvpn.backend.alarm._LONGEST_STEP", 10 * MILLISECOND)
        alarm = LoopAlarm(asyncio.get_running_loop(), bell)
        alarm.set(boot_ns() + 3600 * SECOND)
        monkeypatch.setattr("nvpn.backend.alarm.boot_ns", lambda: boot_ns() + 7200 * SECOND)
        await bell.wait()
        alarm.close()

    asyncio.run(scenario())


def test_the_descriptor_is_closed_and_not_inherited() -> None:
    async def scenario() -> None:
        before = descriptors()
        alarm = open_alarm(asyncio.get_running_loop(), lambda: None)
        (opened,) = descriptors() - before
        assert not os.get_inheritable(opened)
        alarm.close()
        assert descriptors() == before

    asyncio.run(scenario())
