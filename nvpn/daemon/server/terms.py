"""From a configuration to what a registry may lease, and to what clients are told: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nvpn.channel.messages import MAX_NAME, Settings
from nvpn.config.model import ServerConfig, TunnelConfig
from nvpn.model.keys import PublicKey
from nvpn.registry.model import FilePeer, Lease, RegistrySettings

_MAX_SECONDS: Final = 2**32 - 1


def registry_settings(config: TunnelConfig, server: str) -> RegistrySettings:
    """What may be leased.

    Args:
        server: what tells us from others on the same store: our public key.
    """
    terms = config.server
    assert terms is not None
    return RegistrySettings(
        pools=terms.pools,
        own=config.interface.addresses,
        reserved=terms.reserved,
        reservations=terms.reservations,
        lease_seconds=terms.lease_time,
        server=server,
    )


def file_peers(config: TunnelConfig) -> Mapping[PublicKey, FilePeer]:
    """The peers of the file, by their keys."""
    return {peer.public_key: FilePeer(peer.name, peer.allowed_ips) for peer in config.peers}


def tells_otherwise(before: ServerConfig, after: ServerConfig) -> bool:
    """Whether a client that asked again would be told something else, its addresses apart."""
    return _told(before) != _told(after)


def settings_for(
    terms: ServerConfig, lease: Lease, remaining: int | None, *, name: str, server: str
) -> Settings:
    """What a client is told.

    Args:
        remaining: seconds that the lease is good for; None: for ever.
        name: what we call the client.
        server: what we call ourselves.
    """
    seconds = min(remaining or 0, _MAX_SECONDS)
    return Settings(
        addresses=lease.addresses,
        routes=terms.routes,
        dns=terms.dns,
        search=terms.search,
        mtu=terms.mtu,
        lease_seconds=seconds,
        renew_seconds=max(1, seconds // 2) if seconds else 0,
        endpoints=tuple(map(str, terms.endpoints)),
        name=name[:MAX_NAME],
        server=server[:MAX_NAME],
    )


def _told(terms: ServerConfig) -> tuple[object, ...]:
    return (
        terms.routes,
        terms.dns,
        terms.search,
        terms.mtu,
        terms.endpoints,
        terms.lease_time,
    )
