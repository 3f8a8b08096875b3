"""Timestamps that no crash can take back.

A peer refuses an initiation whose timestamp is not greater than the last one it saw. So
every stamp that goes out must be covered by the state file: a *reservation* in there lies
ahead of it, and a start goes on from the reservation. It is renewed in the background
before it is used up; only a clock that jumps forward by more than what is reserved makes
a stamp wait for the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nvpn.model.clock import SECOND
from nvpn.protocol.tai64n import GRANULARITY, TimestampSource, stamp

RESERVED: Final = 60 * SECOND
"""How far ahead of the clock a reservation reaches, and so the most that a crash moves us."""

_BURST: Final = 20
"""Stamps in reserve while the clock is behind them; with more peers set ``burst``. A crash
costs that many steps of 17 ms then: few enough that crashing once a second loses nothing."""


class ReservedTimestamps(TimestampSource):
    """Stamps that never pass what is reserved.

    Args:
        last: the reservation of an earlier run; None for none.
        save_now: called with a stamp that must be on disk when it returns.
        save_soon: called with a stamp that should be on disk before long;
            :meth:`is_reserved` is to be called when it is.
    """

    __slots__ = ("_asked", "_reserved", "_save_now", "_save_soon", "burst")

    def __init__(
        self,
        last: bytes | None,
        *,
        save_now: Callable[[bytes], None],
        save_soon: Callable[[bytes], None],
    ) -> None:
        super().__init__(last)
        self._reserved = last or b""
        self._asked = self._reserved
        self._save_now = save_now
        self._save_soon = save_soon
        self.burst = _BURST

    def next(self, wall_ns: int) -> bytes:
        """12 bytes, greater than all before, and not greater than what is on disk."""
        fresh = super().next(wall_ns)
        if fresh > self._reserved:
            wanted = self._bound(wall_ns, 1.0)
            self._save_now(wanted)
            self._reserved = self._asked = wanted
        elif self._bound(wall_ns, 0.5) > self._asked:
            self._asked = self._bound(wall_ns, 1.0)
            self._save_soon(self._asked)
        return fresh

    def is_reserved(self, bound: bytes) -> None:
        """The bound is on disk."""
        self._reserved = max(self._reserved, bound)

    def _bound(self, wall_ns: int, share: float) -> bytes:
        """What should be reserved, or a share of it, beyond the clock and the last stamp."""
        ahead = self.lead_ns(wall_ns) + GRANULARITY * (1 + int(self.burst * share))
        return stamp(wall_ns + max(int(RESERVED * share), ahead))
