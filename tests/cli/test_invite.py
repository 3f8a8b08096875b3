"""``nvpn invite``: one line on standard output, and everything else beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvpn.errors import ControlError
from tests.support.cli import NVPN, here, run_on_terminal
from tests.support.played_server import PlayedServer, played_server

TEXT = "nvpn:AQBZ-secret-and-all"
MADE: dict[str, Any] = {"name": "laptop", "expires_at": 1795600000, "uses": 1, "text": TEXT}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedServer]:
    with played_server(tmp_path, monkeypatch) as made:
        made.answers["nvpn_invite"] = MADE
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
    "arguments", [("--expires", "soon"), ("--expires", "0"), ("--uses", "0"), ("--uses", "many")]
)
def test_times_and_numbers_without_sense_are_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "invite", "laptop", *arguments)

    assert done.status == 2
    assert "expected" in done.err
