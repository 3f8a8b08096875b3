"""An event loop whose time passes only when there is nothing else to do, and then at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

from nvpn.model.clock import SECOND, Now

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
