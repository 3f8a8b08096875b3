"""A configuration with what a server told upon it: pure.

What the file gives wins; addresses, routes and endpoints add up.
"""

from __future__ import annotations

from dataclasses import replace

from nvpn.config.model import InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.config.values import MAX_ENDPOINTS
from nvpn.daemon.leasing.servers import merge_servers
from nvpn.daemon.leasing.told import Told
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Change,
    Owner,
    Plan,
    RemoveAllowedIp,
    RemovePeer,
    SetName,
    SetPersistentKeepalive,
)
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface, Prefix


def servers_of(config: TunnelConfig, told: Told | None = None) -> tuple[PublicKey, ...]:
    """The peers that may lease us addresses, in the order of the file, and then those that
    it does not name.
    """
    return tuple(peer.public_key for peer in with_servers(config, told).peers if peer.server)


def with_servers(config: TunnelConfig, told: Told | None) -> TunnelConfig:
    """With the servers that the file does not name after those that it does.

    They count as long as the file names the one that they are known by. A server has none: its
    peers that the file does not name are its clients.
    """
    given = {peer.public_key: peer.server for peer in config.peers}
    is_known = told is not None and given.get(told.known_by or told.server)
    if told is None or not is_known or config.server is not None:
        return config
    further = tuple(
        PeerConfig(
            one.public_key,
            one.name,
            endpoint=one.endpoints[0],
            other_endpoints=one.endpoints[1:],
            server=True,
        )
        for one in told.servers
        if one.public_key not in given
    )
    return replace(config, peers=config.peers + further) if further else config


def with_knowledge(told: Told, before: Told | None, config: TunnelConfig) -> Told:
    """What a server tells, with itself among the others where the file does not name it."""
    if before is None or told.server in servers_of(config):
        return told
    servers = merge_servers(before.servers, told.servers, told.server)
    return replace(told, servers=servers, known_by=before.known_by or before.server)


def overlay(config: TunnelConfig, told: Told | None) -> TunnelConfig:
    """The effective configuration.

    Args:
        told: None for nothing; what a peer says that is no server counts as that.
    """
    config = with_servers(config, told)
    if told is None or told.server not in servers_of(config):
        return config
    return replace(
        config,
        interface=_interface(config.interface, told),
        peers=tuple(
            _server(peer, told) if peer.public_key == told.server else peer
            for peer in config.peers
        ),
    )


def leased_addresses(config: TunnelConfig, told: Told | None) -> tuple[Interface, ...]:
    """What the interface has of the server alone."""
    given = set(config.interface.addresses)
    return tuple(
        address for address in overlay(config, told).interface.addresses if address not in given
    )


def leased_keepalives(config: TunnelConfig, told: Told | None) -> dict[PublicKey, int]:
    """The persistent keepalive, in seconds, that a peer has by the server's wish alone."""
    effective = overlay(config, told)
    if told is None or not told.keepalive or told.server not in servers_of(effective):
        return {}
    given = with_servers(config, told).peers
    is_given = any(
        peer.public_key == told.server and peer.persistent_keepalive is not None for peer in given
    )
    return {} if is_given else {told.server: told.keepalive}


def lease_plan(
    before: tuple[TunnelConfig, Told | None], after: tuple[TunnelConfig, Told | None]
) -> Plan:
    """The changes to peers and allowed IPs that are not the file's.

    Each side is a configuration of the file and what was told upon it. What belongs to the
    file is its own difference's (:func:`nvpn.config.plan.diff`) business.
    """
    changes = _changes_of_servers(before, after)
    old, new = _leased(*before), _leased(*after)
    changes += [
        RemoveAllowedIp(peer, prefix)
        for peer, prefix in old
        if (peer, prefix) not in new and prefix not in _given(after[0], peer)
    ]
    changes += [
        AddAllowedIp(peer, prefix, Owner.LEASE)
        for peer, prefix in new
        if (peer, prefix) not in old
    ]
    # Last: from nothing to something sends a keepalive at once.
    return tuple(changes + _changes_of_keepalives(before, after))


def _changes_of_servers(
    before: tuple[TunnelConfig, Told | None], after: tuple[TunnelConfig, Told | None]
) -> list[Change]:
    old, new = _further(*before), _further(*after)
    given = {peer.public_key for peer in after[0].peers}
    changes: list[Change] = [RemovePeer(key) for key in old if key not in new and key not in given]
    for key, name in new.items():
        if key not in old:
            changes += [AddPeer(key, Owner.LEASE), SetName(key, name)]
        elif name != old[key]:
            changes.append(SetName(key, name))
    return changes


def _changes_of_keepalives(
    before: tuple[TunnelConfig, Told | None], after: tuple[TunnelConfig, Told | None]
) -> list[Change]:
    old, new = leased_keepalives(*before), leased_keepalives(*after)
    given = {peer.public_key: peer.persistent_keepalive for peer in with_servers(*after).peers}
    changes: list[Change] = [
        SetPersistentKeepalive(key, given[key] or 0)
        for key in old
        if key not in new and key in given
    ]
    changes += [
        SetPersistentKeepalive(key, seconds)
        for key, seconds in new.items()
        if seconds != old.get(key)
    ]
    return changes


def _further(config: TunnelConfig, told: Told | None) -> dict[PublicKey, str]:
    """Names of the servers that the file does not name."""
    further = with_servers(config, told).peers[len(config.peers) :]
    return {peer.public_key: peer.name for peer in further}


def _leased(config: TunnelConfig, told: Told | None) -> dict[tuple[PublicKey, Prefix], None]:
    if told is None or told.server not in servers_of(config, told):
        return {}
    given = _given(config, told.server)
    return {(told.server, prefix): None for prefix in told.routes if prefix not in given}


def _given(config: TunnelConfig, peer: PublicKey) -> frozenset[Prefix]:
    return frozenset(
        prefix for one in config.peers if one.public_key == peer for prefix in one.allowed_ips
    )


def _interface(interface: InterfaceConfig, told: Told) -> InterfaceConfig:
    taken = {address.address for address in interface.addresses}
    leased = tuple(address for address in told.addresses if address.address not in taken)
    return replace(
        interface,
        addresses=interface.addresses + leased,
        dns=told.dns if interface.dns is None else interface.dns,
        mtu=told.mtu if interface.mtu is None else interface.mtu,
    )


def _server(peer: PeerConfig, told: Told) -> PeerConfig:
    given = set(peer.allowed_ips)
    routes = tuple(prefix for prefix in told.routes if prefix not in given)
    others = peer.other_endpoints
    if peer.endpoint is not None:
        known = set(peer.endpoints)
        others += tuple(place for place in told.endpoints if place not in known)
    return replace(
        peer,
        allowed_ips=peer.allowed_ips + routes,
        other_endpoints=others[: MAX_ENDPOINTS - 1],
        persistent_keepalive=(
            told.keepalive if peer.persistent_keepalive is None else peer.persistent_keepalive
        ),
    )
