"""Timestamps for initiations: TAI64N labels that only ever grow.

A responder refuses any label that is not greater than the last one it saw from us. So a
clock that was wrong for a while would lock us out once it is right again; a source that
never goes back, and is carried over a restart, cannot be locked out.

Source: WireGuard paper, section 5.1; D. J. Bernstein, "TAI64, TAI64N, and TAI64NA".
"""

from __future__ import annotations

from typing import Final

from nvpn.model.clock import SECOND
from nvpn.wire.constants import TIMESTAMP_SIZE

GRANULARITY: Final = 1 << 24
"""Nanoseconds, about 16.8 ms: finer clock readings would leak what else this host does."""

# Label 2^62 is 1970-01-01 00:00:00 TAI; Unix time is read as if TAI had been 10 s ahead
# for ever, as everybody does: leap seconds do not matter to something that only grows.
_EPOCH: Final = (1 << 62) + 10
_MAX_LABEL: Final = (1 << 63) - 1


def stamp(wall_ns: int) -> bytes:
    """The 12 bytes for a Unix time in nanoseconds, coarsened."""
    seconds, nanoseconds = divmod(wall_ns, SECOND)
    return _pack(_EPOCH + seconds, nanoseconds & ~(GRANULARITY - 1))


class TimestampSource:
    """Gives out stamps, each greater than the one before, whatever the clock does.

    Args:
        last: what :attr:`last` was before a restart, 12 bytes; None for a fresh start.

    Raises:
        ValueError: ``last`` is no TAI64N label.
    """

    __slots__ = ("last",)

    def __init__(self, last: bytes | None = None) -> None:
        if last is not None:
            _unpack(last)
        self.last = last

    def next(self, wall_ns: int) -> bytes:
        """12 bytes: the time, or the next instant after the last stamp where that is later."""
        fresh = stamp(wall_ns)
        if self.last is not None:
            fresh = max(fresh, _successor(self.last))
        self.last = fresh
        return fresh

    def lead_ns(self, wall_ns: int) -> int:
        """How far the last stamp is ahead of the clock; 0 when it is not.

        More than a few seconds mean that the clock went back.
        """
        if self.last is None:
            return 0
        label, nanoseconds = _unpack(self.last)
        return max(0, (label - _EPOCH) * SECOND + nanoseconds - wall_ns)


def _pack(label: int, nanoseconds: int) -> bytes:
    return label.to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")


def _unpack(raw: bytes) -> tuple[int, int]:
    label = int.from_bytes(raw[:8], "big")
    nanoseconds = int.from_bytes(raw[8:], "big")
    if len(raw) != TIMESTAMP_SIZE or label >= _MAX_LABEL or nanoseconds >= SECOND:
        raise ValueError("a timestamp is a TAI64N label of 12 bytes")
    return label, nanoseconds


def _successor(raw: bytes) -> bytes:
    # One nanosecond, and not GRANULARITY: with thousands of peers, steps of 16.8 ms would
    # run away from the clock, and a restart without memory would be locked out. It tells
    # no more about the clock, which is coarse already.
    label, nanoseconds = _unpack(raw)
    nanoseconds += 1
    return _pack(label, nanoseconds) if nanoseconds < SECOND else _pack(label + 1, 0)
