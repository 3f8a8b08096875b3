"""Notices that the network around a tunnel is another one than before.

Three signs of it: addresses of this host come or go, its default routes do, or it has slept.
Sleep is what the boot clock counts and the monotonic clock does not; both run through
whatever people do to the date.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from nvpn.backend.alarm import Alarm, open_alarm
from nvpn.model.clock import SECOND, boot_ns
from nvpn.netconf.api import AddressesChanged
from nvpn.netconf.linux_changes import LinuxChanges, NetworkEvent

SETTLE_SECONDS: Final = 0.1
"""What belongs together comes within this time: an address, its routes."""

INTERVAL_SECONDS: Final = 1.0
"""Between two calls, at least."""

_LOOK_EVERY: Final = 5 * SECOND
_SHORTEST_SLEEP: Final = 2 * SECOND


class Changes(Protocol):
    """What :class:`nvpn.netconf.linux_changes.LinuxChanges` is to us."""

    def fileno(self) -> int:
        """Becomes readable when something changed."""

    def take_events(self) -> list[NetworkEvent]:
        """What happened since the last call; never blocks, never raises."""

    def close(self) -> None:
        """Let go of the descriptor."""


def read_clocks() -> tuple[int, int]:
    """The boot clock and the monotonic clock, in nanoseconds."""
    return boot_ns(), time.monotonic_ns()


class NetworkWatch:
    """Notices that the host's addresses or default routes changed, or that it slept.

    Args:
        on_change: called on the loop with why, at most once a second: soon after the first
            of several changes, and once more after the last.
        ignored: the index of the tunnel's own interface.
        clocks: the boot clock and the monotonic clock, in nanoseconds.
    """

    def __init__(
        self,
        on_change: Callable[[str], None],
        *,
        loop: asyncio.AbstractEventLoop,
        ignored: Callable[[], int],
        clocks: Callable[[], tuple[int, int]] = read_clocks,
        open_changes: Callable[[Callable[[], int]], Changes] = LinuxChanges,
        open_alarm: Callable[[asyncio.AbstractEventLoop, Callable[[], None]], Alarm] = open_alarm,
    ) -> None:
        self._on_change = on_change
        self._loop = loop
        self._ignored = ignored
        self._clocks = clocks
        self._open_changes = open_changes
        self._open_alarm = open_alarm
        self._changes: Changes | None = None
        self._alarm: Alarm | None = None
        self._slept = 0  # in all, since the machine was started
        self._reasons: dict[str, None] = {}
        self._call: asyncio.TimerHandle | None = None
        self._may_call_at = float("-inf")

    def start(self) -> None:
        """Watch from now on. Raises PlatformError."""
        self._changes = self._open_changes(self._ignored)
        self._loop.add_reader(self._changes.fileno(), self._look)
        boot, monotonic = self._clocks()
        self._slept = boot - monotonic
        # A timer of the boot clock that is due fires as soon as the machine wakes up.
        self._alarm = self._open_alarm(self._loop, self._look_at_clocks)
        self._alarm.set(boot + _LOOK_EVERY)

    def pass_over(self) -> None:
        """Say nothing of what happened to routes and rules just now: it was our own doing."""
        if self._changes is None:
            return
        if any(isinstance(event, AddressesChanged) for event in self._changes.take_events()):
            self._tell("addresses changed")

    def close(self) -> None:
        """Watch no longer."""
        if self._changes is not None:
            self._loop.remove_reader(self._changes.fileno())
            self._changes.close()
            self._changes = None
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        assert self._changes is not None
        for event in self._changes.take_events():
            is_address = isinstance(event, AddressesChanged)
            self._tell("addresses changed" if is_address else "routes changed")

    def _look_at_clocks(self) -> None:
        boot, monotonic = self._clocks()
        slept, self._slept = boot - monotonic - self._slept, boot - monotonic
        if slept >= _SHORTEST_SLEEP:
            self._tell(f"slept for {slept // SECOND} s")
        if self._alarm is not None:
            self._alarm.set(boot + _LOOK_EVERY)

    def _tell(self, reason: str) -> None:
        self._reasons[reason] = None
        if self._call is None:
            wait = max(SETTLE_SECONDS, self._may_call_at - self._loop.time())
            self._call = self._loop.call_later(wait, self._tell_now)

    def _tell_now(self) -> None:
        self._call = None
        self._may_call_at = self._loop.time() + INTERVAL_SECONDS
        reasons, self._reasons = self._reasons, {}
        self._on_change(", ".join(reasons))
