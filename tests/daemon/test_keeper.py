"""The state file follows what happens, and never costs the tunnel anything."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nvpn.daemon.keeper import StateKeeper
from nvpn.daemon.memory import PeerMemory, TunnelMemory, read_memory, write_memory
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.protocol.tai64n import stamp

ALICE = PublicKey(bytes(range(32)))
BOB = PublicKey(bytes(range(1, 33)))
HERE = Endpoint.parse("192.0.2.1:1")
THERE = Endpoint.parse("192.0.2.1:2")
WALL = 1_700_000_000 * SECOND


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def make(path: Path, memory: TunnelMemory | None = None, **options: object) -> StateKeeper:
    return StateKeeper(
        str(path),
        memory or TunnelMemory(),
        loop=asyncio.get_running_loop(),
        spawn=asyncio.get_running_loop().create_task,
        **{"is_known": lambda peer: True, **options},
    )


async def content(path: Path, is_so: Callable[[TunnelMemory], bool]) -> TunnelMemory:
    while True:
        memory, problem = read_memory(str(path))
        assert not problem
        if is_so(memory):
            return memory
        await asyncio.sleep(0.01)


def completed(peer: PublicKey = ALICE, endpoint: Endpoint = HERE, wall: int = WALL) -> Notice:
    return Notice(NoticeKind.HANDSHAKE_COMPLETED, peer, wall, endpoint)


def test_a_handshake_is_on_disk_soon(tmp_path: Path) -> None:
    async def test() -> None:
        keeper = make(tmp_path / "wg0.json")

        keeper.remember(completed())

        memory = await content(tmp_path / "wg0.json", lambda memory: bool(memory.peers))
        assert memory.peers == {ALICE: PeerMemory(HERE, WALL)}

    run(test)


def test_roaming_moves_the_endpoint_and_not_the_handshake(tmp_path: Path) -> None:
    async def test() -> None:
        keeper = make(tmp_path / "wg0.json")
        keeper.remember(completed())
        keeper.remember(Notice(NoticeKind.ROAMED, ALICE, WALL + SECOND, THERE))
        keeper.remember(Notice(NoticeKind.SESSION_EXPIRED, ALICE, WALL + 2 * SECOND))
        keeper.close()

        assert read_memory(str(tmp_path / "wg0.json"))[0].peers == {ALICE: PeerMemory(THERE, WALL)}

    run(test)


def test_who_is_not_configured_any_more_is_forgotten(tmp_path: Path) -> None:
    async def test() -> None:
        before = TunnelMemory(peers={ALICE: PeerMemory(HERE, 1), BOB: PeerMemory(HERE, 1)})
        keeper = make(tmp_path / "wg0.json", before, is_known=lambda peer: peer == BOB)
        keeper.close()

        assert set(read_memory(str(tmp_path / "wg0.json"))[0].peers) == {BOB}

    run(test)


def test_a_device_that_others_configure_keeps_its_timestamp_alone(tmp_path: Path) -> None:
    async def test() -> None:
        keeper = make(tmp_path / "wg0.json", remembers_peers=False)
        keeper.remember(completed())
        keeper.remember_port(7)
        given = keeper.timestamps.next(WALL)
        keeper.close()

        assert read_memory(str(tmp_path / "wg0.json"))[0] == TunnelMemory(given)

    run(test)


def test_the_end_leaves_the_exact_last_timestamp_and_a_crash_leaves_a_later_one(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        keeper = make(tmp_path / "wg0.json")
        given = keeper.timestamps.next(WALL)
        crashed = read_memory(str(tmp_path / "wg0.json"))[0].timestamp
        keeper.close()
        ended = read_memory(str(tmp_path / "wg0.json"))[0].timestamp

        assert crashed is not None
        assert crashed > given == ended == stamp(WALL)

    run(test)


def test_nothing_happened_leaves_no_file(tmp_path: Path) -> None:
    async def test() -> None:
        make(tmp_path / "wg0.json").close()

        assert not (tmp_path / "wg0.json").exists()

    run(test)


def test_a_disk_that_refuses_is_told_once_and_works_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        blocked = tmp_path / "not-a-directory"
        blocked.write_text("")
        path = blocked / "wg0.json"
        keeper = make(path)
        with caplog.at_level(logging.WARNING):
            for number in range(3):
                assert keeper.timestamps.next(WALL + number * 3600 * SECOND)
        assert len(caplog.records) == 1
        assert f"cannot write {path}: " in caplog.text

        blocked.unlink()
        keeper.remember(completed())
        await content(path, lambda memory: bool(memory.peers))

    run(test)


def test_a_burst_of_changes_is_a_few_writes_and_the_last_one_wins(tmp_path: Path) -> None:
    async def test() -> None:
        keeper = make(tmp_path / "wg0.json")
        for number in range(1000):
            keeper.remember(completed(wall=WALL + number))
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        await content(
            tmp_path / "wg0.json",
            lambda memory: bool(memory.peers) and memory.peers[ALICE].last_handshake == WALL + 999,
        )

    run(test)


def test_what_changes_while_a_slow_disk_writes_is_written_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        has_begun = asyncio.Event()
        may_go_on = threading.Event()
        loop = asyncio.get_running_loop()

        def on_a_slow_disk(path: str, memory: TunnelMemory) -> None:
            loop.call_soon_threadsafe(has_begun.set)
            assert may_go_on.wait(30)
            write_memory(path, memory)

        monkeypatch.setattr("nvpn.daemon.keeper.write_memory", on_a_slow_disk)
        keeper = make(tmp_path / "wg0.json")
        keeper.remember(completed())
        await has_begun.wait()
        keeper.remember(completed(endpoint=THERE))
        may_go_on.set()

        await content(
            tmp_path / "wg0.json",
            lambda memory: bool(memory.peers) and memory.peers[ALICE].endpoint == THERE,
        )

    run(test)
