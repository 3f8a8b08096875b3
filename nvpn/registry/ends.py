"""When leases end, by the boot clock, which neither jumps nor can be set."""

from __future__ import annotations

import heapq
from typing import Final, NamedTuple

NEVER: Final = 1 << 63


class _Span(NamedTuple):
    due: int
    latest: int


class Ends:
    """When something is to be done about each address's lease, in boot nanoseconds."""

    def __init__(self) -> None:
        self._spans: dict[bytes, _Span] = {}
        # Holds what is no longer true, too; ``_spans`` decides.
        self._queue: list[tuple[int, bytes]] = []

    def set(self, address: bytes, due: int, latest: int = NEVER) -> None:
        """The lease is to be ended at ``due``, whatever was said before.

        Nobody is promised it for longer than ``latest``.
        """
        self._spans[address] = _Span(due, latest)
        heapq.heappush(self._queue, (due, address))
        if len(self._queue) > 64 + 4 * len(self._spans):
            self._queue = sorted((span.due, address) for address, span in self._spans.items())

    def put_off(self, address: bytes, until: int) -> None:
        """Not before ``until``, but at the latest when it can be promised no longer."""
        span = self._spans.get(address)
        if span is not None:
            self.set(address, min(max(span.due, until), span.latest), span.latest)

    def discard(self, address: bytes) -> None:
        """There is no lease, or one without end."""
        self._spans.pop(address, None)

    def due(self, address: bytes) -> int | None:
        """When it is to be ended; None: never."""
        span = self._spans.get(address)
        return None if span is None else span.due

    def good_until(self, address: bytes) -> int | None:
        """For how long its client may have it, if nothing is heard; None: for ever."""
        span = self._spans.get(address)
        return None if span is None else min(span)

    def next(self) -> int | None:
        """When the first is due."""
        while self._queue:
            due, address = self._queue[0]
            if self.due(address) == due:
                return due
            heapq.heappop(self._queue)
        return None

    def take_due(self, now: int, again: int) -> list[bytes]:
        """What is due, each once, and once more at ``again`` if it is still there then."""
        found = []
        while (due := self.next()) is not None and due <= now:
            _, address = heapq.heappop(self._queue)
            self.set(address, again, self._spans[address].latest)
            found.append(address)
        return found
