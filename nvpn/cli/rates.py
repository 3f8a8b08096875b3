"""How fast a tunnel's counters grow, from looking at them again and again. Pure over ``now``."""

from __future__ import annotations

from typing import NamedTuple

from nvpn.control.records import TunnelRecord


class Rate(NamedTuple):
    """Bytes a second between the last two looks."""

    received: float
    sent: float


class _Look(NamedTuple):
    at: float
    received: int
    sent: int


class Rates:
    """Of every peer that was seen twice in a row."""

    def __init__(self) -> None:
        self._looks: dict[tuple[str, str], _Look] = {}
        self._rates: dict[tuple[str, str], Rate] = {}

    def look(self, tunnels: list[TunnelRecord], now: float) -> None:
        """See what the counters have come to. ``now`` is in seconds and never jumps."""
        before, self._looks, self._rates = self._looks, {}, {}
        for tunnel in tunnels:
            for peer in tunnel.peers:
                key = (tunnel.name, peer.public_key)
                look = self._looks[key] = _Look(now, peer.rx_bytes, peer.tx_bytes)
                rate = _between(before.get(key), look)
                if rate is not None:
                    self._rates[key] = rate

    def of(self, tunnel: TunnelRecord) -> dict[str, Rate]:
        """By public key; peers seen for the first time have none."""
        return {
            peer.public_key: self._rates[key]
            for peer in tunnel.peers
            if (key := (tunnel.name, peer.public_key)) in self._rates
        }


def _between(before: _Look | None, now: _Look) -> Rate | None:
    if before is None or now.at <= before.at:
        return None
    received, sent = now.received - before.received, now.sent - before.sent
    if received < 0 or sent < 0:
        return None  # it was removed and added again, or the tunnel is another one
    seconds = now.at - before.at
    return Rate(received / seconds, sent / seconds)
