"""Codes that a scanner reads, from files, pipes and `nvpn peer add`."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from nvpn.cli import qr
from nvpn.cli.client_config import format_wgquick
from nvpn.config.load import load
from nvpn.errors import PlatformError
from tests.support.cli import NVPN, run_on_terminal
from tests.support.peer_files import TEXTS, TOML, Place


def decode(picture: Path) -> str:
    """What a real scanner reads."""
    if shutil.which("zbarimg") is None:
        pytest.skip("needs zbarimg; scripts/install-peers installs it")
    done = subprocess.run(
        ["zbarimg", "-q", "--raw", "--nodbus", "-Sdisable", "-Sqrcode.enable", str(picture)],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    return done.stdout


def test_a_scanner_reads_from_the_picture_what_is_in_the_file(toml: Place) -> None:
    picture, drawing = toml.directory / "phone.png", toml.directory / "phone.svg"
    target = toml.directory / "phone.conf"

    done = toml.add(
        "phone", "--endpoint", "vpn.example.com", "--psk", "--all",
        "--png", str(picture), "--svg", str(drawing), "-o", str(target),
    )  # fmt: skip

    assert (done.status, done.out, done.err) == (0, "", "")
    assert decode(picture) == target.read_text()
    assert drawing.read_text().startswith("<?xml")
    for file in (picture, drawing):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_scanner_reads_the_code_of_a_file_of_either_kind(place: Place) -> None:
    picture = place.directory / "own.png"
    done = place.peer("qr", str(place.file), "--png", str(picture))
    assert (done.status, done.out, done.err) == (0, "", "")
    assert decode(picture) == format_wgquick(load(place.file)) + "\n"


def test_a_configuration_comes_through_a_pipe_as_well(place: Place) -> None:
    picture = place.directory / "own.png"
    done = place.peer("qr", "-", "--png", str(picture), stdin=TEXTS[place.file.name])
    assert (done.status, done.err) == (0, "")
    assert decode(picture) == format_wgquick(load(place.file)) + "\n"


def test_what_apps_do_not_know_is_named_and_left_out(toml: Place) -> None:
    toml.file.write_text(TOML.replace("listen_port", 'post_up = "true"\nlisten_port'))
    picture = toml.directory / "own.png"
    done = toml.peer("qr", str(toml.file), "--png", str(picture))
    assert done.err == "warning: not in the code, as the apps do not know it: hooks\n"
    assert "PostUp" not in decode(picture)


def test_a_code_for_the_terminal_is_for_a_terminal(toml: Place) -> None:
    pipe = toml.peer("qr", str(toml.file))
    assert (pipe.status, pipe.out) == (1, "")
    assert pipe.err == (
        "error: cannot show a QR code; standard output is no terminal;"
        " take --png FILE, or --force\n"
    )
    forced = toml.peer("qr", str(toml.file), "--force")
    assert forced.status == 0
    assert forced.err == "warning: the code holds a private key: let nobody else see it\n"
    assert len(set(map(len, forced.out.splitlines()))) == 1

    status, seen = run_on_terminal(*NVPN, "peer", "qr", str(toml.file), PYTHONUTF8="1")
    assert status == 0
    assert "\x1b[97;40m█" in seen.decode()


def test_the_blocks_on_the_terminal_are_the_code() -> None:
    """Every half block is two modules; a scanner sees nothing else."""
    code = qr.make_code("hello")
    halves = {" ": (1, 1), "▀": (0, 1), "▄": (1, 0), "█": (0, 0)}
    lines = qr.draw_on_terminal(code, colour=False).splitlines()
    border = 4
    for y, row in enumerate(code.matrix):
        for x, module in enumerate(row):
            cell = lines[(y + border) // 2][x + border]
            assert halves[cell][(y + border) % 2] == module


def test_a_configuration_that_is_too_long_is_refused_with_its_size() -> None:
    qr.make_code("a" * qr.MOST_BYTES)
    with pytest.raises(PlatformError) as caught:
        qr.make_code("a" * (qr.MOST_BYTES + 1))
    assert str(caught.value) == (
        "cannot make a QR code; the configuration has 2954 bytes, and a code holds 2953;"
        " write it to a file instead: -o FILE"
    )
