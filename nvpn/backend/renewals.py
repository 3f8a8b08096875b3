"""Seeks new sessions with many peers, without keeping packets waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from nvpn.model.clock import MILLISECOND, Now
from nvpn.model.keys import PublicKey

_RENEWALS_A_TICK: Final = 10
_LOOKS_A_TICK: Final = 500
_RENEWAL_TIME: Final = 4 * MILLISECOND
_PAUSE: Final = 0.005
"""Seconds. At most 2000 sessions a second are sought anew, in turns of a few milliseconds, and
in each some peers are passed over that have none."""


class Renewals:
    """Everything on the loop.

    Args:
        renew: seeks a new session with a peer; whether it did.
        turn: called after each turn.
        fail: told what ``renew`` raised.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clocks: Callable[[], Now],
        *,
        renew: Callable[[PublicKey, Now], bool],
        turn: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._clocks = clocks
        self._renew = renew
        self._turn = turn
        self._fail = fail
        self._peers: deque[PublicKey] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, peers: Iterable[PublicKey]) -> None:
        """With these peers, in their order; those that were left over are not, if not named."""
        self._peers = deque(peers)
        if self._timer is None:
            self._renew_some()

    def stop(self) -> None:
        """With nobody any more."""
        self._peers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _renew_some(self) -> None:
        self._timer = None
        now = self._clocks()
        made = 0
        try:
            for _ in range(min(len(self._peers), _LOOKS_A_TICK)):
                made += self._renew(self._peers.popleft(), now)
                is_late = made and self._clocks().boot >= now.boot + _RENEWAL_TIME
                if is_late or made == _RENEWALS_A_TICK:
                    break
        except Exception as error:
            self._fail(error)
        self._turn()
        if self._peers:
            self._timer = self._loop.call_later(_PAUSE, self._renew_some)
