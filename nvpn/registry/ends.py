"""When leases end, by the boot clock, which neither jumps nor can be set."""

from __future__ import annotations

import heapq
from typing import Final, NamedTuple

NEVER: Final = 1 << 63


class _Span(NamedTuple):
    due: int
    over: int
    latest: int


class Ends:
    """The end of each address's lease, in boot nanoseconds; the next ones first."""

    def __init__(self) -> None:
        self._spans: dict[bytes, _Span] = {}
        # Holds what is no longer true, too; ``_spans`` decides.
        self._queue: list[tuple[int, bytes]] = []

    def set(self, address: bytes, over: int, latest: int = NEVER) -> None:
        """The lease is over then, whatever was said before.

        Args:
            latest: nobody is promised it for longer.
        """
        self._put(address, _Span(over, over, latest))

    def put_off(self, address: bytes, until: int) -> None:
        """Its client is promised that it has it until then, or until ``latest``."""
        span = self._spans.get(address)
        if span is not None:
            due = min(max(span.due, until), span.latest)
            self._put(address, span._replace(due=due))

    def discard(self, address: bytes) -> None:
        """There is no lease, or one without end."""
        self._spans.pop(address, None)

    def due(self, address: bytes) -> int | None:
        """When it is to be looked at; None: never."""
        span = self._spans.get(address)
        return None if span is None else span.due

    def is_over(self, address: bytes, now: int) -> bool:
        """Whether it may be ended for everybody."""
        span = self._spans.get(address)
        return span is not None and span.over <= now

    def good_until(self, address: bytes) -> int | None:
        """For how long its client may have it, if nothing is heard; None: for ever."""
        span = self._spans.get(address)
        return None if span is None else min(span.due, span.latest)

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
            self._put(address, self._spans[address]._replace(due=again))
            found.append(address)
        return found

    def _put(self, address: bytes, span: _Span) -> None:
        self._spans[address] = span
        heapq.heappush(self._queue, (span.due, address))
        if len(self._queue) > 64 + 4 * len(self._spans):
            self._queue = sorted((span.due, address) for address, span in self._spans.items())
