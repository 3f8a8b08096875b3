"""What may be asked of a tunnel that is on its way up or down."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nvpn.config.model import InterfaceConfig, TunnelConfig
from nvpn.control.server import Operation
from nvpn.daemon import supervisor
from nvpn.daemon.background import FrontReporter
from nvpn.daemon.handed import NOTHING_HANDED
from nvpn.daemon.supervisor import Supervisor
from nvpn.daemon.surroundings import Surroundings
from tests.support.machines import Machine


def within_a_hook(machine: Machine, *words: str) -> str:
    """A command of nvpn as a hook types it: its environment has nothing of ours."""
    story = machine.directory / "story"
    return (
        f"NVPN_RUNTIME_DIR={machine.run_directory} PYTHONPATH={machine.environment['PYTHONPATH']}"
        f" {sys.executable} -m nvpn {' '.join(words)} >> {story} 2>&1; echo $? >> {story}"
    )


@pytest.mark.root
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


# --- whatever is under way when the end comes ---------------------------------------------


class Tunnel:
    """A session that does nothing, and remembers in which order."""

    def __init__(
        self,
        name: str,
        config: TunnelConfig | None,
        around: Surroundings,
        undo: contextlib.AsyncExitStack,
        **_: Any,
    ) -> None:
        self.config = config
        self.around = around
        self.story: list[str] = []
        self.operations: dict[str, Operation] = {}
        self.under_way = asyncio.Event()
        undo.callback(self.story.append, "removed")

    def open_control(self, operations: dict[str, Operation]) -> None:
        self.operations = operations

    async def configure(self) -> None: ...

    async def configure_host(self) -> None: ...

    def describe(self) -> str:
        return ""

    async def change(self, new: TunnelConfig) -> list[str]:
        return await self._be_busy("reload")

    async def save(self) -> list[str]:
        return await self._be_busy("save")

    async def prepare_stop(self) -> list[str]:
        return await self._be_busy("preparation")

    async def _be_busy(self, what: str) -> list[str]:
        self.under_way.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.story.append(f"{what} ended")
        return []


def run_tunnel(
    monkeypatch: pytest.MonkeyPatch, script: Callable[[Tunnel], Awaitable[object]]
) -> list[str]:
    """What its story is when it has ended."""
    made: list[Tunnel] = []
    config = TunnelConfig("wg0", Path("wg0.toml"), InterfaceConfig(), ())

    def make(*args: Any, **names: Any) -> Tunnel:
        made.append(Tunnel(*args, **names))
        return made[-1]

    monkeypatch.setattr(supervisor, "Session", make)
    # What is garbage in this process is to be found later on.
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(supervisor, "load", lambda path: config)

    async def run() -> None:
        ready = asyncio.Event()
        reporter = FrontReporter()
        monkeypatch.setattr(reporter, "ready", ready.set)
        running = asyncio.create_task(
            Supervisor(
                "wg0",
                config,
                loop=asyncio.get_running_loop(),
                reporter=reporter,
                handed=NOTHING_HANDED,
                take_over=False,
            ).run()
        )
        await ready.wait()
        await script(made[0])
        assert await asyncio.wait_for(running, 30) == 0

    asyncio.run(run())
    return made[0].story


@pytest.mark.parametrize(
    ("operation", "what"),
    [("nvpn_reload", "reload"), ("nvpn_save", "save"), ("nvpn_stop", "preparation")],
)
def test_what_was_asked_for_has_ended_before_anything_is_removed(
    operation: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[asyncio.Task[Any]] = []

    async def script(tunnel: Tunnel) -> None:
        # As the control socket does, whose connections are no tasks of ours.
        asked.append(asyncio.ensure_future(tunnel.operations[operation]([])))
        await tunnel.under_way.wait()
        tunnel.around.end(0, "the interface was removed")

    assert run_tunnel(monkeypatch, script) == [f"{what} ended", "removed"]
    assert asked[0].cancelled()


def test_a_task_that_does_not_hear_of_its_end_is_told_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "CANCEL_AGAIN_SECONDS", 0.01)

    async def hear_it_the_second_time(tunnel: Tunnel) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # as wait_for may before Python 3.12
            await asyncio.Event().wait()
        await tunnel._be_busy("task")

    async def script(tunnel: Tunnel) -> None:
        tunnel.around.spawn(hear_it_the_second_time(tunnel))
        await asyncio.sleep(0)
        tunnel.around.end(0, "the interface was removed")

    with caplog.at_level(logging.ERROR):
        assert run_tunnel(monkeypatch, script) == ["task ended", "removed"]
    assert caplog.text == ""
