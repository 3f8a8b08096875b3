"""Commands that run when peers come and go, without a tunnel around them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nvpn.config.model import Hooks
from nvpn.daemon import connection_hooks
from nvpn.daemon.connection_hooks import HOOK_SECONDS, ConnectionHooks
from nvpn.daemon.events import Admitted, PeerConnected, PeerDisconnected
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from tests.support.groups import wait_until_none_lives
from tests.support.scenarios import A, B
from tests.support.virtual_loop import SkippingLoop

PREFIXES = (Prefix.parse("10.8.0.2/32"), Prefix.parse("fd42::2/128"))


def play(
    hooks: Hooks,
    scenario: Callable[[ConnectionHooks], Awaitable[None]],
    *,
    said: list[str] | None = None,
) -> None:
    """What says "takes long" has taken long enough."""
    loop = SkippingLoop()

    def show(line: str) -> None:
        if said is not None:
            said.append(line)
        if line == "takes long":
            loop.skip(HOOK_SECONDS)

    async def run() -> None:
        subject = ConnectionHooks("wg0", loop=loop, hooks=lambda: hooks, show=show)
        try:
            await scenario(subject)
        finally:
            await subject.close()

    loop.play(run())


def test_a_hook_is_told_who_came_in_its_environment_and_nowhere_else() -> None:
    said: list[str] = []
    command = (
        'printf "%s|" %i "$NVPN_INTERFACE" "$NVPN_PEER" "$NVPN_PEER_NAME" "$NVPN_ENDPOINT"'
        ' "$NVPN_ADDRESSES"; tr "\\0" " " < /proc/$$/cmdline'
    )
    name = 'Eve"; touch /tmp/owned #$(id)\0'
    event = PeerConnected(A, name, Endpoint.parse("[2001:db8::1]:7"), PREFIXES)

    async def scenario(hooks: ConnectionHooks) -> None:
        hooks.hear(event)
        hooks.hear(PeerConnected(B))
        await hooks.finish(20)

    play(Hooks(on_connect=(command,)), scenario, said=said)
    whole = f"wg0|wg0|{A.base64}|{name[:-1]}|[2001:db8::1]:7|10.8.0.2/32 fd42::2/128|"
    bare = f"wg0|wg0|{B.base64}||||"
    assert sorted(line.rpartition("|")[0] + "|" for line in said) == sorted([whole, bare])
    for line in said:
        assert "Eve" not in line.rpartition("|")[2]


def test_what_a_peer_does_is_followed_in_order_and_others_do_not_wait(tmp_path: Path) -> None:
    story, gate = tmp_path / "story", tmp_path / "gate"
    wait = f'while [ "$NVPN_PEER" = "{A}" ] && [ ! -e {gate} ]; do sleep 0.01; done; '
    hooks = Hooks(
        on_connect=(f'{wait} echo "$NVPN_PEER_NAME came" >> {story}',),
        on_disconnect=(f'echo "$NVPN_PEER_NAME went" >> {story}',),
    )

    async def scenario(subject: ConnectionHooks) -> None:
        for event in (
            PeerConnected(A, "a"),
            PeerDisconnected(A, "a"),
            PeerConnected(A, "a"),
            PeerConnected(B, "b"),
            PeerDisconnected(B, "b"),
            Admitted(B, "b"),
        ):
            subject.hear(event)
        while not story.exists() or len(story.read_text().splitlines()) < 2:
            await asyncio.sleep(0.01)
        gate.touch()
        await subject.finish(20)

    play(hooks, scenario)
    told = story.read_text().splitlines()
    assert told[:2] == ["b came", "b went"]
    assert told[2:] == ["a came", "a went", "a came"]


def test_only_some_run_at_once_and_beyond_a_bound_they_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection_hooks, "WAITING", 5)
    gate = tmp_path / "gate"
    command = f'touch {tmp_path}/ran-"$NVPN_PEER_NAME"; while [ ! -e {gate} ]; do sleep 0.01; done'

    def ran() -> int:
        return len(list(tmp_path.glob("ran-*")))

    async def scenario(hooks: ConnectionHooks) -> None:
        for number in range(20):
            hooks.hear(PeerConnected(PublicKey(bytes([number]) * 32), str(number)))
        while ran() < 8:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert ran() == 8
        gate.touch()
        await hooks.finish(20)

    play(Hooks(on_connect=(command,)), scenario)
    assert ran() == 8 + 5
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["5 on_connect and on_disconnect hooks wait already; some are left out"]


def test_a_peer_that_comes_and_goes_all_the_time_takes_no_others_place(tmp_path: Path) -> None:
    story, gate = tmp_path / "story", tmp_path / "gate"
    wait = f'while [ "$NVPN_PEER" = "{A}" ] && [ ! -e {gate} ]; do sleep 0.01; done; '
    hooks = Hooks(
        on_connect=(f'{wait} echo "$NVPN_PEER_NAME came" >> {story}',),
        on_disconnect=(f'{wait} echo "$NVPN_PEER_NAME went" >> {story}',),
    )

    async def scenario(subject: ConnectionHooks) -> None:
        for _ in range(2000):
            subject.hear(PeerConnected(A, "a"))
            subject.hear(PeerDisconnected(A, "a"))
        subject.hear(PeerConnected(A, "a"))
        subject.hear(PeerConnected(B, "b"))
        while not story.exists():
            await asyncio.sleep(0.01)
        gate.touch()
        await subject.finish(20)

    play(hooks, scenario)
    told = story.read_text().splitlines()
    assert told[0] == "b came"
    assert set(told[1::2]) == {"a came"}
    assert set(told[2::2]) == {"a went"}
    assert told[-1] == "a came", "as it is now"
    assert 3 <= len(told) <= 12


def test_one_that_fails_is_a_warning_and_the_next_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said: list[str] = []

    async def scenario(hooks: ConnectionHooks) -> None:
        hooks.hear(PeerDisconnected(A))
        await hooks.finish(HOOK_SECONDS + 20)

    hooks = Hooks(on_disconnect=("echo no; exit 3", "echo takes long; sleep 1000", "echo yes"))
    play(hooks, scenario, said=said)
    assert said == ["no", "takes long", "yes"]
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "cannot run on_disconnect hook 1 of wg0: exit status 3; no",
        "cannot run on_disconnect hook 2 of wg0; it has not ended after 60 seconds",
    ]


def test_at_the_end_what_still_runs_is_ended_and_nothing_more_begins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said: list[str] = []

    async def scenario(hooks: ConnectionHooks) -> None:
        hooks.hear(PeerConnected(A))
        hooks.hear(PeerDisconnected(A))
        while not said:
            await asyncio.sleep(0.01)
        await hooks.finish(0.05)
        await hooks.close()
        hooks.hear(PeerConnected(A))

    hooks = Hooks(on_connect=("echo $$; exec sleep 1000",), on_disconnect=("echo gone",))
    play(hooks, scenario, said=said)
    (process,) = said
    wait_until_none_lives(int(process))
    assert "2 on_connect and on_disconnect hooks were not finished" in caplog.text


def test_without_a_command_nothing_waits(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(hooks: ConnectionHooks) -> None:
        hooks.hear(PeerConnected(A))
        await hooks.finish(0)

    play(Hooks(on_disconnect=("exit 1",)), scenario)
    assert caplog.text == ""
