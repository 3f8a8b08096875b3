"""Where a server's clients and leases are kept, by its configuration."""

from __future__ import annotations

from typing import Final

from nvpn.config.model import StoreConfig, StoreKind
from nvpn.control.paths import registry_path
from nvpn.daemon.threads import run_in_thread
from nvpn.model.clock import read_clocks
from nvpn.registry.store import Store
from nvpn.resilience.registry import Breakers

ETCD: Final = "etcd"
"""What the breaker of an etcd is called."""


def make_store(name: str, config: StoreConfig, breakers: Breakers) -> Store:
    """The store of a tunnel's server, not opened yet.

    Args:
        name: the interface's.

    Raises:
        PlatformError: a library for it is missing.
    """
    if config.kind is StoreKind.FILE:
        from nvpn.registry.file_store import FileStore

        return FileStore(
            registry_path(name), in_thread=lambda call: run_in_thread(call, name="registry")
        )
    # A server with a file of its own need not have what these need.
    from nvpn.registry.etcd_gateway import EtcdGateway
    from nvpn.registry.etcd_store import EtcdStore

    return EtcdStore(
        EtcdGateway(config),
        config.prefix,
        breaker=lambda: breakers.get(ETCD),
        retry=lambda: breakers.policies.retry,
        clocks=read_clocks,
    )
