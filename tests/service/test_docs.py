"""The table that compares us with wg and wg-quick leaves out nothing that they have."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nvpn.cli.text import FIELDS
from nvpn.cli.verbs import VERBS
from tests.support.cli import ROOT

TABLE = ROOT / "docs" / "wg-and-wg-quick.md"

needs_wg = pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg")
needs_wg_quick = pytest.mark.skipif(shutil.which("wg-quick") is None, reason="needs wg-quick")


def features(heading: str) -> set[str]:
    """What stands between backticks in the first column under a heading."""
    section = TABLE.read_text().partition(f"# {heading}\n")[2].partition("\n#")[0]
    assert section, heading
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def said_by(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@needs_wg
def test_every_command_of_wg_is_there() -> None:
    commands = set(re.findall(r"^  (\w+): ", said_by("wg", "--help"), re.MULTILINE))
    assert len(commands) >= 9
    assert commands <= features("wg's commands")


@needs_wg
def test_every_word_of_set_is_there() -> None:
    usage = said_by("wg", "set").partition("<interface>")[2]
    words = set(re.findall(r"\[([a-z-]+)[ \]]", usage))
    assert {"listen-port", "allowed-ips", "remove"} <= words
    assert words == features("Words of `wg set`")


def test_every_field_of_show_is_there() -> None:
    assert features("Fields of `wg show`") == {*FIELDS, "interfaces"}


@needs_wg_quick
def test_every_command_and_key_of_wg_quick_is_there() -> None:
    script = Path(shutil.which("wg-quick") or "").read_text()
    commands = set(re.findall(r"\$1 == (\w+) \]\]", script))
    assert {"up", "down", "save", "strip"} <= commands
    assert {"up", "down", "save", "strip"} <= features("wg-quick's commands")
    keys = set(
        re.findall(r"^\t\t\t(\w+)\) .*continue ;;$|^\t\t\t(\w+)\) for", script, re.MULTILINE)
    )
    names = {name for pair in keys for name in pair if name}
    assert {"Address", "DNS", "SaveConfig", "PostDown"} <= names
    assert names <= features("Keys of wg-quick's files")


def test_every_variable_and_key_that_we_read_for_them_is_there() -> None:
    assert {"WG_COLOR_MODE", "WG_HIDE_KEYS", "WG_ENDPOINT_RESOLUTION_RETRIES"} <= features(
        "Variables"
    )
    assert {"LOG_LEVEL", "WG_TUN_FD", "WG_UAPI_FD", "WG_PROCESS_FOREGROUND"} <= features(
        "In the place of wireguard-go"
    )
    ours = {"PrivateKey", "ListenPort", "FwMark", "PublicKey", "PresharedKey", "AllowedIPs"}
    assert {*ours, "Endpoint", "PersistentKeepalive"} == features("Keys of wg's files")


def test_every_row_says_whether_it_is_the_same() -> None:
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or len(cells) != 3 or cells[1].startswith("nvpn"):
            continue
        assert cells[1] in ("same", "more", "differs"), line
        assert cells[1] == "same" or cells[2].endswith("."), line


def test_what_it_names_as_a_verb_of_ours_is_one() -> None:
    verbs = {word for verb in VERBS for word in (verb.name, *verb.aliases)} | {"help"}
    named = set(re.findall(r"`nvpn ([a-z]+)[ `]", TABLE.read_text()))
    assert named
    assert named <= verbs
