"""Ends what is over in a registry, when it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from nvpn.backend.alarm import Alarm
from nvpn.registry.registry import Registry


class Expiry:
    """Args:
    is_serving: whether the registry is open, and we do not stop.
    spawn: starts a task of the server's.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        loop: asyncio.AbstractEventLoop,
        is_serving: Callable[[], bool],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        make_alarm: Callable[[asyncio.AbstractEventLoop, Callable[[], None]], Alarm],
    ) -> None:
        self._registry = registry
        self._is_serving = is_serving
        self._spawn = spawn
        self._is_under_way = False
        self._alarm = make_alarm(loop, self._due)

    def look(self) -> None:
        """Something else may be the next to end now."""
        if self._is_serving():
            self._alarm.set(self._registry.next_expiry())

    def close(self) -> None:
        """End nothing any more."""
        self._alarm.close()

    def _due(self) -> None:
        if self._is_serving() and not self._is_under_way:
            self._is_under_way = True
            self._spawn(self._expire())

    async def _expire(self) -> None:
        try:
            await self._registry.expire()
        finally:
            self._is_under_way = False
        self.look()
