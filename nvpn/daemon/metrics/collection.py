"""All numbers of one tunnel, collected when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from nvpn.daemon.connections import Connections
from nvpn.daemon.events import EventBus
from nvpn.daemon.metrics.exposition import Metric
from nvpn.daemon.metrics.sources import (
    Tunnel,
    breaker_metrics,
    build_metrics,
    channel_metrics,
    lease_metrics,
    peer_metrics,
    tunnel_metrics,
)
from nvpn.model.clock import Now, read_clocks
from nvpn.model.keys import PublicKey
from nvpn.registry.model import Client, Invitation
from nvpn.resilience.registry import Breakers


class Leases(Protocol):
    """What is asked of a :class:`nvpn.registry.registry.Registry`."""

    def clients(self) -> tuple[Client, ...]:
        """Who was admitted and not revoked."""

    def invitations(self) -> tuple[Invitation, ...]:
        """All that are remembered."""

    def holders(self) -> tuple[PublicKey, ...]:
        """Who holds a lease."""

    def leased_addresses(self) -> tuple[bytes, ...]:
        """All that they hold."""


class Collection:
    """Call it for the numbers as they are now.

    Args:
        registry: of a server; gives None while there is none.
        channel: ``ChannelPort.statistics``; gives None while the channel is closed.
    """

    def __init__(
        self,
        interface: str,
        tunnel: Tunnel,
        connections: Connections,
        events: EventBus,
        breakers: Breakers,
        *,
        registry: Callable[[], Leases | None],
        channel: Callable[[], Mapping[str, int] | None],
        clocks: Callable[[], Now] = read_clocks,
    ) -> None:
        self._interface = interface
        self._tunnel = tunnel
        self._connections = connections
        self._events = events
        self._breakers = breakers
        self._registry = registry
        self._channel = channel
        self._clocks = clocks

    async def __call__(self) -> list[Metric]:
        """By turns with packets."""
        here, now = self._interface, self._clocks()
        metrics = [
            *build_metrics(),
            *await peer_metrics(here, self._tunnel),
            *tunnel_metrics(here, self._tunnel, self._connections, self._events),
            *breaker_metrics(here, self._breakers.snapshots(now.boot)),
        ]
        if (registry := self._registry()) is not None:
            metrics += lease_metrics(
                here,
                clients=registry.clients(),
                invitations=registry.invitations(),
                holders=len(registry.holders()),
                addresses=registry.leased_addresses(),
                now=now.wall,
            )
        if (statistics := self._channel()) is not None:
            metrics += channel_metrics(here, statistics)
        return metrics
