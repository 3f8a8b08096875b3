"""Which numbers there are, and where they come from.

What prometheus_wireguard_exporter has is told under its names and with its labels, so that
its dashboards go on working; all else begins with ``nvpn_``.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from nvpn import __version__
from nvpn.daemon.connections import Connections
from nvpn.daemon.events import EventBus
from nvpn.daemon.metrics.exposition import Kind, Metric, format_labels, sample
from nvpn.errors import DropReason
from nvpn.model.changes import Owner
from nvpn.model.clock import SECOND
from nvpn.model.guest_name import is_guest
from nvpn.model.keys import PublicKey
from nvpn.model.snapshot import PeerSnapshot
from nvpn.registry.model import Client, Invitation, InvitationState, Origin
from nvpn.resilience.breaker import BreakerSnapshot, BreakerState

_PEERS_A_TURN: Final = 100
_DROPPED: Final = "dropped_"
_CHANNEL_GAUGES: Final = frozenset({"questions_open", "requests_served"})

Source = Callable[[], Iterable[Metric]]
"""Some metrics as they are now."""


class Tunnel(Protocol):
    """What is asked of a :class:`nvpn.backend.api.TunnelBackend`."""

    def peers(self) -> list[PublicKey]:
        """All of them."""

    def peer(self, peer: PublicKey) -> PeerSnapshot | None:
        """One peer now, None for an unknown one."""

    def drops(self) -> Mapping[DropReason, int]:
        """Dropped packets by reason since the start."""


async def peer_metrics(interface: str, tunnel: Tunnel) -> list[Metric]:
    """What there is of each peer, by turns with packets."""
    sent = Metric("wireguard_sent_bytes", Kind.COUNTER, "Bytes sent to the peer", "bytes")
    received = Metric(
        "wireguard_received_bytes", Kind.COUNTER, "Bytes received from the peer", "bytes"
    )
    handshake = Metric(
        "wireguard_latest_handshake_seconds",
        Kind.GAUGE,
        "Unix time of the last handshake; 0 for never",
        "seconds",
    )
    count = 0
    for number, key in enumerate(tunnel.peers(), 1):
        peer = tunnel.peer(key)
        if peer is not None and not _is_guest(peer):
            count += 1
            labels = _peer_labels(interface, peer)
            sent.samples.append(sample(sent.sample_name, labels, peer.tx_bytes))
            received.samples.append(sample(received.sample_name, labels, peer.rx_bytes))
            at = peer.last_handshake // SECOND
            handshake.samples.append(sample(handshake.sample_name, labels, at))
        if number % _PEERS_A_TURN == 0:
            await asyncio.sleep(0)
    peers = Metric("nvpn_peers", Kind.GAUGE, "Peers of the file, and clients")
    peers.add({"interface": interface}, count)
    return [sent, received, handshake, peers]


def build_metrics() -> list[Metric]:
    """Which nvpn this is."""
    build = Metric("nvpn_build", Kind.INFO, "The version of nvpn, and of what runs it")
    build.add({"version": __version__, "python": platform.python_version()}, 1)
    return [build]


def tunnel_metrics(
    interface: str, tunnel: Tunnel, connections: Connections, events: EventBus
) -> list[Metric]:
    """What there is of the tunnel as a whole."""
    here = {"interface": interface}
    connected = Metric(
        "nvpn_connected_peers", Kind.GAUGE, "Peers with a session, clients with a lease, too"
    )
    connected.add(here, len(connections))
    handshakes = Metric("nvpn_handshakes", Kind.COUNTER, "Handshakes by what became of them")
    for result, count in connections.handshakes.items():
        handshakes.add({**here, "result": result}, count)
    drops = Metric("nvpn_dropped_packets", Kind.COUNTER, "Packets dropped, by reason", "packets")
    for reason, count in tunnel.drops().items():
        drops.add({**here, "reason": reason.value}, count)
    happened = Metric("nvpn_events", Kind.COUNTER, "Events, by what happened")
    for event, count in events.counts.items():
        happened.add({**here, "event": event}, count)
    return [connected, handshakes, drops, happened]


def breaker_metrics(interface: str, breakers: Sequence[BreakerSnapshot]) -> list[Metric]:
    """Which services are left alone."""
    state = Metric("nvpn_breaker_state", Kind.GAUGE, "1 for the state that the breaker is in")
    openings = Metric("nvpn_breaker_openings", Kind.COUNTER, "How often the breaker opened")
    for breaker in breakers:
        labels = {"interface": interface, "breaker": breaker.name}
        for one in BreakerState:
            state.add({**labels, "state": one.value}, int(breaker.state is one))
        openings.add(labels, breaker.openings)
    return [state, openings]


def lease_metrics(
    interface: str,
    *,
    clients: Sequence[Client],
    invitations: Sequence[Invitation],
    holders: int,
    addresses: Sequence[bytes],
    now: int,
) -> list[Metric]:
    """What a server has given away.

    Args:
        holders: how many have a lease.
        addresses: what is leased, 4 or 16 bytes each.
        now: Unix time in nanoseconds.
    """
    here = {"interface": interface}
    admitted = Metric("nvpn_clients", Kind.GAUGE, "Clients that are admitted")
    guests = [one for one in clients if one.origin is not Origin.FILE and not one.revoked_at]
    admitted.add(here, len(guests))
    given = Metric("nvpn_leases", Kind.GAUGE, "Leases that are held")
    given.add(here, holders)
    leased = Metric("nvpn_leased_addresses", Kind.GAUGE, "Addresses that are leased")
    for family, length in (("ipv4", 4), ("ipv6", 16)):
        count = sum(len(address) == length for address in addresses)
        leased.add({**here, "family": family}, count)
    open_ones = Metric("nvpn_invitations", Kind.GAUGE, "Invitations that may be used")
    usable = sum(invitation.state(now) is InvitationState.OPEN for invitation in invitations)
    open_ones.add(here, usable)
    return [admitted, given, leased, open_ones]


def channel_metrics(interface: str, statistics: Mapping[str, int]) -> list[Metric]:
    """What went through the control channel, see ``ChannelPort.statistics``."""
    here = {"interface": interface}
    messages = Metric("nvpn_channel_messages", Kind.COUNTER, "Messages by what became of them")
    dropped = Metric("nvpn_channel_dropped", Kind.COUNTER, "Datagrams dropped, by reason")
    gauges = []
    for name, count in statistics.items():
        if name in _CHANNEL_GAUGES:
            gauge = Metric(
                f"nvpn_channel_{name}", Kind.GAUGE, f"{name.capitalize().replace('_', ' ')} now"
            )
            gauge.add(here, count)
            gauges.append(gauge)
        elif name.startswith(_DROPPED):
            reason = name.removeprefix(_DROPPED).replace("_", "-")
            dropped.add({**here, "reason": reason}, count)
        else:
            messages.add({**here, "what": name.replace("_", "-")}, count)
    return [messages, dropped, *gauges]


def _is_guest(peer: PeerSnapshot) -> bool:
    return is_guest(
        peer.name,
        is_leased=peer.owner is Owner.LEASE,
        has_addresses=bool(peer.allowed_ips),
    )


def _peer_labels(interface: str, peer: PeerSnapshot) -> str:
    labels = {
        "interface": interface,
        "public_key": peer.public_key.base64,
        # As `wg show dump` writes it, which the exporter passes on.
        "allowed_ips": ",".join(map(str, peer.allowed_ips)) or "(none)",
    }
    if peer.name:
        labels["friendly_name"] = peer.name
    return format_labels(labels)
