"""``nvpn invite``: one line on standard output, and everything else beside it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvpn.errors import ControlError
from nvpn.model.keys import PrivateKey
from tests.support.cli import NVPN, here, run, run_on_terminal
from tests.support.played_server import PlayedServer, played_server

TEXT = "nvpn:AQBZ-secret-and-all"
KEY = PrivateKey(b"\x05" * 32).public().base64
MADE: dict[str, Any] = {
    "name": "laptop",
    "public_key": KEY,
    "expires_at": 1795600000,
    "uses": 1,
    "text": TEXT,
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedServer]:
    with played_server(tmp_path, monkeypatch) as made:
        made.answers["nvpn_invite"] = MADE
        made.answers["nvpn_invitation_revoke"] = MADE
        yield made


def test_the_invitation_stands_alone_on_standard_output(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "invite", "laptop")

    assert (done.status, done.out) == (0, f"{TEXT}\n")
    assert "nvpn join" in done.err
    assert TEXT not in done.err
    assert server.asked_for("nvpn_invite") == [("name", "laptop"), ("uses", "1")]


def test_all_that_may_be_said_about_it_reaches_the_server(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ("--endpoint", "vpn.example:443", "--endpoint", "2001:db8::1", "--endpoint", "b")
    done = here(
        capsys, "invite", "my laptop=1", "--expires", "2h", "--uses", "3", *places, "-i", "srv"
    )

    assert done.status == 0
    assert server.asked_for("nvpn_invite") == [
        ("name", "my laptop=1"),
        ("uses", "3"),
        ("expires", "7200"),
        ("endpoint", "vpn.example:443"),
        ("endpoint", "[2001:db8::1]:51820"),
        ("endpoint", "b:51820"),
    ]


def test_into_a_file_that_nobody_else_can_read(
    server: PlayedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "laptop.txt"
    done = here(capsys, "invite", "laptop", "-o", str(file))

    assert (done.status, done.out) == (0, "")
    assert file.read_text() == f"{TEXT}\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_on_a_terminal_there_is_a_code_above_the_line(server: PlayedServer) -> None:
    status, written = run_on_terminal(*NVPN, "invite", "laptop", "--qr")

    assert status == 0
    text = written.decode()
    assert text.index("█") < text.index(TEXT)


def test_nobody_is_invited_when_there_is_no_place_for_the_invitation(
    server: PlayedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "laptop.txt"
    file.write_text("something else")
    done = here(capsys, "invite", "laptop", "-o", str(file))

    assert done.status == 1
    assert "File exists; an invitation is never overwritten" in done.err
    assert all(name != "nvpn_invite" for name, _ in server.asked)
    assert here(capsys, "invite", "laptop", "--qr").status == 1
    assert all(name != "nvpn_invite" for name, _ in server.asked)


def test_a_refusal_leaves_no_file_and_keeps_the_servers_words(
    server: PlayedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.answers["nvpn_invite"] = ControlError(22, "where is the server to be reached?")
    file = tmp_path / "laptop.txt"
    done = here(capsys, "invite", "laptop", "-o", str(file))

    assert (done.status, done.err) == (1, "error: where is the server to be reached?\n")
    assert not file.exists()


def test_an_invitation_that_nobody_got_does_not_stay_open(server: PlayedServer) -> None:
    done = run("sh", "-c", '"$@" >/dev/full', "sh", *NVPN, "invite", "laptop")

    assert done.status == 1
    assert "No space left" in done.err
    assert "nvpn join" not in done.err
    assert server.asked_for("nvpn_invitation_revoke") == [("invitation", KEY)]


def test_a_code_that_the_terminal_is_too_narrow_for_is_not_shown(server: PlayedServer) -> None:
    status, written = run_on_terminal(*NVPN, "invite", "laptop", "--qr", columns=30)

    assert status == 1
    assert b"columns wide, and this terminal 30: make it wider" in written
    assert TEXT.encode() not in written
    assert server.asked_for("nvpn_invitation_revoke") == [("invitation", KEY)]


def test_a_file_that_others_may_read_is_warned_about(server: PlayedServer, tmp_path: Path) -> None:
    file = tmp_path / "laptop.txt"
    done = run("sh", "-c", f'umask 022; "$@" >{file}', "sh", *NVPN, "invite", "laptop")

    assert done.status == 0
    assert done.err.startswith("Warning: writing to world accessible file.\n")


def test_a_name_that_is_no_text_is_told_so(server: PlayedServer) -> None:
    done = run("sh", "-c", '"$@" "$(printf \'\\377\')"', "sh", *NVPN, "invite")

    assert (done.status, done.out) == (1, "")
    assert done.err == "error: expected text in UTF-8; write it in other letters\n"


@pytest.mark.parametrize("place", ["[::1", "http://vpn.example", "", "vpn.example:0", "a b"])
def test_a_place_where_nobody_can_be_is_refused_before_anybody_is_asked(
    place: str, server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "invite", "laptop", "--endpoint", place)

    assert done.status == 1
    assert done.err.startswith("error: --endpoint: expected ")
    assert all(name != "nvpn_invite" for name, _ in server.asked)


def test_a_server_whose_clients_are_out_of_reach_is_one_all_the_same(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    away = ControlError(errno.EINVAL, "the etcd does not answer")
    server.answers |= {"nvpn_invitations": away, "nvpn_invite": away}
    done = here(capsys, "invite", "laptop")

    assert (done.status, done.err) == (1, "error: the etcd does not answer\n")


def test_of_several_servers_one_has_to_be_named(
    server: PlayedServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with played_server(tmp_path, monkeypatch, "two"):
        done = here(capsys, "invite", "laptop")
        assert done.status == 1
        assert "several servers run here" in done.err
        assert here(capsys, "invite", "laptop", "-i", "srv").status == 0


def test_without_a_server_there_is_nobody_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with played_server(tmp_path, monkeypatch, "plain") as plain:
        plain.answers.clear()
        done = here(capsys, "invite", "laptop")

    assert done.status == 1
    assert "no server runs here" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--expires", "soon"),
        ("--expires", "0"),
        ("--expires", "11y"),
        ("--expires", "3700d"),
        ("--uses", "0"),
        ("--uses", "many"),
    ],
)
def test_times_and_numbers_without_sense_are_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "invite", "laptop", *arguments)

    assert done.status == 2
    assert "expected" in done.err
