"""While one daemon of an interface comes up or goes down, no other process gets in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nvpn.daemon.alone import alone
from nvpn.netconf.locks import take_lock
from tests.support.machines import Machine
from tests.support.world import wait_until


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NVPN_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def test_two_are_never_alone_at_once(state: Path) -> None:
    with alone("wg0", seconds=0) as first, alone("wg0", seconds=0.02) as second:
        assert (first, second) == (True, False)
        with alone("wg1", seconds=0) as other:
            assert other
    with alone("wg0", seconds=0) as again:
        assert again


def test_nothing_is_left_on_disk(state: Path) -> None:
    with alone("wg0", seconds=0), alone("wg0", seconds=0):
        assert len(os.listdir(state)) == 1
    assert os.listdir(state) == []


def test_who_waits_for_a_file_that_goes_is_alone_with_the_next_one(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = alone("wg0", seconds=0)
    assert first.__enter__()

    def after_the_first_has_left(descriptor: int, *, seconds: float) -> bool:
        monkeypatch.setattr("nvpn.daemon.alone.take_lock", take_lock)
        first.__exit__(None, None, None)
        return take_lock(descriptor, seconds=seconds)

    monkeypatch.setattr("nvpn.daemon.alone.take_lock", after_the_first_has_left)
    with alone("wg0", seconds=1) as second, alone("wg0", seconds=0) as third:
        assert (second, third) == (True, False)


def test_without_a_place_for_it_one_goes_on(state: Path) -> None:
    state.write_text("no directory")
    with alone("wg0", seconds=0) as is_alone:
        assert is_alone


# --- with real daemons --------------------------------------------------------------------


class Held:
    """A start whose PreUp hook waits for the test."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._waits, self._may_go_on = machine.directory / "waits", machine.directory / "go"
        machine.write(
            "[interface]\nprivate_key = 'PRIVATE'\naddress = '10.9.0.1/24'\nkill_switch = true\n"
            f"pre_up = 'touch {self._waits};"
            f" until [ -e {self._may_go_on} ]; do sleep 0.02; done'\n"
        )
        self.starting = machine.start("up", "wg0.toml")
        wait_until(self._waits.exists, 30, "the hook has begun")

    def go_on(self) -> None:
        self._may_go_on.touch()


@pytest.mark.root
def test_a_second_start_leaves_the_kill_switch_of_the_first_alone(machine: Machine) -> None:
    held = Held(machine)
    before = machine.outside()
    assert "nvpn-wg0/switch" in before

    second = machine.nvpn("up", "wg0.toml", status=1)

    assert second.stderr == ("error: cannot start wg0; it is on its way up, or down, already\n")
    assert machine.outside() == before
    held.go_on()
    assert held.starting.wait(30) == 0
    machine.nvpn("down", "wg0")
    assert machine.is_clean()
    assert not (machine.state_directory / "wg0.running").exists()


@pytest.mark.root
def test_going_down_waits_for_a_tunnel_that_is_on_its_way_up(machine: Machine) -> None:
    held = Held(machine)
    before = machine.outside()

    assert machine.nvpn("down", "wg0", status=1).stderr == (
        "error: cannot take wg0 down; it is on its way up, or down, already: try again\n"
    )
    assert machine.outside() == before
    going_down = machine.start("down", "wg0")
    held.go_on()

    assert (going_down.wait(30), going_down.stdout and going_down.stdout.read()) == (0, "")
    assert held.starting.wait(30) == 0
    assert machine.is_clean()
    assert "nvpn-wg0" not in machine.outside()
