"""What may be asked of a tunnel that is on its way up or down."""

from __future__ import annotations

import sys

import pytest

from tests.support.machines import Machine

pytestmark = pytest.mark.root


def within_a_hook(machine: Machine, *words: str) -> str:
    """A command of nvpn as a hook types it: its environment has nothing of ours."""
    story = machine.directory / "story"
    return (
        f"NVPN_RUNTIME_DIR={machine.run_directory} PYTHONPATH={machine.environment['PYTHONPATH']}"
        f" {sys.executable} -m nvpn {' '.join(words)} >> {story} 2>&1; echo $? >> {story}"
    )


def test_a_hook_at_the_end_may_save_and_one_may_not_reload(machine: Machine) -> None:
    path = machine.write(
        f"[Interface]\nPrivateKey = PRIVATE\nAddress = 10.9.0.1/24\n"
        f"PostUp = {within_a_hook(machine, 'reload', 'wg0')}\n"
        f"PreDown = {within_a_hook(machine, 'reload', 'wg0')}\n"
        f"PreDown = {within_a_hook(machine, 'set', 'wg0', 'listen-port', '47474')}\n"
        f"PreDown = {within_a_hook(machine, 'save', 'wg0')}\n",
        "wg0.conf",
    )

    machine.nvpn("up", "wg0.conf")
    machine.nvpn("down", "wg0")

    story = (machine.directory / "story").read_text().splitlines()
    assert story == [
        "error: wg0 is still starting; try again",
        "1",
        "error: wg0 is going down",
        "1",
        "0",
        "0",
    ]
    assert "ListenPort = 47474" in path.read_text()
    assert machine.is_clean()
