from __future__ import annotations

import base64
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.cli import NVPN, nvpn, run, run_on_terminal

WG = shutil.which("wg")
needs_wg = pytest.mark.skipif(WG is None, reason="needs wg (wireguard-tools)")


def test_genkey_writes_a_clamped_key_and_a_line_end() -> None:
    done = nvpn("genkey")
    assert (done.status, done.err) == (0, "")
    raw = base64.b64decode(done.out.removesuffix("\n"), validate=True)
    assert len(raw) == 32
    assert raw[0] & 7 == 0
    assert raw[31] & 192 == 64
    assert nvpn("genkey").out != done.out


def test_genpsk_writes_any_32_bytes() -> None:
    seen = {nvpn("genpsk").out for _ in range(3)}
    assert len(seen) == 3
    assert all(len(base64.b64decode(key)) == 32 for key in seen)


@needs_wg
def test_pubkey_agrees_with_wg() -> None:
    for _ in range(5):
        private = nvpn("genkey").out
        assert nvpn("pubkey", stdin=private) == run("wg", "pubkey", stdin=private)


@needs_wg
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "short\n",
        "A" * 43 + "=",
        "A" * 43 + "=\n",
        "A" * 43 + "= \t\v\f\r\n\n",
        "A" * 43 + "=x",
        "A" * 43 + "=\n\nx",
        "A" * 42 + "B=\n",
        "A" * 44 + "\n",
        " " + "A" * 43 + "=\n",
        "ä" * 22 + "\n",
        "/" * 42 + "8=\n",
        "A" * 43 + "=" + " " * 9000 + "y",
    ],
    ids=lambda text: repr(text[:8] + text[40:48]),
)
def test_pubkey_says_and_does_what_wg_does(text: str) -> None:
    ours, theirs = nvpn("pubkey", stdin=text), run("wg", "pubkey", stdin=text)
    assert ours.out == theirs.out
    assert ours.status == theirs.status
    assert ours.err == theirs.err.replace("wg: ", "nvpn: ")


def test_pubkey_never_repeats_what_it_was_given() -> None:
    nearly = nvpn("genkey").out.strip() + "Z"
    done = nvpn("pubkey", stdin=nearly)
    assert done.status == 1
    assert nearly[:10] not in done.err + done.out


def test_pubkey_does_not_show_a_key_typed_on_a_terminal() -> None:
    key = PrivateKey(os.urandom(32))
    typed = key.reveal_base64().encode()
    status, screen = run_on_terminal(*NVPN, "pubkey", answer=(b"shown): ", typed + b"\n"))
    assert status == 0
    assert key.public().base64.encode() in screen
    assert typed not in screen


def test_a_key_is_refused_on_the_command_line() -> None:
    assert nvpn("pubkey", "A" * 43 + "=").status == 2


def test_pair_is_ready_to_be_pasted() -> None:
    out = nvpn("genkey", "--pair").out
    found = re.fullmatch(r'private_key = "(.{44})"\npublic_key = "(.{44})"\n', out)
    assert found
    assert PrivateKey.from_base64(found[1]).public().base64 == found[2]


def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "wg0.key"
    done = run("sh", "-c", f"umask 0; exec {' '.join(NVPN)} genkey --pair -o {path}")
    assert (done.status, done.err) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PrivateKey.from_base64(path.read_text().strip()).public().base64 == done.out.strip()


def test_without_pair_a_key_file_is_all_there_is(tmp_path: Path) -> None:
    for verb in ("genkey", "genpsk"):
        done = nvpn(verb, "-o", str(tmp_path / verb))
        assert (done.status, done.out, done.err) == (0, "", "")
        assert len((tmp_path / verb).read_text()) == 45


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "wg0.key"
    path.write_text("precious\n")
    done = nvpn("genkey", "-o", str(path))
    assert done.status == 1
    assert "a key is never overwritten" in done.err
    assert path.read_text() == "precious\n"


def test_a_link_that_points_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert nvpn("genkey", "-o", str(tmp_path / "link")).status == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no" / "wg0.key"
    done = nvpn("genkey", "-o", str(path))
    reason = "No such file or directory; its directory has to be there; make it first"
    assert done.err == f"error: cannot write the key to {path}: {reason}\n"


@needs_wg
@pytest.mark.parametrize("verb", ["genkey", "genpsk"])
@pytest.mark.parametrize("mask", ["0022", "0077", "0027"])
def test_a_readable_file_is_warned_of_as_by_wg(verb: str, mask: str, tmp_path: Path) -> None:
    said = []
    for name, command in (("ours", " ".join(NVPN)), ("theirs", "wg")):
        done = run("sh", "-c", f"umask {mask}; {command} {verb} >{tmp_path / name}")
        assert done.status == 0
        said.append(done.err)
    assert said[0] == said[1]
    assert bool(said[0]) == (mask == "0022")
