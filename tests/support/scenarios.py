"""Scenarios on an event loop, for tunnels in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import uvloop

from nvpn.datapath.commands import Command
from nvpn.datapath.events import Event
from nvpn.model.changes import (
    Change,
)
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot
from tests.support.memory_tunnel import MemoryTunnel

Scenario = Callable[[], Awaitable[None]]

A, B, C = (PublicKey(bytes([n]) * 32) for n in (0xAA, 0xBB, 0xCC))
PSK = PresharedKey(b"\x01" * 32)
ELSEWHERE = Endpoint.parse("192.0.2.1:51820")


def play(scenario: Callable[[], Any]) -> None:
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop)
        if hasattr(asyncio, "Runner")
        else _OldRunner() as runner
    ):
        runner.run(asyncio.wait_for(scenario(), 60))


class _OldRunner:
    """asyncio.Runner came with Python 3.11."""

    def __enter__(self) -> _OldRunner:
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.set_event_loop(None)
        self._loop.close()

    def run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)


def prefix(text: str) -> Prefix:
    return Prefix.parse(text)


def peers(tunnel: MemoryTunnel) -> dict[PublicKey, PeerSnapshot]:
    return {peer.public_key: peer for peer in tunnel.backend.snapshot().peers}


async def apply(tunnel: MemoryTunnel, *changes: Change) -> None:
    await tunnel.backend.apply(changes)


class Recorder:
    """Stands around a datapath and keeps what went down; ``silent`` keeps the answers."""

    def __init__(self, *, silent: bool = False) -> None:
        self.commands: list[Command] = []
        self._silent = silent
        self._inner: Any = None

    def around(self, inner: Any) -> Recorder:
        self._inner = inner
        return self

    def apply(
        self, commands: Iterable[Command], acknowledged: Callable[[], None] | None = None
    ) -> None:
        taken = list(commands)
        self.commands += taken
        self._inner.apply(taken, None if self._silent else acknowledged)

    def take_events(self) -> list[Event]:
        return cast("list[Event]", self._inner.take_events())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
