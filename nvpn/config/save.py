"""Writes the state of a running tunnel back into its file."""

from __future__ import annotations

from dataclasses import dataclass

from nvpn.config.model import TunnelConfig
from nvpn.errors import NvpnError
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import Interface
from nvpn.model.snapshot import TunnelSnapshot


@dataclass(frozen=True, slots=True)
class Running:
    """A tunnel now, and its interface. ``mtu`` is in bytes."""

    snapshot: TunnelSnapshot
    addresses: tuple[Interface, ...]
    mtu: int
    dns: NameServers | None


def save_running(config: TunnelConfig, running: Running) -> list[str]:
    """Write the running state into the configuration's file; sentences of warning. Blocks.

    Raises:
        PlatformError: nothing was changed.
    """
    raise NvpnError("not built yet")
