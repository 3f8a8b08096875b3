"""Event loops whose time is the test's.

That of :class:`VirtualLoop` passes only when there is nothing else to do, and then at once;
that of :class:`SkippingLoop` passes as everywhere, and faster where a test says so.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from nvpn.model.clock import SECOND, Now

T = TypeVar("T")

_LONGEST = 30 * 86400.0


class _Impatient(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Waits for nobody: what it would have waited is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and nobody will come"
            self.waited += timeout
            assert self.waited < 2 * _LONGEST, "nothing comes to an end"
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """For scenarios without sockets; :meth:`clocks` goes with it, and starts at an hour."""

    def __init__(self) -> None:
        self._impatient = _Impatient()
        super().__init__(self._impatient)

    def time(self) -> float:
        return 3600 + self._impatient.waited

    def clocks(self) -> Now:
        # Rounded up: a timer is never early.
        now = round(self.time() * 1e6 + 0.5) * (SECOND // 1_000_000)
        return Now(now, now)


def play_virtually(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it in virtual time; at most a month."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(scenario(), _LONGEST))
    finally:
        loop.close()


def virtual_loop() -> VirtualLoop:
    """The one that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


class SkippingLoop(asyncio.SelectorEventLoop):
    """For scenarios with real processes, which no test should have to guess the speed of."""

    def __init__(self) -> None:
        self._skipped = 0.0
        super().__init__()

    def time(self) -> float:
        return super().time() + self._skipped

    def skip(self, seconds: float) -> None:
        """All that waits for less than that has waited long enough."""
        self._skipped += seconds

    def play(self, scenario: Coroutine[Any, Any, T]) -> T:
        """Run it to its end, which is the loop's, too."""
        try:
            return self.run_until_complete(scenario)
        finally:
            self.close()
