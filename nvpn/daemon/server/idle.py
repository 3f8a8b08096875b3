"""Which clients have said nothing for a while, and what becomes of their leases.

What is looked at is how many authentic bytes came from each: so it needs no other clock than
the one of whoever looks, and costs a packet nothing. Keepalives count as something said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from nvpn.errors import ServiceError
from nvpn.model.clock import SECOND, Now
from nvpn.model.keys import PublicKey
from nvpn.model.snapshot import PeerSnapshot
from nvpn.registry.model import Ending, Lease
from nvpn.registry.registry import Registry

_log: Final = logging.getLogger(__name__)

_LOOKS: Final = 4
"""In the time that a client may be silent: so exactly is it known when it fell silent."""

_SHORTEST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_PEERS_A_TURN: Final = 256


class Peers(Protocol):
    """What of a backend is used."""

    def peer(self, peer: PublicKey) -> PeerSnapshot | None:
        """One peer now, None for an unknown one."""


class IdleWatch:
    """Remembers for how long each client's count has stood still.

    Time in which nobody looked, because this host slept, is no silence of theirs.
    """

    def __init__(self) -> None:
        self._counts: dict[PublicKey, tuple[int, int]] = {}
        self._looked_at = 0

    def look(
        self, received: Mapping[PublicKey, int], timeout: int, now: int
    ) -> tuple[PublicKey, ...]:
        """Those who have been silent for ``timeout``.

        Args:
            received: bytes by client, of all who hold a lease; others are forgotten.
            timeout, now: nanoseconds, ``now`` of the boot clock. Between two looks is less
                than half of the timeout.
        """
        passed = now - self._looked_at
        self._looked_at = now
        if passed > timeout // 2:
            passed = 0
        before, self._counts = self._counts, {}
        for client, count in received.items():
            last, silent = before.get(client, (-1, 0))
            self._counts[client] = (count, silent + passed if count == last else 0)
        return tuple(client for client, (_, silent) in self._counts.items() if silent >= timeout)


class IdleReleaser:
    """Ends the leases of those who are silent for longer than they may."""

    def __init__(self, registry: Registry, peers: Peers, clocks: Callable[[], Now]) -> None:
        self._registry = registry
        self._peers = peers
        self._clocks = clocks
        self._watch = IdleWatch()

    async def run(self, timeout: Callable[[], int]) -> None:
        """For ever. ``timeout`` is in seconds and may change; 0: nobody is too silent."""
        while True:
            seconds = timeout()
            pause = min(max(seconds / _LOOKS, _SHORTEST_PAUSE), _LONGEST_PAUSE)
            await asyncio.sleep(pause if seconds else _LONGEST_PAUSE)
            if seconds:
                await self.release(seconds)

    async def release(self, seconds: int) -> None:
        """Look once, and end what is to end. Never raises for a store that is away."""
        leases: dict[PublicKey, Lease] = {}
        received: dict[PublicKey, int] = {}
        for place, client in enumerate(self._registry.holders(), 1):
            lease, now = self._registry.lease_of(client), self._peers.peer(client)
            if lease is not None and now is not None and self._may_end(lease):
                leases[client], received[client] = lease, now.rx_bytes
            if place % _PEERS_A_TURN == 0:
                await asyncio.sleep(0)
        for client in self._watch.look(received, seconds * SECOND, self._clocks().boot):
            now = self._peers.peer(client)
            has_spoken = now is None or now.rx_bytes != received[client]
            if has_spoken or self._registry.lease_of(client) != leases[client]:
                continue  # while the leases of others ended
            _log.info("idle for %d s: its lease ends", seconds, extra={"peer": client.short})
            try:
                await self._registry.release(client, Ending.IDLE)
            except ServiceError as error:
                _log.info("%s", error, extra={"peer": client.short})

    def _may_end(self, lease: Lease) -> bool:
        """Not what was given for good, nor what another server gave: there its client speaks."""
        return lease.expires_at is not None and lease.server == self._registry.server
