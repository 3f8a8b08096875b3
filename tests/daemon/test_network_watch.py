"""When others hear that the network changed: soon, seldom, and also after sleep."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from itertools import pairwise

from nvpn.daemon.network_watch import INTERVAL_SECONDS, SETTLE_SECONDS, NetworkWatch
from nvpn.model.clock import SECOND
from nvpn.netconf.api import AddressesChanged
from nvpn.netconf.linux_changes import DefaultRouteChanged, NetworkEvent


class FakeTime:
    """A loop's timers, an alarm and both clocks, moved by hand; a descriptor for the loop."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.alarm: tuple[int, Callable[[], None]] | None = None
        self.calls: list[tuple[float, str]] = []
        self.events: list[NetworkEvent] = []
        self.reader: Callable[[], None] | None = None
        self.ends, self.far = socket.socketpair()
        self.watch = NetworkWatch(
            lambda why: self.calls.append((round(self.seconds, 3), why)),
            loop=self,  # type: ignore[arg-type]
            ignored=lambda: 7,
            clocks=self.clocks,
            open_changes=self.open_changes,
            open_alarm=self.open_alarm,
        )
        self.watch.start()

    # --- what stands in for the world

    def clocks(self) -> tuple[int, int]:
        return round((self.seconds + self.slept) * SECOND), round(self.seconds * SECOND)

    def open_changes(self, ignored: Callable[[], int]) -> FakeTime:
        assert ignored() == 7
        return self

    def open_alarm(self, loop: object, callback: Callable[[], None]) -> FakeTime:
        self.callback = callback
        return self

    def set(self, at: int | None) -> None:
        self.alarm = None if at is None else (at, self.callback)

    def fileno(self) -> int:
        return self.ends.fileno()

    def take_events(self) -> list[NetworkEvent]:
        taken, self.events = self.events, []
        return taken

    def close(self) -> None:
        self.alarm = None

    def time(self) -> float:
        return self.seconds

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.reader = callback

    def remove_reader(self, descriptor: int) -> None:
        self.reader = None

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        entry = (self.seconds + seconds, callback)
        self.timers.append(entry)
        return FakeTimer(self, entry)

    # --- what a test does

    def happens(self, *events: NetworkEvent) -> None:
        self.events += events
        assert self.reader is not None
        self.reader()

    def run(self, seconds: float) -> None:
        end = self.seconds + seconds
        while True:
            due = sorted(self.timers, key=lambda entry: entry[0])[:1]
            alarm = self.alarm
            next_timer = due[0][0] if due else float("inf")
            next_alarm = alarm[0] / SECOND - self.slept if alarm else float("inf")
            if min(next_timer, next_alarm) > end:
                self.seconds = end
                return
            self.seconds = max(self.seconds, min(next_timer, next_alarm))
            if next_timer <= next_alarm:
                self.timers.remove(due[0])
                due[0][1]()
            else:
                assert alarm is not None
                self.alarm = None
                alarm[1]()


class FakeTimer:
    def __init__(self, world: FakeTime, entry: tuple[float, Callable[[], None]]) -> None:
        self._world, self._entry = world, entry

    def cancel(self) -> None:
        self._world.timers.remove(self._entry)


def test_what_we_did_ourselves_is_passed_over_but_for_addresses() -> None:
    world = FakeTime()
    world.events += [DefaultRouteChanged()]
    world.watch.pass_over()
    world.run(5)
    assert world.calls == []

    world.events += [DefaultRouteChanged(), AddressesChanged()]
    world.watch.pass_over()
    world.run(5)
    assert [why for _, why in world.calls] == ["addresses changed"]


def test_what_comes_together_is_told_once_and_soon() -> None:
    world = FakeTime()
    world.run(3)
    world.happens(AddressesChanged())
    world.run(0.05)
    world.happens(DefaultRouteChanged(), AddressesChanged())
    world.run(5)
    assert world.calls == [(3 + SETTLE_SECONDS, "addresses changed, routes changed")]


def test_a_flapping_interface_is_told_of_once_a_second_and_its_last_change_too() -> None:
    world = FakeTime()
    for _ in range(35):
        world.happens(DefaultRouteChanged())
        world.run(0.1)
    flapping = world.seconds
    world.run(5)
    times = [time for time, _ in world.calls]
    assert times[0] == SETTLE_SECONDS
    assert all(after - before > INTERVAL_SECONDS - 0.01 for before, after in pairwise(times))
    assert len(times) <= 5
    assert times[-1] >= flapping - 0.1


def test_sleep_is_noticed_on_waking_up() -> None:
    world = FakeTime()
    world.run(7)
    world.slept += 12.6
    world.run(0.2)  # the alarm of the boot clock is overdue
    assert world.calls == [(7 + SETTLE_SECONDS, "slept for 12 s")]
    world.run(60)
    assert len(world.calls) == 1


def test_a_nap_is_noticed_within_five_seconds_and_clocks_that_differ_a_little_are_no_sleep() -> (
    None
):
    world = FakeTime()
    for _ in range(20):
        world.slept += 0.2
        world.run(5)
    assert world.calls == []
    world.slept += 2.5
    world.run(5.2)
    assert [why for _, why in world.calls] == ["slept for 2 s"]


def test_nothing_is_told_after_the_end() -> None:
    world = FakeTime()
    world.happens(AddressesChanged())
    world.watch.close()
    world.watch.close()
    world.run(60)
    assert world.calls == [] and world.reader is None and world.alarm is None


def test_the_real_watch_starts_and_ends_on_a_real_loop() -> None:
    async def test() -> None:
        watch = NetworkWatch(lambda why: None, loop=asyncio.get_running_loop(), ignored=lambda: 0)
        watch.close()  # before it began
        watch.start()
        await asyncio.sleep(0)
        watch.close()

    play(test)


def play(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))
