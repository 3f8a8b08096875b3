"""The status of tunnels as people like to look at it.

One frame a tunnel: who we are on top, a row a peer, and below what is wrong, each with
its remedy. The colour of a dot says how a peer is, and so do its words: nothing is told
by colour alone. Three layouts, by the width of the terminal; only the sixteen colours
that a theme defines, so that it reads on dark and on light.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nvpn.cli.health import (
    Health,
    clean,
    handshake_age,
    is_guest,
    peer_health,
    peer_label,
    peer_problems,
    short_bytes,
    short_duration,
    tunnel_problems,
)
from nvpn.cli.output import writing
from nvpn.cli.paint import wants_colour
from nvpn.cli.rates import Rate
from nvpn.cli.rows import compact_prefixes
from nvpn.cli.text import format_endpoint
from nvpn.control.records import PeerRecord, TunnelRecord

_LAYOUTS: Final = ((True, 6), (True, 3), (True, 2), (False, 3), (True, 1), (False, 1))
"""Best first: whether each number has a column of its own, and how many prefixes to show."""

_WIDEST: Final = 132
_FRAME: Final = 4
_WIDEST_NAME: Final = 20
"""Where a key of 44 columns is to stand beside it."""

_DOTS: Final = {
    Health.FRESH: ("●", "green"),
    Health.STALE: ("●", "yellow"),
    Health.NEVER: ("○", "red"),
}
_QUIET: Final = "dim"

_SPEED_WIDTH: Final = len("↓ 9.99 MiB/s")
"""What comes and goes every second is not to move the rest."""


def print_tunnels(
    tunnels: list[TunnelRecord], now: int, *, up_since: Mapping[str, int], verbose: bool
) -> None:
    """Print the tables to standard output.

    Args:
        now: Unix time in seconds.
        up_since: Unix time in seconds by interface, where it is known.
        verbose: full keys, drops, and how packets are moved.
    """
    console = open_console()
    for tunnel in tunnels:
        since = up_since.get(tunnel.name)
        drawn = draw_tunnel(tunnel, now, since=since, verbose=verbose, width=console.width)
        with writing():
            console.print(drawn)


def open_console() -> Console:
    """Standard output for `rich`, by the same rules for colour as the rest of ours."""
    colour = wants_colour(sys.stdout)
    return Console(
        color_system="standard" if colour else None,
        force_terminal=colour or None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def draw_tunnel(
    tunnel: TunnelRecord,
    now: int,
    *,
    width: int,
    since: int | None = None,
    verbose: bool = False,
    rates: Mapping[str, Rate] | None = None,
) -> RenderableType:
    """One tunnel, for a terminal of ``width`` columns.

    Args:
        rates: how fast traffic is just now, by public key; None: it is not told.
    """
    width = min(width, _WIDEST)
    peers = _in_order([peer for peer in tunnel.peers if not is_guest(peer)], now)
    problems = tunnel_problems(tunnel)
    parts: list[RenderableType] = [_header(tunnel, now, since, verbose=verbose)]
    if peers:
        parts += [Text(), _peers(peers, now, rates, width=width - _FRAME, verbose=verbose)]
    if verbose and tunnel.datapath_reason:
        parts += [Text(), _datapath_reason(tunnel)]
    if verbose and tunnel.drops:
        parts += [Text(), _drops(tunnel.drops)]
    complaints = [_complaint("", problem) for problem in problems]
    is_client = tunnel.lease is not None
    for peer in peers:
        label = peer_label(peer)
        complaints += [
            _complaint(label, problem)
            for problem in peer_problems(peer, now, may_be_leased=is_client)
        ]
    if complaints:
        parts += [Text(), *complaints]
    return Panel(
        Group(*parts),
        title=Text(f" {tunnel.name} ", style="bold"),
        title_align="left",
        subtitle=_summary(peers, now, rates),
        subtitle_align="right",
        box=box.ROUNDED,
        border_style="yellow" if complaints else "green",
        padding=(0, 1),
        width=width,
    )


def _in_order(peers: list[PeerRecord], now: int) -> list[PeerRecord]:
    """Living peers first; within that as the daemon has them, so that rows hold still."""
    order = list(Health)
    return sorted(peers, key=lambda peer: order.index(peer_health(peer, now)))


def _header(tunnel: TunnelRecord, now: int, since: int | None, *, verbose: bool) -> RenderableType:
    facts = Text()

    def add(label: str, value: str) -> None:
        if facts:
            facts.append("  ")
        facts.append(f"{label} ", style=_QUIET)
        # A fact is not broken over two lines.
        facts.append(value.replace(" ", "\N{NO-BREAK SPACE}"))

    if tunnel.listen_port:
        add("port", str(tunnel.listen_port))
    if tunnel.mtu:
        add("mtu", str(tunnel.mtu))
    if tunnel.fwmark:
        add("fwmark", f"0x{tunnel.fwmark:x}")
    if tunnel.lease is not None and tunnel.lease.expires_in is not None:
        add("lease", short_duration(tunnel.lease.expires_in))
    if since is not None and since <= now:
        add("up", short_duration(now - since))
    if tunnel.datapath:
        name = clean(tunnel.datapath)
        add("datapath", name if verbose else name.partition(" (")[0])
    key = Text(tunnel.public_key or "no key", style="cyan" if tunnel.public_key else "red")
    return Group(key, facts)


class _Column(NamedTuple):
    heading: str
    cells: list[Text]
    justify: Literal["left", "right"] = "left"
    least: int = 0

    @property
    def width(self) -> int:
        return max(len(self.heading), self.least, *(cell.cell_len for cell in self.cells))


def _peers(
    peers: list[PeerRecord],
    now: int,
    rates: Mapping[str, Rate] | None,
    *,
    width: int,
    verbose: bool,
) -> RenderableType:
    """The richest layout that fits into ``width`` columns."""
    for wide, most in _LAYOUTS:
        columns = _columns(peers, now, rates, wide=wide, most=most)
        if sum(column.width for column in columns) + 2 * (len(columns) - 1) <= width:
            table: RenderableType = _side_by_side(columns)
            break
    else:
        table = _two_lines_each(peers, now, rates)
    if not verbose:
        return table
    return Group(table, Text(), _details(peers))


def _columns(
    peers: list[PeerRecord],
    now: int,
    rates: Mapping[str, Rate] | None,
    *,
    wide: bool,
    most: int,
) -> list[_Column]:
    columns = [
        _Column("", [_dot(peer, now) for peer in peers]),
        _Column("peer", [_name(peer) for peer in peers]),
        _Column("endpoint", [_endpoint(peer) for peer in peers]),
        _Column("handshake", [_age(peer, now) for peer in peers]),
    ]
    if rates is not None:
        received = [_speed("↓", _received(rates, peer)) for peer in peers]
        sent = [_speed("↑", _sent(rates, peer)) for peer in peers]
        columns += [
            _Column("rx/s", received, "right", _SPEED_WIDTH),
            _Column("tx/s", sent, "right", _SPEED_WIDTH),
        ]
    if wide:
        columns += [
            _Column("received", [_amount("↓", peer.rx_bytes) for peer in peers], "right"),
            _Column("sent", [_amount("↑", peer.tx_bytes) for peer in peers], "right"),
        ]
        if any(peer.persistent_keepalive for peer in peers):
            columns.append(_Column("keepalive", [_keepalive(peer) for peer in peers]))
    else:
        columns.append(_Column("traffic", [_traffic(peer) for peer in peers]))
    columns.append(_Column("allowed IPs", [_prefixes(peer, most) for peer in peers]))
    return columns


def _side_by_side(columns: list[_Column]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=_QUIET, pad_edge=False)
    for column in columns:
        table.add_column(
            column.heading, justify=column.justify, no_wrap=True, min_width=column.least or None
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table


def _details(peers: list[PeerRecord]) -> Table:
    """What has no room in a row: whole keys, the session, every prefix."""
    details = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    details.add_column(no_wrap=True, max_width=_WIDEST_NAME, overflow="ellipsis")
    details.add_column(overflow="fold")
    for peer in peers:
        facts = ["with a preshared key" if peer.preshared_key else "no preshared key"]
        if peer.session_age is not None:
            facts.append(f"session {short_duration(peer.session_age // 10**9)} old")
        if peer.persistent_keepalive:
            facts.append(f"keepalive every {peer.persistent_keepalive} s")
        if peer.owner and peer.owner != "config":
            facts.append(f"owned by {clean(peer.owner)}")
        key = Text(peer.public_key, style="cyan")
        details.add_row(_name(peer), Group(key, Text(", ".join(facts), style=_QUIET)))
        if len(peer.allowed_ips) > 1:
            details.add_row("", Text(clean(", ".join(peer.allowed_ips))))
    return details


def _two_lines_each(
    peers: list[PeerRecord], now: int, rates: Mapping[str, Rate] | None
) -> RenderableType:
    """For narrow terminals: how the peer is, and below it where."""
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False, pad_edge=False)
    table.add_column(width=1)
    table.add_column(overflow="ellipsis", ratio=1)
    for peer in peers:
        traffic = _traffic(peer) if rates is None else _speeds(rates, peer)
        first = Text.assemble(_name(peer), "  ", _age(peer, now), "  ", traffic)
        second = Text.assemble(_endpoint(peer), "  ", _prefixes(peer, 1))
        second.stylize(_QUIET)
        table.add_row(_dot(peer, now), Group(first, second))
    return table


def _dot(peer: PeerRecord, now: int) -> Text:
    character, colour = _DOTS[peer_health(peer, now)]
    return Text(character, style=colour)


def _name(peer: PeerRecord) -> Text:
    return Text(peer_label(peer), style="bold" if peer.name else "")


def _endpoint(peer: PeerRecord) -> Text:
    if not peer.endpoint:
        return Text("none", style=_QUIET if peer.owner == "lease" else "red")
    return Text(clean(format_endpoint(peer.endpoint)))


def _age(peer: PeerRecord, now: int) -> Text:
    return Text(handshake_age(peer, now), style=_DOTS[peer_health(peer, now)][1])


def _amount(arrow: str, count: int) -> Text:
    if not count:
        return Text("–", style=_QUIET)
    return Text.assemble((f"{arrow} ", _QUIET), short_bytes(count))


def _keepalive(peer: PeerRecord) -> Text:
    seconds = peer.persistent_keepalive
    return Text(f"{seconds} s") if seconds else Text("off", style=_QUIET)


def _traffic(peer: PeerRecord) -> Text:
    if not (peer.rx_bytes or peer.tx_bytes):
        return Text("–", style=_QUIET)
    received, sent = (_amount("↓", peer.rx_bytes), _amount("↑", peer.tx_bytes))
    return Text.assemble(received, "  ", sent)


def _received(rates: Mapping[str, Rate], peer: PeerRecord) -> float:
    rate = rates.get(peer.public_key)
    return 0 if rate is None else rate.received


def _sent(rates: Mapping[str, Rate], peer: PeerRecord) -> float:
    rate = rates.get(peer.public_key)
    return 0 if rate is None else rate.sent


def _speed(arrow: str, bytes_a_second: float) -> Text:
    if bytes_a_second < 0.5:
        return Text("–", style=_QUIET)
    return Text.assemble((f"{arrow} ", _QUIET), f"{short_bytes(round(bytes_a_second))}/s")


def _speeds(rates: Mapping[str, Rate], peer: PeerRecord) -> Text:
    received, sent = _received(rates, peer), _sent(rates, peer)
    return Text.assemble(_speed("↓", received), "  ", _speed("↑", sent))


def _prefixes(peer: PeerRecord, most: int) -> Text:
    if not peer.allowed_ips:
        # A client's come with its lease.
        return Text("none", style=_QUIET if peer.owner == "lease" else "red")
    return Text(clean(compact_prefixes(peer.allowed_ips, most)))


def _datapath_reason(tunnel: TunnelRecord) -> Text:
    name = clean(tunnel.datapath).partition(" (")[0]
    return Text.assemble((f"why {name}  ", _QUIET), clean(tunnel.datapath_reason))


def _drops(drops: Mapping[str, int]) -> Text:
    text = Text("dropped packets  ", style=_QUIET)
    pairs = sorted(drops.items(), key=lambda pair: -pair[1])
    return text.append_text(Text("  ".join(f"{clean(name)} {n:,}" for name, n in pairs)))


def _complaint(who: str, what: str) -> RenderableType:
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(width=1)
    line.add_column()
    sentence = Text.assemble((f"{who}: ", "bold") if who else "", what)
    line.add_row(Text("!", style="bold yellow"), sentence)
    return line


def _summary(peers: list[PeerRecord], now: int, rates: Mapping[str, Rate] | None) -> Text:
    if not peers:
        return Text(" no peers ", style=_QUIET)
    fresh = sum(peer_health(peer, now) is Health.FRESH for peer in peers)
    noun = "peer" if len(peers) == 1 else "peers"
    summary = Text(f" {fresh} of {len(peers)} {noun} connected ", style=_QUIET)
    if rates:
        received = sum(rate.received for rate in rates.values())
        sent = sum(rate.sent for rate in rates.values())
        if received + sent >= 1:
            both = Text.assemble("  ", _speed("↓", received), "  ", _speed("↑", sent), " ")
            summary.append_text(both)
    return summary
