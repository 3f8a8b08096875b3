"""Packets that wait for a session: a short queue per peer, within one bound for the device."""

from __future__ import annotations

from collections import deque
from typing import Final

from nvpn.wire.constants import MAX_STAGED_PACKETS

MAX_STAGED_BYTES: Final = 32 << 20
"""Of all peers together: 10,000 silent peers must not take the memory of the others."""


class StagingBudget:
    """Bytes that all queues of a device may hold together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = MAX_STAGED_BYTES) -> None:
        self.limit: Final = limit
        self.used = 0


class StagedPackets:
    """One peer's queue: plain inner packets in order, the oldest dropped first."""

    __slots__ = ("_budget", "_packets")

    def __init__(self, budget: StagingBudget) -> None:
        self._budget: Final = budget
        self._packets: deque[bytes] = deque()

    def push(self, packet: bytes) -> int:
        """Queue a packet.

        Returns:
            how many packets were dropped for it, itself included when the device's
            budget has no room that this peer could free.
        """
        packets, budget = self._packets, self._budget
        dropped = 0
        while packets and (
            len(packets) >= MAX_STAGED_PACKETS or budget.used + len(packet) > budget.limit
        ):
            budget.used -= len(packets.popleft())
            dropped += 1
        if budget.used + len(packet) > budget.limit:
            return dropped + 1
        packets.append(packet)
        budget.used += len(packet)
        return dropped

    def take(self) -> list[bytes]:
        """Everything, oldest first; the queue is empty afterwards."""
        taken = list(self._packets)
        self._packets.clear()
        self._budget.used -= sum(map(len, taken))
        return taken

    def __len__(self) -> int:
        return len(self._packets)
