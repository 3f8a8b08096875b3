from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nvpn.control.follow import Following
from nvpn.control.requests import Limits
from nvpn.control.streams import Telling
from nvpn.errors import ControlError, PlatformError
from tests.support.control_socket import RecordingBackend, RunningServer
from tests.support.servers import NAME, OK

ASK = "nvpn_count=1\n\n"
BEGUN = "nvpn_streaming=1\n"


class Counting:
    """Tells numbers as they are called out, keeping one that is not read yet."""

    def __init__(self) -> None:
        self.tellers: list[Teller] = []
        self.requests: list[list[str]] = []
        self.refusal: ControlError | None = None

    def __call__(self, lines: Sequence[str]) -> Telling:
        self.requests.append(list(lines))
        if self.refusal is not None:
            raise self.refusal
        teller = Teller()
        self.tellers.append(teller)
        return teller


class Teller:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.closed = threading.Event()

    async def next(self) -> str:
        return await self.queue.get()

    def close(self) -> None:
        self.closed.set()


class Scene:
    def __init__(self, server: RunningServer, counting: Counting) -> None:
        self.server = server
        self.counting = counting

    def tell(self, *texts: str, which: int = -1) -> None:
        async def put() -> None:
            for text in texts:
                self.counting.tellers[which].queue.put_nowait(text)

        self.server.run(put())

    def is_closed(self, which: int = -1) -> bool:
        return self.counting.tellers[which].closed.wait(30)


@pytest.fixture
def scene(directory: Path, backend: RecordingBackend) -> Iterator[Scene]:
    async def make() -> RecordingBackend:
        return backend

    counting = Counting()
    limits = Limits(connections=8, streams=2, answer_seconds=0.3, idle_seconds=5)
    server = RunningServer(NAME, make, streams={"nvpn_count": counting}, limits=limits)
    with server:
        yield Scene(server, counting)


def read(following: Following) -> list[str] | None:
    with selectors.DefaultSelector() as selector:
        selector.register(following, selectors.EVENT_READ)
        assert selector.select(30), "nothing came"
    return following.read()


def test_lines_come_as_they_are_told_until_the_end(scene: Scene) -> None:
    with scene.server.connect() as client:
        client.send("nvpn_count=1\nfrom=3\n\n")
        assert client.socket.recv(100).decode() == BEGUN
        assert scene.counting.requests == [["from=3"]]
        scene.tell("one")
        assert client.socket.recv(100).decode() == "nvpn_message=one\n"
        scene.tell("two\nthree")
        assert client.socket.recv(100).decode() == "nvpn_message=two\nnvpn_message=three\n"
        scene.tell("")
        assert client.read_answer() == OK
        assert client.is_closed()
    assert scene.is_closed()


def test_a_client_that_hangs_up_is_noticed_although_nothing_happens(scene: Scene) -> None:
    with scene.server.connect() as client:
        client.send(ASK)
        client.socket.recv(100)
    assert scene.is_closed()


def test_a_client_that_talks_on_is_not_listened_to(scene: Scene) -> None:
    with scene.server.connect() as client:
        client.send(ASK)
        client.socket.recv(100)
        client.send("get=1\n\n")
        assert client.is_closed()
    assert scene.is_closed()


def test_a_client_that_does_not_read_holds_up_nobody_and_may_go_on_later(scene: Scene) -> None:
    line = "x" * 1000
    with scene.server.connect() as slow:
        slow.send(ASK)
        slow.socket.recv(100)
        scene.tell(*[line] * 2000)
        assert "errno=0" in scene.server.ask("get=1\n\n")
        time.sleep(0.4)  # longer than any other answer may take
        scene.tell("")
        told = slow.read_answer()
    assert told.count(line) == 2000
    assert told.endswith(OK)


def test_some_streams_leave_room_for_everybody_else(scene: Scene) -> None:
    with scene.server.connect() as one, scene.server.connect() as two:
        for client in (one, two):
            client.send(ASK)
            assert client.socket.recv(100).decode() == BEGUN
        refused = scene.server.ask(ASK)
        assert refused == f"nvpn_message=2 others follow {NAME} already\nerrno=-16\n\n"
        assert "errno=0" in scene.server.ask("get=1\n\n")
    assert scene.is_closed(0)
    assert scene.is_closed(1)
    scene.server.settle()
    with scene.server.connect() as three:
        three.send(ASK)
        assert three.socket.recv(100).decode() == BEGUN


def test_a_server_that_closes_ends_its_streams(scene: Scene) -> None:
    with scene.server.connect() as client:
        client.send(ASK)
        client.socket.recv(100)
        scene.server.run(scene.server.server.close())
        assert client.is_closed()
    assert scene.is_closed()


# --- the client's side --------------------------------------------------------------------


def test_who_follows_hears_everything_and_the_end(scene: Scene) -> None:
    following = Following(NAME, "nvpn_count")
    assert following.read() == []
    scene.tell("one\ntwo")
    assert read(following) == ["one", "two"]
    scene.tell("")
    while (lines := read(following)) == []:
        pass
    assert lines is None
    following.close()


def test_who_is_refused_is_told_why(scene: Scene) -> None:
    scene.counting.refusal = ControlError(11, "not now;\nlater")
    with pytest.raises(ControlError) as refusal:
        Following(NAME, "nvpn_count")
    assert (refusal.value.errno, str(refusal.value)) == (11, "not now;\nlater")


def test_a_daemon_that_knows_no_such_thing_is_named(scene: Scene) -> None:
    with pytest.raises(ControlError) as refusal:
        Following(NAME, "nvpn_guess")
    assert str(refusal.value) == f"the daemon of {NAME} does not know the request nvpn_guess"


def test_nobody_there_is_told_as_for_any_request(directory: Path) -> None:
    with pytest.raises(PlatformError) as refusal:
        Following(NAME, "nvpn_count")
    assert "see what is running: nvpn show" in str(refusal.value)
