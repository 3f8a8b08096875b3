"""Connections are taken until there is an end of it, at once, and after trouble again."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import pytest

from nvpn.control.accepting import Acceptor


class FailingOnce:
    """A listener of which the first ``accept`` fails."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._has_failed = False

    def fileno(self) -> int:
        return self._inner.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        if not self._has_failed:
            self._has_failed = True
            raise OSError(errno.EMFILE, "too many open files")
        return self._inner.accept()


def play(scenario: Callable[[socket.socket], Awaitable[None]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        asyncio.run(asyncio.wait_for(scenario(listener), 60))


def no_trouble(error: OSError) -> None:
    raise AssertionError(error)


def test_who_stops_it_gets_no_further_connection() -> None:
    async def scenario(listener: socket.socket) -> None:
        taken: list[socket.socket] = []
        first = asyncio.Event()

        def take(connection: socket.socket) -> None:
            taken.append(connection)
            acceptor.stop()
            first.set()

        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        acceptor = Acceptor(asyncio.get_running_loop(), listener, take, no_trouble)
        await first.wait()
        await asyncio.sleep(0)
        acceptor.stop()
        assert len(taken) == 1
        assert not taken[0].getblocking()
        for one in (*clients, *taken):
            one.close()

    play(scenario)


def test_what_the_kernel_refuses_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvpn.control.accepting._PAUSE_SECONDS", 0.01)

    async def scenario(listener: socket.socket) -> None:
        told: list[int | None] = []
        taken: asyncio.Queue[socket.socket] = asyncio.Queue()
        with socket.create_connection(listener.getsockname()):
            acceptor = Acceptor(
                asyncio.get_running_loop(),
                FailingOnce(listener),  # type: ignore[arg-type]
                taken.put_nowait,
                lambda error: told.append(error.errno),
            )
            (await taken.get()).close()
            acceptor.stop()
        assert told == [errno.EMFILE]

    play(scenario)


def test_nothing_is_taken_when_it_was_stopped_during_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nvpn.control.accepting._PAUSE_SECONDS", 0.01)

    async def scenario(listener: socket.socket) -> None:
        failed = asyncio.Event()
        taken: list[socket.socket] = []
        with socket.create_connection(listener.getsockname()):
            acceptor = Acceptor(
                asyncio.get_running_loop(),
                FailingOnce(listener),  # type: ignore[arg-type]
                taken.append,
                lambda error: failed.set(),
            )
            await failed.wait()
            acceptor.stop()
            await asyncio.sleep(0.05)
        assert not taken

    play(scenario)
