"""``nvpn peer list``: who is in a tunnel's file, and who of them was heard."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping

from nvpn.cli.aligned import align
from nvpn.cli.health import clean, handshake_age
from nvpn.cli.output import write_output
from nvpn.cli.peer_actions import choose_file, find_running
from nvpn.cli.rows import compact_prefixes
from nvpn.config.load import load
from nvpn.config.model import TunnelConfig
from nvpn.control.records import PeerRecord

_HEADINGS = ("PEER", "KEY", "HANDSHAKE", "ALLOWED IPS")
_MOST_PREFIXES = 3


def list_peers(args: argparse.Namespace) -> int:
    """Print them in the order of the file. Raises NvpnError."""
    config = load(choose_file(args.tunnel))
    running = find_running(config.name)
    heard = None if running is None else {peer.public_key: peer for peer in running.peers}
    if args.json:
        write_output(_format_json(config, heard))
    elif args.names:
        names = (clean(peer.name) or peer.public_key.base64 for peer in config.peers)
        write_output("".join(f"{name}\n" for name in names))
    elif config.peers:
        write_output(_format_rows(config, heard))
    else:
        write_output(f"{config.name} has no peers. 'nvpn peer add NAME' adds one.\n")
    return 0


def _format_rows(config: TunnelConfig, heard: Mapping[str, PeerRecord] | None) -> str:
    now = int(time.time())
    rows = [_HEADINGS]
    for peer in config.peers:
        record = None if heard is None else heard.get(peer.public_key.base64)
        rows.append(
            (
                clean(peer.name) or "-",
                peer.public_key.base64,
                "-" if record is None else handshake_age(record, now),
                compact_prefixes([str(prefix) for prefix in peer.allowed_ips], _MOST_PREFIXES),
            )
        )
    return "".join(f"{line}\n" for line in align(rows))


def _format_json(config: TunnelConfig, heard: Mapping[str, PeerRecord] | None) -> str:
    peers = []
    for peer in config.peers:
        record = None if heard is None else heard.get(peer.public_key.base64)
        seconds = 0 if record is None else record.last_handshake[0]
        peers.append(
            {
                "name": peer.name,
                "public_key": peer.public_key.base64,
                "allowed_ips": [str(prefix) for prefix in peer.allowed_ips],
                "endpoint": None if peer.endpoint is None else str(peer.endpoint),
                "has_preshared_key": peer.preshared_key is not None,
                "latest_handshake": seconds or None,
            }
        )
    found = {
        "interface": config.name,
        "file": str(config.path).encode(errors="backslashreplace").decode(),
        "is_running": heard is not None,
        "peers": peers,
    }
    return json.dumps(found, indent=2) + "\n"
