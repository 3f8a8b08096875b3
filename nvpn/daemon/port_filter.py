"""What a configuration says about ports, handed to the backend."""

from __future__ import annotations

from nvpn.backend.api import TunnelBackend
from nvpn.config.model import TunnelConfig


def set_port_policies(backend: TunnelBackend, config: TunnelConfig) -> None:
    """Let peers begin what the configuration says, and no more.

    Call it before the peers of a configuration are there, so that none is without its rules.

    Raises:
        PlatformError: something is to be filtered, and this backend cannot.
    """
    peers = {peer.public_key: peer.ports for peer in config.peers}
    backend.set_port_policies(config.interface.ports, peers)
