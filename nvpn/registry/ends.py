"""When leases end, by the boot clock, which neither jumps nor can be set."""

from __future__ import annotations

import heapq


class Ends:
    """The end of each address's lease, in boot nanoseconds; the next ones first."""

    def __init__(self) -> None:
        self._ends: dict[bytes, int] = {}
        # Holds what is no longer true, too; ``_ends`` decides.
        self._queue: list[tuple[int, bytes]] = []

    def set(self, address: bytes, end: int) -> None:
        """The lease ends then, whatever was said before."""
        self._ends[address] = end
        heapq.heappush(self._queue, (end, address))
        if len(self._queue) > 64 + 4 * len(self._ends):
            self._queue = sorted((end, address) for address, end in self._ends.items())

    def discard(self, address: bytes) -> None:
        """There is no lease, or one without end."""
        self._ends.pop(address, None)

    def get(self, address: bytes) -> int | None:
        """When it ends; None: it does not."""
        return self._ends.get(address)

    def next(self) -> int | None:
        """The earliest end."""
        while self._queue:
            end, address = self._queue[0]
            if self._ends.get(address) == end:
                return end
            heapq.heappop(self._queue)
        return None

    def take_due(self, now: int) -> list[bytes]:
        """What has ended, each once: whoever takes it ends the lease or sets another end."""
        due = []
        while (end := self.next()) is not None and end <= now:
            _, address = heapq.heappop(self._queue)
            del self._ends[address]
            due.append(address)
        return due
