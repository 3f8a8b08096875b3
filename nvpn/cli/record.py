"""``nvpn show --json``: everything that is known, for other programs, and no secret.

Names and units are part of the interface: fields may be added, none changes its meaning.
Times are Unix seconds, durations seconds, sizes bytes; null is "never" or "not known".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nvpn.cli.health import is_guest, peer_health, peer_problems, tunnel_problems
from nvpn.cli.text import format_endpoint
from nvpn.control.records import PeerRecord, TunnelRecord

_NANOSECONDS = 1_000_000_000


def format_json(
    tunnels: list[TunnelRecord],
    now: int,
    *,
    up_since: Mapping[str, int],
    status: Mapping[str, Mapping[str, Any]],
) -> str:
    """The whole document, and a line end.

    Args:
        status: by interface, what its daemon tells beyond all that, under names of its own.
    """
    document = {
        "interfaces": [
            _and(_tunnel(tunnel, now, up_since.get(tunnel.name)), status.get(tunnel.name, {}))
            for tunnel in tunnels
        ]
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _and(known: dict[str, Any], beyond: Mapping[str, Any]) -> dict[str, Any]:
    return known | {name: value for name, value in beyond.items() if name not in known}


def _tunnel(tunnel: TunnelRecord, now: int, up_since: int | None) -> dict[str, Any]:
    return {
        "name": tunnel.name,
        "public_key": tunnel.public_key or None,
        "listen_port": tunnel.listen_port or None,
        "fwmark": tunnel.fwmark or None,
        "mtu": tunnel.mtu or None,
        "datapath": tunnel.datapath or None,
        "datapath_reason": tunnel.datapath_reason or None,
        "up_since": up_since,
        "drops": dict(tunnel.drops),
        "problems": tunnel_problems(tunnel),
        "peers": [
            _peer(peer, now, may_be_leased=tunnel.lease is not None) for peer in tunnel.peers
        ],
    }


def _peer(peer: PeerRecord, now: int, *, may_be_leased: bool) -> dict[str, Any]:
    age = peer.session_age
    return {
        "name": peer.name or None,
        "public_key": peer.public_key,
        "has_preshared_key": bool(peer.preshared_key),
        "endpoint": format_endpoint(peer.endpoint) or None,
        "allowed_ips": peer.allowed_ips,
        "latest_handshake": peer.last_handshake[0] or None,
        "session_age": None if age is None else round(age / _NANOSECONDS, 3),
        "handshake_attempts": peer.handshake_attempts,
        "rx_bytes": peer.rx_bytes,
        "tx_bytes": peer.tx_bytes,
        "filtered": peer.filtered,
        "persistent_keepalive": peer.persistent_keepalive or None,
        "owner": peer.owner or None,
        "is_invitation": is_guest(peer),
        "health": peer_health(peer, now).value,
        "problems": peer_problems(peer, now, may_be_leased=may_be_leased),
    }
