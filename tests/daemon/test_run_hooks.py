"""Commands of a configuration, run without a tunnel around them."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from nvpn.daemon import hooks
from nvpn.daemon.hooks import run_hooks
from nvpn.errors import PlatformError
from tests.support.descriptors import descriptors
from tests.support.groups import wait_until_none_lives
from tests.support.virtual_loop import SkippingLoop


def test_one_that_does_not_end_in_time_is_ended_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hooks, "_GRACE_SECONDS", 30.0)
    loop = SkippingLoop()
    said: list[str] = []

    def show(line: str) -> None:
        said.append(line)
        if line == "ready":
            loop.skip(60)

    command = "trap 'echo asked; exit' TERM; echo $$; echo ready; sleep 1000 & wait"
    with pytest.raises(PlatformError) as raised:
        loop.play(run_hooks("PreDown", (command,), "wg0", show=show, limit=60))

    assert str(raised.value) == (
        "cannot run PreDown hook 1 of wg0; it has not ended after 60 seconds"
    )
    assert said[2:] == ["ready", "asked"]
    wait_until_none_lives(int(said[1]))


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    said: list[str] = []
    command = "head -c 100000 /dev/zero | tr '\\0' x"

    async def run() -> None:
        await run_hooks("PreUp", (command,), "wg0", show=said.append, limit=None)
        while sum(map(len, said[1:])) < 100_000:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))

    assert max(len(line) for line in said) == 4096
    assert sum(len(line) for line in said[1:]) == 100_000


def test_without_bash_sh_runs_them_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []

    asyncio.run(run_hooks("PreUp", ("echo %i by $0",), "wg0", show=said.append, limit=None))

    assert said[1] == f"wg0 by {tmp_path}/sh"
    assert "bash, which is missing" in caplog.text


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("kill -9 $$", "cannot run PreUp hook 1 of wg0: SIGKILL"),
        ("echo; exit 7", "cannot run PreUp hook 1 of wg0: exit status 7"),
        ("nonesuch-command", "exit status 127; "),
        ("(", "exit status 2; "),
    ],
)
def test_how_one_failed_is_told(command: str, told: str) -> None:
    with pytest.raises(PlatformError) as raised:
        asyncio.run(run_hooks("PreUp", (command,), "wg0", show=lambda line: None, limit=None))

    assert told in str(raised.value)


def test_one_that_finds_no_descriptors_left_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", refuse)
    with pytest.raises(PlatformError, match="run PreUp hook 1 of wg0: Too many open files"):
        asyncio.run(run_hooks("PreUp", ("true",), "wg0", show=print, limit=None))


def test_no_descriptor_is_left_of_a_hook() -> None:
    before = descriptors()
    for _ in range(3):
        asyncio.run(run_hooks("PreUp", ("true", "echo x"), "wg0", show=print, limit=None))
    assert descriptors() == before
