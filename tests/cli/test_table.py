from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from nvpn.cli.rows import format_rows
from nvpn.cli.table import draw_tunnel
from nvpn.control.records import LeaseRecord, TunnelRecord
from tests.support.records import NOW, peer, tunnel

OFFICE = {
    "name": "office",
    "endpoint": "[2001:db8:4f3::17]:51820",
    "last_handshake": (NOW - 900, 0),
    "persistent_keepalive": 25,
    "handshake_attempts": 7,
    "allowed_ips": ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "fd00:1::/64"],
}
PHONE = {"name": "phone", "endpoint": "", "last_handshake": (0, 0), "rx_bytes": 0, "tx_bytes": 0}


def draw(record: TunnelRecord, width: int, **options: Any) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, emoji=False, highlight=False)
    console.print(draw_tunnel(record, NOW, width=width, **options))
    return file.getvalue().replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def record() -> TunnelRecord:
    return tunnel(peer(2, name="laptop"), peer(3, **OFFICE), peer(4), peer(5, **PHONE))


@pytest.mark.parametrize("width", [40, 60, 72, 80, 100, 110, 132, 200])
def test_every_line_fits_and_the_frame_is_closed(record: TunnelRecord, width: int) -> None:
    for verbose in (False, True):
        lines = draw(record, width, since=NOW - 60, verbose=verbose).splitlines()
        assert {cell_len(line) for line in lines} == {min(width, 132)}
        assert lines[0].startswith("╭─  wg0 ")
        assert all(line.startswith("│ ") and line.endswith("│") for line in lines[1:-1])


@pytest.mark.parametrize("width", [60, 80, 100, 132])
def test_what_matters_is_there_at_every_width(record: TunnelRecord, width: int) -> None:
    text = draw(record, width)
    for fact in ("laptop", "12 s ago", "15 min ago", "never", "1.25 GiB", "340 MiB",
                 "[2001:db8:4f3::17]:51820", "10.1.0.0/16", "port 51820", "mtu 1420",
                 "2 of 4 peers connected", record.public_key):  # fmt: skip
        assert fact in text, fact


def test_a_wide_terminal_has_a_column_for_each_value(record: TunnelRecord) -> None:
    text = draw(record, 132)
    heading = next(line for line in text.splitlines() if "handshake" in line)
    columns = re.split(r"\s{2,}", heading.strip("│ "))
    assert columns == [
        *("peer", "endpoint", "handshake", "received", "sent", "keepalive", "allowed IPs")
    ]
    assert "10.1.0.0/16, 10.2.0.0/16 +2 more" in text


def test_rows_hold_still_but_the_living_come_first(record: TunnelRecord) -> None:
    text = draw(record, 132)
    places = [text.index(name) for name in ("laptop ", "AAAAAAAA… ", "office ", "phone ")]
    assert places == sorted(places)


def test_a_dot_is_never_the_only_sign(record: TunnelRecord) -> None:
    lines = draw(record, 132).splitlines()
    for name, dot, words in (("laptop", "●", "12 s ago"), ("phone", "○", "never")):
        (row,) = [line for line in lines if f"{dot}  {name}" in line]
        assert words in row


def test_problems_stand_below_with_their_peer(record: TunnelRecord) -> None:
    text = re.sub(r"\s*│\s+", " ", draw(record, 132))
    assert "! office: 7 handshakes without an answer from [2001:db8:4f3::17]:51820" in text
    assert "! phone: no endpoint: it cannot be reached until it calls here itself" in text
    assert "! " not in draw(tunnel(peer()), 132)


def test_verbose_shows_keys_drops_and_how_packets_are_moved(record: TunnelRecord) -> None:
    record.drops = {"no-route": 4, "bad-tag": 1200}
    record.peers[0].session_age = 130 * 10**9
    quiet, verbose = draw(record, 132), draw(record, 132, verbose=True)
    for fact in ("dropped packets  bad-tag 1,200  no-route 4", "(TSO, USO, GSO, GRO)",
                 record.peers[0].public_key, "no preshared key", "session 2 min old",
                 "10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16, fd00:1::/64"):  # fmt: skip
        assert fact in verbose
        assert fact not in quiet


def test_a_long_name_leaves_a_key_its_line() -> None:
    record = tunnel(peer(2, name="n" * 64), peer(3, **OFFICE))
    text = draw(record, 80, verbose=True)
    assert all(peer.public_key in text for peer in record.peers)


def test_verbose_tells_why_it_is_this_datapath(record: TunnelRecord) -> None:
    assert "why" not in draw(record, 132, verbose=True)
    record.datapath_reason = "the native module is not built"
    assert "why python  the native module is not built" in draw(record, 132, verbose=True)
    assert "not built" not in draw(record, 132)


def test_what_another_daemon_does_not_tell_is_left_out() -> None:
    bare = tunnel(private_key="", _public_key="", mtu=0, datapath="", listen_port=0)
    text = draw(bare, 80)
    assert "no key" in text
    assert "no peers" in text
    assert "mtu" not in text
    assert "port" not in text


def test_names_cannot_break_the_picture() -> None:
    record = tunnel(
        peer(1, name="東京事務所"),
        peer(2, name="a\x1b[31m\nb"),
        peer(3, name="[bold]no markup[/bold] :smile:"),
        peer(4, name="x" * 300),
    )
    for width in (60, 100, 132):
        lines = draw(record, width).splitlines()
        assert {cell_len(line) for line in lines} == {width}
    text = draw(record, 132)
    assert "\x1b" not in text
    assert "[bold]no markup[/bold] :smile:" in text


def test_secrets_are_in_no_picture(record: TunnelRecord) -> None:
    record.peers[0].preshared_key = "S" * 43 + "="
    for text in (draw(record, 132, verbose=True), format_rows([record], NOW)):
        assert record.private_key not in text
        assert "SSSS" not in text


def test_very_many_peers_are_plain_rows() -> None:
    record = tunnel(*(peer(n, name=f"peer-{n}") for n in range(1, 300)), peer(300, **PHONE))
    text = format_rows([record], NOW)
    lines = text.splitlines()
    assert lines[0].startswith("wg0  ")
    assert lines[1].split() == ["PEER", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "ALLOWED",
                                "IPS"]  # fmt: skip
    assert len([line for line in lines if line.startswith("  peer-")]) == 299
    assert lines[301].split() == ["phone", "none", "never", "0", "B", "0", "B", "10.0.0.44/32"]
    assert lines[302] == (
        "  ! phone: no endpoint: it cannot be reached until it calls here itself"
    )


def test_rows_stand_in_line_whatever_the_names_are() -> None:
    names = ("東京事務所", "Zu\u0308rich", "plain", "")
    record = tunnel(*(peer(n, name=names[n % 4]) for n in range(1, 60)))
    rows = [line for line in format_rows([record], NOW).splitlines() if "192.0.2." in line]
    assert len({cell_len(row.partition("192.0.2.")[0]) for row in rows}) == 1


def test_very_many_problems_are_counted() -> None:
    text = format_rows([tunnel(*(peer(n, **PHONE) for n in range(1, 100)))], NOW)
    assert text.count("  ! phone: ") == 20
    assert text.endswith("  ! … and 79 more; 'nvpn show --json' has them all\n")


def test_an_invitation_is_nobody_who_could_be_connected() -> None:
    invited = peer(3, name="invitation tablet", endpoint="", allowed_ips=[], last_handshake=(0, 0))
    joined = peer(4, name="invitation of the boss")
    invited.owner = joined.owner = "lease"
    record = tunnel(peer(2, name="laptop"), invited, joined)
    for text in (draw(record, 132), format_rows([record], NOW)):
        assert "tablet" not in text
        assert "laptop" in text
        assert "boss" in text
    assert "2 of 2 peers connected" in draw(record, 132)


def test_a_clients_lease_is_told(record: TunnelRecord) -> None:
    record.peers = [peer(2, name="north"), peer(3, name="south", allowed_ips=[])]
    assert "lease" not in draw(record, 80)
    assert "no allowed IPs" in draw(record, 80)
    record.lease = LeaseRecord("leased", expires_in=7300)
    assert "lease 2 h" in draw(record, 80)
    assert "no allowed IPs" not in draw(record, 80) + format_rows([record], NOW)
