"""The status of tunnels with very many peers: a row each, aligned, without frames.

A table of ten thousand peers is for nobody to look at, but for `grep` and `less`, and it
has to come at once. What is wrong stands below, the first few of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping

from nvpn.cli.aligned import align
from nvpn.cli.health import (
    clean,
    handshake_age,
    is_guest,
    peer_label,
    peer_problems,
    short_bytes,
    tunnel_problems,
)
from nvpn.cli.rates import Rate
from nvpn.cli.text import format_endpoint, newest_first
from nvpn.control.records import PeerRecord, TunnelRecord

_HEADINGS = ("PEER", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "ALLOWED IPS")
_RATE_HEADINGS = ("RX/S", "TX/S")
_NUMBERS = (3, 4)
_MOST_PROBLEMS = 20
_MOST_PREFIXES = 3


def format_rows(
    tunnels: list[TunnelRecord], now: int, *, rates: Mapping[str, Rate] | None = None
) -> str:
    """All of it, as text.

    Args:
        rates: how fast traffic is just now, by public key; None: it is not told.
    """
    return "\n".join(_format_tunnel(tunnel, now, rates) for tunnel in tunnels)


def compact_prefixes(prefixes: list[str], most: int) -> str:
    """The first few, and how many there are more."""
    if not prefixes:
        return "none"
    shown = ", ".join(prefixes[:most])
    return shown if len(prefixes) <= most else f"{shown} +{len(prefixes) - most:,} more"


def _format_tunnel(tunnel: TunnelRecord, now: int, rates: Mapping[str, Rate] | None) -> str:
    peers = newest_first([peer for peer in tunnel.peers if not is_guest(peer)])
    rows = [_HEADINGS, *(_row(peer, now) for peer in peers)]
    if rates is not None:
        # Beside the amounts, which go on being the columns of numbers.
        speeds = [_RATE_HEADINGS, *(_speeds(rates.get(peer.public_key)) for peer in peers)]
        rows = [
            (*row[: _NUMBERS[0]], *speed, *row[_NUMBERS[0] :])
            for row, speed in zip(rows, speeds, strict=True)
        ]
    numbers = _NUMBERS if rates is None else (*_NUMBERS, *(index + 2 for index in _NUMBERS))
    lines = [f"{tunnel.name}  {tunnel.public_key}  port {tunnel.listen_port}"]
    lines += [f"  {line}" for line in align(rows, numbers=numbers)]
    problems = [f"{tunnel.name}: {problem}" for problem in tunnel_problems(tunnel)]
    is_client = tunnel.lease is not None
    for peer in tunnel.peers:
        problems += [
            f"{peer_label(peer)}: {problem}"
            for problem in peer_problems(peer, now, may_be_leased=is_client)
        ]
    lines += [f"  ! {problem}" for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        rest = len(problems) - _MOST_PROBLEMS
        lines.append(f"  ! … and {rest:,} more; 'nvpn show --json' has them all")
    return "\n".join(lines) + "\n"


def _speeds(rate: Rate | None) -> tuple[str, str]:
    if rate is None:
        return "", ""
    return f"{short_bytes(round(rate.received))}/s", f"{short_bytes(round(rate.sent))}/s"


def _row(peer: PeerRecord, now: int) -> tuple[str, ...]:
    return (
        peer_label(peer),
        clean(format_endpoint(peer.endpoint)) or "none",
        handshake_age(peer, now),
        short_bytes(peer.rx_bytes),
        short_bytes(peer.tx_bytes),
        compact_prefixes(peer.allowed_ips, _MOST_PREFIXES),
    )
