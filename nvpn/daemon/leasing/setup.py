"""A lease client made of what a running tunnel has."""

from __future__ import annotations

import functools
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from nvpn.backend.api import TunnelBackend
from nvpn.config.model import TunnelConfig
from nvpn.control.paths import lease_path
from nvpn.daemon.leasing.client import LeaseClient, Wanted
from nvpn.daemon.leasing.memory import read_lease
from nvpn.daemon.leasing.port import Port
from nvpn.daemon.leasing.told import Surrounding
from nvpn.daemon.surroundings import Surroundings
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import format_address

_BINDS_ANYTHING: Final = {
    4: "/proc/sys/net/ipv4/ip_nonlocal_bind",
    6: "/proc/sys/net/ipv6/ip_nonlocal_bind",
}


def make_lease_client(
    config: TunnelConfig,
    backend: TunnelBackend,
    port: Port,
    *,
    around: Surroundings,
    overlay: Callable[[Wanted], Awaitable[None]],
    at_home: Callable[[Callable[[], bool]], bool] = lambda call: call(),
) -> LeaseClient:
    """Idle as long as the file names no server.

    Args:
        config: what the file says.
        overlay: brings the tunnel to what is wanted when its turn has come, or raises NvpnError.
        at_home: calls in the namespace of the interface.
    """
    path = lease_path(config.name)
    memory, problem = read_lease(path)
    if problem:
        around.warn(f"cannot read {path}: {problem}; starting without what it remembers")
    return LeaseClient(
        config,
        memory,
        memory_path=path,
        port=port,
        initiate=backend.initiate,
        apply=overlay,
        surrounding=lambda now: Surrounding(
            endpoints=_places(now, backend),
            own_key=_own_key(backend),
            is_ours=lambda packed: at_home(functools.partial(is_own_address, packed)),
        ),
        spawn=around.spawn,
        warn=around.warn,
    )


def is_own_address(packed: bytes) -> bool:
    """Whether an interface of this namespace has the address; False where nobody can tell."""
    version, family = (4, socket.AF_INET) if len(packed) == 4 else (6, socket.AF_INET6)
    try:
        with open(_BINDS_ANYTHING[version], encoding="ascii") as setting:
            if setting.read().strip() != "0":
                return False
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((format_address(packed), 0))
    except OSError:
        return False
    return True


def _own_key(backend: TunnelBackend) -> PublicKey | None:
    key = backend.snapshot().private_key
    return None if key is None else key.public()


def _places(config: TunnelConfig, backend: TunnelBackend) -> frozenset[bytes]:
    """Where peers are, and may be by an address in the file."""
    places = {place.address for peer in config.peers for place in peer.endpoints if place.address}
    for peer in config.peers:
        now = backend.endpoint_of(peer.public_key)
        if now is not None and now.address:
            places.add(now.address)
    return frozenset(places)
