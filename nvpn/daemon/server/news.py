"""Has connected clients ask again, because they would be told something else by now.

Whoever is told comes at once. So they are told a few at a time: ten thousand who came together
would be turned away by the channel's bounds, and wait for their renewal after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

from nvpn.model.keys import PublicKey

RATE: Final = 200
"""Clients a second: a tenth of what the channel serves."""

_AT_ONCE: Final = 20
_LOOKS_A_TURN: Final = 256


class News:
    """Args:
    say: tells a client to ask again, and whether it was there to be told.
    holders: those who were told something.
    spawn: starts a task of the server's.
    """

    def __init__(
        self,
        say: Callable[[PublicKey], bool],
        *,
        holders: Callable[[], Collection[PublicKey]],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._say = say
        self._holders = holders
        self._spawn = spawn
        self._is_due = False
        self._is_telling = False

    def tell(self, after: float = 0) -> None:
        """Once to each, whatever comes within ``after`` seconds, too; what comes later is told
        when all have heard of this.
        """
        self._is_due = True
        if not self._is_telling:
            self._is_telling = True
            self._spawn(self._tell(after))

    async def _tell(self, after: float) -> None:
        try:
            while self._is_due:
                await asyncio.sleep(after)
                self._is_due = False
                await self._tell_all()
        finally:
            self._is_telling = False

    async def _tell_all(self) -> None:
        told = 0
        for place, key in enumerate(self._holders(), 1):
            if self._say(key):
                told += 1
                if told % _AT_ONCE == 0:
                    await asyncio.sleep(_AT_ONCE / RATE)
            if place % _LOOKS_A_TURN == 0:
                await asyncio.sleep(0)
