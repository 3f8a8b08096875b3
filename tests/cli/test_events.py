from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nvpn.backend.api import Backend
from nvpn.control import kernel
from nvpn.daemon.event_lines import EventStream
from nvpn.daemon.events import Admitted, Event, EventBus, PeerConnected, Revoked
from tests.support.answering import AnsweringSocket
from tests.support.cli import NVPN, clean_environment, fake_daemon, here, key, nvpn
from tests.support.control_socket import RecordingBackend, RunningServer
from tests.support.scenarios import A, B


class Daemon:
    """Tells events on a control socket."""

    def __init__(self, name: str) -> None:
        self.bus = EventBus(lambda: 1_795_521_600_000_000_000)
        self.server = RunningServer(
            name, _backend, streams={"nvpn_events": EventStream(name, self.bus)}
        )

    def publish(self, event: Event) -> None:
        async def there() -> None:
            self.bus.publish(event)

        self.server.run(there())

    def end(self) -> None:
        async def there() -> None:
            self.bus.close()

        self.server.run(there())

    def wait_for_follower(self) -> None:
        while not self.bus._subscriptions:
            self.server.settle()


async def _backend() -> Backend:
    return RecordingBackend()


@contextmanager
def daemon(name: str) -> Iterator[Daemon]:
    made = Daemon(name)
    with made.server:
        yield made


@contextmanager
def following(*names: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*NVPN, "events", *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    told: dict[str, Any] = json.loads(process.stdout.readline())
    return told


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_lines_come_as_things_happen_until_ctrl_c(directory: Path) -> None:
    with daemon("wg0") as wg0, following() as process:
        wg0.wait_for_follower()
        wg0.publish(PeerConnected(A, "laptop"))
        assert line(process) == {
            "time": "2026-11-24T12:00:00.000000Z",
            "interface": "wg0",
            "event": "connected",
            "peer": A.base64,
            "name": "laptop",
            "endpoint": None,
            "addresses": [],
        }
        wg0.publish(Admitted(B))
        assert line(process)["event"] == "admitted"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.communicate() == ("", "")


def test_tunnels_that_come_and_go_are_followed_too(directory: Path) -> None:
    with daemon("wg0") as wg0, following() as process:
        wg0.wait_for_follower()
        with daemon("wg1") as wg1:
            up = line(process)
            assert (up["interface"], up["event"]) == ("wg1", "up")
            assert up["time"].endswith("Z")
            wg1.publish(Admitted(A))
            assert line(process)["interface"] == "wg1"
        down = line(process)
        assert (down["interface"], down["event"]) == ("wg1", "down")
        wg0.publish(Admitted(A))
        assert line(process)["interface"] == "wg0"


def test_what_a_new_tunnel_told_before_it_was_noticed_is_told_after_that_it_is_up(
    directory: Path,
) -> None:
    with daemon("wg0") as wg0:
        wg0.publish(Admitted(B))
        with following() as process:
            wg0.wait_for_follower()
            wg0.publish(Revoked(B))
            assert line(process)["event"] == "revoked", "what was before us is not ours to hear"
            new = Daemon("wg1")
            new.bus.publish(PeerConnected(A, "laptop"))  # before anybody can have found it
            with new.server:
                told = [line(process) for _ in range(2)]
                assert [(one["interface"], one["event"]) for one in told] == [
                    ("wg1", "up"),
                    ("wg1", "connected"),
                ]
                assert told[1]["time"] == "2026-11-24T12:00:00.000000Z"
                new.publish(Admitted(B))
                assert line(process)["event"] == "admitted"


def test_named_ones_are_followed_until_the_last_goes_down(directory: Path) -> None:
    with (
        daemon("wg0") as wg0,
        daemon("wg1") as wg1,
        daemon("wg2") as wg2,
        following("wg0", "wg1", "wg0") as process,
    ):
        for one in (wg0, wg1):
            one.wait_for_follower()
        wg2.publish(Admitted(A))
        for one in (wg1, wg0):
            one.publish(Admitted(B))
            one.end()
            assert line(process)["event"] == "admitted"
            assert line(process)["event"] == "down"
        assert process.wait(30) == 0
        assert process.communicate() == ("", "")


def test_one_that_is_not_there_is_an_error(directory: Path) -> None:
    done = nvpn("events", "wg7")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "error: cannot access interface wg7: No such device; see what is running: nvpn show\n"
    )


def test_the_kernels_own_is_told_from_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernel, "list_kernel_interfaces", lambda: ["wgk"])
    done = here(capsys, "events", "wgk")
    assert (done.status, done.out) == (1, "")
    assert done.err == "error: wgk is the kernel's own, which tells of no events\n"


def test_one_that_tells_nothing_is_an_error_by_name_and_else_a_remark(directory: Path) -> None:
    refusal = "the daemon of go0 does not know the request nvpn_events"
    with fake_daemon(directory, "go0", [f"public_key={key(1)}"]):
        done = nvpn("events", "go0")
        assert (done.status, done.out, done.err) == (1, "", f"error: {refusal}\n")
        with daemon("wg0") as wg0, following() as process:
            wg0.wait_for_follower()
            assert process.stderr is not None
            assert process.stderr.readline() == f"error: go0 is not followed: {refusal}\n"
            wg0.publish(Admitted(A))
            assert line(process)["interface"] == "wg0"


def test_one_that_goes_down_as_it_is_asked_is_followed_when_it_is_there_again(
    directory: Path,
) -> None:
    path = directory / "wg0.sock"
    again = Daemon("wg0")

    def go_down_and_come_up(connection: socket.socket) -> None:
        if connection.recv(4096):
            path.unlink()
            again.server.__enter__()

    before = AnsweringSocket(path, go_down_and_come_up)
    try:
        with following() as process:
            told = line(process)
            assert (told["interface"], told["event"]) == ("wg0", "up")
            again.publish(Admitted(A))
            assert line(process)["event"] == "admitted"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30)[1] == ""
    finally:
        again.server.__exit__(None, None, None)
        before.close()


def test_a_reader_that_goes_away_ends_it(directory: Path) -> None:
    with daemon("wg0") as wg0, following("wg0") as process:
        wg0.wait_for_follower()
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        wg0.publish(Admitted(A))
        assert process.wait(30) == 141


def test_a_reader_that_has_seen_enough_does_not_wait_for_the_next_event(directory: Path) -> None:
    with daemon("wg0") as wg0, following("wg0") as process:
        wg0.wait_for_follower()
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        assert process.wait(30) == 141
