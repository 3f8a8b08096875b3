"""A configuration with what a server told upon it: pure.

What the file gives wins; addresses, routes and endpoints add up.
"""

from __future__ import annotations

from dataclasses import replace

from nvpn.config.model import InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.config.values import MAX_ENDPOINTS
from nvpn.daemon.leasing.told import Told
from nvpn.model.changes import AddAllowedIp, Change, Owner, Plan, RemoveAllowedIp
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface, Prefix


def servers_of(config: TunnelConfig) -> tuple[PublicKey, ...]:
    """The peers that may lease us addresses, in the order of the file."""
    return tuple(peer.public_key for peer in config.peers if peer.server)


def overlay(config: TunnelConfig, told: Told | None) -> TunnelConfig:
    """The effective configuration.

    Args:
        told: None for nothing; what a peer says that is no server of the file counts as that.
    """
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


def lease_plan(
    before: tuple[TunnelConfig, Told | None], after: tuple[TunnelConfig, Told | None]
) -> Plan:
    """The changes to allowed IPs that are not the file's.

    Each side is a configuration of the file and what was told upon it. What belongs to the
    file is its own difference's (:func:`nvpn.config.plan.diff`) business.
    """
    old, new = _leased(*before), _leased(*after)
    changes: list[Change] = [
        RemoveAllowedIp(peer, prefix)
        for peer, prefix in old
        if (peer, prefix) not in new and prefix not in _given(after[0], peer)
    ]
    changes += [
        AddAllowedIp(peer, prefix, Owner.LEASE)
        for peer, prefix in new
        if (peer, prefix) not in old
    ]
    return tuple(changes)


def _leased(config: TunnelConfig, told: Told | None) -> dict[tuple[PublicKey, Prefix], None]:
    if told is None or told.server not in servers_of(config):
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
    )
