"""etcd's own leases, under which records vanish that nobody renews: many share one.

A record is put under an etcd lease that ends some minutes after any server may have ended it, so
that what a server gave ends even if no server is left to end it. Ends that are close to each other
get the same etcd lease: five hundred clients at once need one or two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from nvpn.errors import Unavailable
from nvpn.model.clock import SECOND, Now
from nvpn.registry.etcd_gateway import EtcdGateway

MARGIN: Final = 300
"""Seconds that a record is there for longer than it must be: servers end it, and tell why."""

_FINEST: Final = 32
"""Seconds."""

_STEPS: Final = 32
"""Into so many steps the time until an end is divided, at least."""

_MAX_KNOWN: Final = 1024


class _Bucket(NamedTuple):
    """Ends between two multiples of ``width`` seconds."""

    width: int
    number: int


class _Granted(NamedTuple):
    lease: str
    ends_at: int  # boot nanoseconds


class EtcdLeases:
    """Gives the etcd lease for a record, and asks for a new one where none fits.

    Args:
        clocks: both clocks. How long an etcd lease is still good is told by the boot clock.
    """

    def __init__(self, gateway: EtcdGateway, clocks: Callable[[], Now]) -> None:
        self._gateway: Final = gateway
        self._clocks: Final = clocks
        self._granted: dict[_Bucket, asyncio.Task[_Granted]] = {}

    async def for_end(self, expires_at: int) -> str:
        """The number of an etcd lease that outlives this Unix time, in nanoseconds.

        Raises:
            Unavailable, Refused: as EtcdGateway.ask.
        """
        now = self._clocks()
        left = max(0, expires_at - now.wall) // SECOND
        bucket = _bucket(expires_at // SECOND, left)
        task = self._granted.get(bucket)
        if task is None or _is_spent(task, now.boot + (left + MARGIN // 2) * SECOND):
            self._forget_some()
            # The bucket's end is up to a width later than this record's.
            seconds = left + bucket.width + MARGIN
            task = asyncio.ensure_future(self._grant(seconds))
            task.add_done_callback(_look_at)
            self._granted[bucket] = task
        # Many wait for one grant: whoever is cancelled leaves it to the others.
        return (await asyncio.shield(task)).lease

    def forget(self) -> None:
        """etcd knows them no more."""
        self._granted.clear()

    def close(self) -> None:
        """Ask for no more."""
        for task in self._granted.values():
            task.cancel()
        self._granted.clear()

    async def _grant(self, seconds: int) -> _Granted:
        begun = self._clocks().boot
        answer = await self._gateway.ask("/v3/lease/grant", {"TTL": str(seconds)})
        try:
            return _Granted(str(answer["ID"]), begun + int(answer["TTL"]) * SECOND)
        except (KeyError, TypeError, ValueError):
            raise Unavailable("etcd granted a lease without saying which") from None

    def _forget_some(self) -> None:
        while len(self._granted) >= _MAX_KNOWN:
            del self._granted[next(iter(self._granted))]


def _bucket(end: int, left: int) -> _Bucket:
    """``end`` in Unix seconds, ``left`` in seconds from now."""
    width = max(_FINEST, 1 << max(0, (left // _STEPS).bit_length() - 1))
    return _Bucket(width, end // width)


def _look_at(task: asyncio.Task[_Granted]) -> None:
    """A grant that failed, and for which nobody waits any more, is nobody's concern."""
    if not task.cancelled():
        task.exception()


def _is_spent(task: asyncio.Task[_Granted], needed_until: int) -> bool:
    """Whether it was not granted, or not for long enough."""
    if not task.done():
        return False
    if task.cancelled() or task.exception() is not None:
        return True
    return task.result().ends_at < needed_until
