"""From a configuration to the plan of changes that makes a tunnel so."""

from __future__ import annotations

from collections.abc import Mapping

from nvpn.config.model import HostPort, PeerConfig, TunnelConfig
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Change,
    Owner,
    Plan,
    RemoveAllowedIp,
    RemovePeer,
    SetEndpoint,
    SetFwmark,
    SetListenPort,
    SetName,
    SetPersistentKeepalive,
    SetPresharedKey,
    SetPrivateKey,
)
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot


def diff(
    snapshot: TunnelSnapshot,
    config: TunnelConfig,
    endpoints: Mapping[PublicKey, Endpoint],
    *,
    previous: TunnelConfig | None = None,
) -> Plan:
    """The fewest changes that bring a running tunnel to what the configuration says.

    A peer that is as configured is not mentioned, so its session goes on. Settings that
    the file dropped (preshared key, keepalive, allowed IPs, fwmark) are reset. What the
    file does not speak of because others may have set it (private key, listen port,
    endpoint) stays. Peers that somebody other than the configuration owns stay, unless
    the configuration names them: then they become its own.

    Args:
        endpoints: the first choice of each peer whose configured endpoints are resolved; for
            others the peer keeps its own. Where else it may be is not this plan's business.
        previous: what the tunnel was configured by before. With it, a peer in session that
            has roamed away from endpoints whose configuration did not change stays there.
    """
    changes: list[Change] = []
    interface = config.interface
    if interface.private_key is not None and interface.private_key != snapshot.private_key:
        changes.append(SetPrivateKey(interface.private_key))
    if interface.fwmark != snapshot.fwmark:
        changes.append(SetFwmark(interface.fwmark))
    if interface.listen_port is not None and interface.listen_port != snapshot.listen_port:
        changes.append(SetListenPort(interface.listen_port))

    wanted = {peer.public_key for peer in config.peers}
    running = {peer.public_key: peer for peer in snapshot.peers}
    changes += [
        RemovePeer(peer.public_key)
        for peer in snapshot.peers
        if peer.owner is Owner.CONFIG and peer.public_key not in wanted
    ]
    # A prefix that moves between peers is taken away by its new owner.
    taken = {prefix: peer.public_key for peer in config.peers for prefix in peer.allowed_ips}
    configured_before = _endpoints_of(previous)
    for peer in config.peers:
        now = running.get(peer.public_key)
        if now is None or now.owner is not Owner.CONFIG:
            changes.append(AddPeer(peer.public_key))
        now = now or PeerSnapshot(peer.public_key)
        changes += _settings(peer, now)
        endpoint = endpoints.get(peer.public_key)
        if endpoint is not None and peer.endpoint is not None:
            unchanged = configured_before.get(peer.public_key) == peer.endpoints
            in_session = now.session_age is not None
            if not _same_place(endpoint, now.endpoint) and not (unchanged and in_session):
                changes.append(SetEndpoint(peer.public_key, endpoint))
        changes += _allowed_ips(peer, now, taken)
        keepalive = peer.persistent_keepalive or 0
        if keepalive != now.persistent_keepalive:
            # Last: from nothing to something sends a keepalive at once.
            changes.append(SetPersistentKeepalive(peer.public_key, keepalive))
    return tuple(changes)


def _settings(peer: PeerConfig, now: PeerSnapshot) -> list[Change]:
    changes: list[Change] = []
    if peer.name != now.name:
        changes.append(SetName(peer.public_key, peer.name))
    if _some(peer.preshared_key) != _some(now.preshared_key):
        changes.append(SetPresharedKey(peer.public_key, peer.preshared_key))
    return changes


def _allowed_ips(
    peer: PeerConfig, now: PeerSnapshot, taken: Mapping[Prefix, PublicKey]
) -> list[Change]:
    # What was leased stays, unless the file gives it to somebody.
    leased = set(now.leased)
    before, after = set(now.allowed_ips) - leased, set(peer.allowed_ips)
    gone: list[Change] = [
        RemoveAllowedIp(peer.public_key, prefix)
        for prefix in now.allowed_ips
        if prefix not in after and prefix not in taken and prefix not in leased
    ]
    new: list[Change] = [
        AddAllowedIp(peer.public_key, prefix)
        for prefix in peer.allowed_ips
        if prefix not in before
    ]
    return gone + new


def _endpoints_of(config: TunnelConfig | None) -> Mapping[PublicKey, tuple[HostPort, ...]]:
    if config is None:
        return {}
    return {peer.public_key: peer.endpoints for peer in config.peers}


def _same_place(one: Endpoint, other: Endpoint | None) -> bool:
    return other is not None and one.remote == other.remote


def _some(key: PresharedKey | None) -> PresharedKey | None:
    """A key of zeros is none at all."""
    return None if key is None or key.is_zero else key
