"""One wake-up on the boot clock, which goes on counting while the machine sleeps.

An event loop's own timers stop during suspend: a session key would look younger than it
is. A timerfd of CLOCK_BOOTTIME fires right after wake-up. Where there is none, the loop's
timers are used in steps short enough to notice.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final, Protocol

from nvpn.model.clock import MILLISECOND, SECOND, boot_ns

_CLOCK_BOOTTIME: Final = 7
_TFD_TIMER_ABSTIME: Final = 1
_LONGEST_STEP: Final = 5 * SECOND


class Alarm(Protocol):
    """Calls back once, at or soon after an instant."""

    def set(self, at: int | None) -> None:
        """Fire at this boot-clock instant (nanoseconds), at once if it has passed; None: never.

        Takes the place of what was set before.
        """

    def close(self) -> None:
        """Never fire again; let go of everything."""


def open_alarm(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Alarm:
    """The best alarm that this platform has. ``callback`` runs on the loop."""
    if sys.platform == "linux":
        try:
            return TimerfdAlarm(loop, callback)
        except (OSError, AttributeError):
            pass  # descriptors have run out, or a libc without timerfd: the other one serves
    return LoopAlarm(loop, callback)


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_sec", ctypes.c_long),
        ("interval_nsec", ctypes.c_long),
        ("value_sec", ctypes.c_long),
        ("value_nsec", ctypes.c_long),
    )


class TimerfdAlarm:
    """A timerfd. Python has them from 3.13 on only, so libc is called."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._settime.argtypes = (
            ctypes.c_int,
            ctypes.c_int,
            ctypes.POINTER(_Itimerspec),
            ctypes.c_void_p,
        )
        fd = libc.timerfd_create(_CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._fd: int = fd
        self._spec = _Itimerspec()
        self._at: int | None = None
        self._loop = loop
        self._callback = callback
        loop.add_reader(fd, self._fire)

    def set(self, at: int | None) -> None:
        """See :class:`Alarm`."""
        if at == self._at or self._fd < 0:
            return
        self._at = at
        # All zero disarms; an instant of 0 would too.
        self._spec.value_sec, self._spec.value_nsec = (
            (0, 0) if at is None else divmod(max(at, 1), SECOND)
        )
        if self._settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """See :class:`Alarm`."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fire(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # set anew between its firing and our reading
        self._at = None
        self._callback()


class LoopAlarm:
    """The loop's timers, looking at the boot clock at least every five seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._at: int | None = None
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: int | None) -> None:
        """See :class:`Alarm`."""
        if at != self._at:
            self._at = at
            self._arm()

    def close(self) -> None:
        """See :class:`Alarm`."""
        self.set(None)

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._at is not None:
            step = min(max(self._at - boot_ns(), 0), _LONGEST_STEP)
            # Rounded up to the loop's resolution, so that it does not fire too early twice.
            seconds = -(-step // MILLISECOND) / 1000
            self._handle = self._loop.call_later(seconds, self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self._at is not None and boot_ns() < self._at:
            self._arm()
            return
        self._at = None
        self._callback()
