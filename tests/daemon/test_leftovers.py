"""What a killed daemon leaves outside its interface, and who takes it away."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from nvpn.daemon import cleaning
from nvpn.daemon.cleaning import clean_up
from nvpn.daemon.leftovers import NAMESPACE, Leftovers
from nvpn.errors import PlatformError
from nvpn.model.keys import PrivateKey
from tests.support.machines import Machine
from tests.support.world import wait_until

PEER = PrivateKey(bytes(range(32))).public().base64


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NVPN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "state/wg0.leftovers"


def test_what_is_noted_is_on_disk_until_it_is_forgotten(path: Path) -> None:
    leftovers = Leftovers(str(path))

    leftovers.note("dns", {"index": 3})
    leftovers.note("rules", [1, 2])
    leftovers.note("rules", [1])
    assert Leftovers(str(path)).pending() == {"dns": {"index": 3}, "rules": [1]}
    assert path.stat().st_mode & 0o777 == 0o600
    leftovers.forget("rules")
    leftovers.forget("never noted")
    assert Leftovers(str(path)).pending() == {"dns": {"index": 3}}
    leftovers.forget("dns")

    assert list(path.parent.iterdir()) == []


def test_a_value_that_goes_on_changing_is_written_every_time(path: Path) -> None:
    leftovers = Leftovers(str(path))
    tables = ["one"]
    leftovers.note("firewall", tables)
    tables.append("two")
    leftovers.note("firewall", tables)

    assert Leftovers(str(path)).pending() == {"firewall": ["one", "two"]}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"boot": 1}', '{"boot": "", "kinds": []}', "\0" * 99]
)
def test_a_broken_file_is_as_good_as_an_empty_one(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)

    leftovers = Leftovers(str(path))
    assert leftovers.pending() == {}
    assert clean_up("wg0") == []
    leftovers.note("rules", 1)
    assert Leftovers(str(path)).pending() == {"rules": 1}


def test_a_disk_that_refuses_is_a_warning_in_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.write_text("a file where the directory should be")

    with caplog.at_level(logging.WARNING):
        leftovers = Leftovers(str(path))
        leftovers.note("rules", 1)

    assert leftovers.pending() == {"rules": 1}
    assert "stays behind if it is killed" in caplog.text


class Undone:
    """Stands for the kinds: what it is asked to undo, and what it cannot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.refused: set[str] = set()
        undoers = {kind: self._undoer(kind) for kind in cleaning.UNDOERS}
        monkeypatch.setattr(cleaning, "UNDOERS", undoers)

    def _undoer(self, kind: str) -> Any:
        def undo(name: str, value: Any) -> None:
            if kind in self.refused:
                raise PlatformError("undo", hint="try later")
            self.calls.append((kind, value))

        return undo


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> Undone:
    return Undone(monkeypatch)


def test_it_is_undone_in_reverse_and_told_once(path: Path, undone: Undone) -> None:
    leftovers = Leftovers(str(path))
    for number, kind in enumerate(("link", "firewall", "rules", "dns")):
        leftovers.note(kind, number)

    assert clean_up("wg0") == [
        "wg0 was killed; what it left is removed:"
        " its name servers, its policy rules, its firewall rules, its interface"
    ]
    assert undone.calls == [("dns", 3), ("rules", 2), ("firewall", 1), ("link", 0)]
    assert clean_up("wg0") == []
    assert not path.exists()


def test_what_cannot_be_undone_now_is_tried_again_the_next_time(
    path: Path, undone: Undone
) -> None:
    leftovers = Leftovers(str(path))
    leftovers.note("rules", 1)
    leftovers.note("dns", 2)
    undone.refused = {"rules"}

    assert clean_up("wg0") == [
        "wg0 was killed; what it left is removed: its name servers",
        "wg0 left its policy rules: cannot undo; try later",
    ]
    undone.refused = set()
    clean_up("wg0")
    assert undone.calls == [("dns", 2), ("rules", 1)]


def test_what_a_newer_nvpn_has_noted_is_kept_and_told(path: Path, undone: Undone) -> None:
    Leftovers(str(path)).note("teapots", 1)

    assert clean_up("wg0") == ["wg0 left something that this nvpn does not know: teapots"]
    assert Leftovers(str(path)).pending() == {"teapots": 1}


def test_a_kill_switch_about_to_be_made_anew_is_left_up(path: Path, undone: Undone) -> None:
    leftovers = Leftovers(str(path))
    leftovers.note("firewall", ["a"])
    leftovers.note("rules", 1)

    clean_up("wg0", keep=frozenset({"firewall"}))

    assert undone.calls == [("rules", 1)]
    assert Leftovers(str(path)).pending() == {"firewall": ["a"]}


@pytest.mark.parametrize("reason", ["boot", "namespace"])
def test_what_went_with_a_boot_or_a_namespace_is_only_forgotten(
    path: Path, undone: Undone, reason: str
) -> None:
    """But a resolv.conf stays: it is on disk."""
    leftovers = Leftovers(str(path))
    if reason == "namespace":
        leftovers.note(NAMESPACE, "nvpn-nowhere")
    leftovers.note("rules", 1)
    leftovers.note("dns", 2)
    if reason == "boot":
        path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))

    assert clean_up("wg0") == ["wg0 was killed; what it left is removed: its name servers"]
    assert undone.calls == [("dns", 2)]
    assert not path.exists()


CONFIG = f"""
[interface]
private_key = "PRIVATE"
address = "10.9.0.1/24"
kill_switch = true
HOOK

[[peer]]
public_key = "{PEER}"
endpoint = "127.0.0.1:5"
allowed_ips = ["0.0.0.0/0", "::/0"]
"""


@pytest.mark.root
def test_kill_9_at_any_step_is_cleared_away_by_down_and_by_up(machine: Machine) -> None:
    clean = machine.outside()
    for hook in ("pre_up", "post_up", "pre_down"):
        machine.write(CONFIG.replace("HOOK", f'{hook} = "kill -9 $PPID"'))
        up = machine.nvpn("up", "wg0.toml", status=0 if hook == "pre_down" else 1)
        if hook == "pre_down":
            machine.nvpn("down", "wg0")  # kills it, and clears away what that leaves
        else:
            assert "ended before the tunnel was ready" in up.stderr
            wait_until(lambda: not machine.has_link(), 30, "the interface goes with its process")
            assert machine.outside() != clean, hook

            down = machine.nvpn("down", "wg0")
            assert "wg0 was killed; what it left is removed: " in down.stderr
        assert machine.outside() == clean, hook
        assert machine.is_clean()

    machine.write(CONFIG.replace("HOOK", 'post_up = "kill -9 $PPID"'))
    machine.nvpn("up", "wg0.toml", status=1)
    machine.write(CONFIG.replace("HOOK", ""))
    assert "its policy rules" in machine.nvpn("up", "wg0.toml").stderr
    machine.nvpn("down", "wg0")
    assert machine.outside() == clean
