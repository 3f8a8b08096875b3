"""Tunnels as ``get`` tells them, written short."""

from __future__ import annotations

from nvpn.control.records import PeerRecord, TunnelRecord, parse_get
from tests.support.cli import key

NOW = 1_800_000_000


def tunnel(*peers: PeerRecord, name: str = "wg0", **values: object) -> TunnelRecord:
    """A healthy interface with these peers."""
    record = parse_get(
        name,
        [f"private_key={key(77)}", f"nvpn_public_key={key(78)}", "listen_port=51820"],
    )
    record.mtu = 1420
    record.datapath = "python (TSO, USO, GSO, GRO)"
    record.peers = list(peers)
    for field, value in values.items():
        setattr(record, field, value)
    return record


def peer(number: int = 1, **values: object) -> PeerRecord:
    """A healthy peer: a handshake 12 s ago, an endpoint, a prefix, some traffic."""
    record = parse_get("wg0", [f"public_key={key(number)}"]).peers[0]
    record.endpoint = f"192.0.2.{number % 256}:51820"
    record.last_handshake = (NOW - 12, 0)
    record.allowed_ips = [f"10.0.0.{number % 256}/32"]
    record.rx_bytes, record.tx_bytes = 1_342_177_280, 356_515_840
    for field, value in values.items():
        setattr(record, field, value)
    return record
