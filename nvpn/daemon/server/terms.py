"""From a configuration to what a registry may lease, and to what clients are told: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from nvpn.channel.messages import (
    MAX_NAME,
    MAX_SERVERS,
    Enrolled,
    OtherServer,
    Settings,
    encode,
)
from nvpn.config.model import ServerConfig, StoreKind, TunnelConfig
from nvpn.daemon.leasing.port import our_name
from nvpn.model.keys import PublicKey
from nvpn.registry.model import FilePeer, Lease, RegistrySettings, Server

_A = TypeVar("_A", Enrolled, Settings)

KEEPALIVE: Final = 25
"""Seconds. What a client is asked for, so that it can be reached behind its router."""

_MAX_SECONDS: Final = 2**32 - 1


def registry_settings(config: TunnelConfig, key: PublicKey | None) -> RegistrySettings:
    """What may be leased, and who we are to others on the same store.

    Args:
        key: our public key, if we have one.
    """
    terms = config.server
    assert terms is not None
    is_shared = terms.store.kind is not StoreKind.FILE
    announced = None
    if is_shared and key is not None and terms.endpoints:
        announced = Server(key, our_name(), terms.endpoints)
    return RegistrySettings(
        pools=terms.pools,
        own=config.interface.addresses,
        reserved=terms.reserved,
        reservations=terms.reservations,
        lease_seconds=terms.lease_time,
        server=config.name if key is None else key.base64,
        announced=announced,
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
    # What is over this moment is not for ever, which is what 0 says.
    seconds = 0 if remaining is None else min(max(remaining, 1), _MAX_SECONDS)
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
        keepalive=_keepalive(terms),
    )


def with_servers(answer: _A, servers: Sequence[Server]) -> _A:
    """The answer with as many of these servers as one message has room for."""
    told = tuple(
        OtherServer(one.public_key, one.name, tuple(map(str, one.endpoints)))
        for one in servers[:MAX_SERVERS]
    )
    while told:
        try:
            whole = replace(answer, servers=told)
            encode(whole)
        except ValueError:
            told = told[:-1]
        else:
            return whole
    return answer


def _keepalive(terms: ServerConfig) -> int:
    """Whoever is to go when it is silent is not to be kept from being silent."""
    return 0 if terms.idle_timeout else KEEPALIVE


def _told(terms: ServerConfig) -> tuple[object, ...]:
    return (
        terms.routes,
        terms.dns,
        terms.search,
        terms.mtu,
        terms.endpoints,
        terms.lease_time,
        _keepalive(terms),
    )
