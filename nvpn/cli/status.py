"""What nvpn's daemon tells of a tunnel beyond what every WireGuard does."""

from __future__ import annotations

import json
from typing import Any

from nvpn.control import client
from nvpn.control.records import LeaseRecord, ServerRecord, TunnelRecord
from nvpn.errors import ControlError, PlatformError


def ask_status(tunnel: TunnelRecord) -> dict[str, Any]:
    """All of it, by names of its own; nothing of others. The tunnel learns its lease, and
    that it is a server.
    """
    if not tunnel.datapath:
        return {}
    try:
        lines = client.messages(client.request(tunnel.name, "nvpn_status"))
    except (PlatformError, ControlError):
        return {}  # an older one, or it went down just now
    status: dict[str, Any] = json.loads("".join(lines) or "{}")
    lease = status.get("lease")
    if lease is not None:
        tunnel.lease = LeaseRecord(
            lease["state"],
            trouble=lease["trouble"],
            expires_in=lease["expires_in_seconds"],
            asks_in=lease["asks_again_in_seconds"],
        )
    server = status.get("server")
    if server is not None:
        tunnel.server = ServerRecord(server["store"], is_reachable=server["is_reachable"])
    return status
