"""The control socket: what is said on it, where it lies, who may use it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from nvpn.control import client
from nvpn.control import server as server_module
from nvpn.errors import ConfigError, ConfigErrors, ControlError, PlatformError
from nvpn.model.changes import AddPeer, SetListenPort
from tests.support.control_socket import RecordingBackend, RunningServer
from tests.support.servers import NAME, OK, A, running

pytestmark = pytest.mark.usefixtures("directory")


# --- the conversation ------------------------------------------------------------------


def test_set_reaches_the_backend_as_one_plan(
    server: RunningServer, backend: RecordingBackend
) -> None:
    assert server.ask(f"set=1\nlisten_port=7\npublic_key={A.hex}\n\n") == OK
    assert server.ask("set=1\n\n") == OK
    assert backend.plans == [(SetListenPort(7), AddPeer(A)), ()]


def test_one_connection_serves_many_operations(
    server: RunningServer, backend: RecordingBackend
) -> None:
    with server.connect() as connection:
        for port in (1, 2, 3):
            assert connection.ask(f"set=1\nlisten_port={port}\n\n") == OK
            assert connection.ask("get=1\n\n").endswith(OK)
        assert connection.ask("set=1\nlisten_port=x\n\n") == "errno=-22\n\n"
        assert connection.ask("set=1\nlisten_port=4\n\n") == OK
    assert backend.plans == [(SetListenPort(port),) for port in (1, 2, 3, 4)]


def test_requests_may_come_in_any_pieces(server: RunningServer, backend: RecordingBackend) -> None:
    request = b"set=1\nlisten_port=7\n\nget=1\n\nset=1\nlisten_port=8\n\n"
    for size in (1, 2, 3, 5, 8, len(request)):
        backend.plans.clear()
        with server.connect() as connection:
            for start in range(0, len(request), size):
                connection.send(request[start : start + size])
            connection.finish()
            answers = b""
            while chunk := connection.socket.recv(4096):
                answers += chunk
        assert answers.count(b"errno=0\n\n") == 3
        assert backend.plans == [(SetListenPort(7),), (SetListenPort(8),)]


def test_a_bad_line_refuses_the_whole_request(
    server: RunningServer, backend: RecordingBackend
) -> None:
    assert server.ask("set=1\nlisten_port=7\nfwmark=0x1\nlisten_port=8\n\n") == "errno=-22\n\n"
    assert server.ask("set=1\nlisten_port=7\nnonsense\n\n") == "errno=-71\n\n"
    assert server.ask(b"set=1\nlisten_port=\xff\n\n") == "errno=-22\n\n"
    assert backend.plans == []


def test_a_refusal_of_the_backend_has_its_errno(
    server: RunningServer, backend: RecordingBackend
) -> None:
    backend.failure = ControlError(errno.EADDRINUSE, "port 7 is taken")
    assert server.ask("set=1\nlisten_port=7\n\n") == "errno=-98\n\n"


def test_a_bug_in_the_backend_is_an_io_error_to_the_client_and_a_traceback_in_the_log(
    server: RunningServer, backend: RecordingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.failure = RuntimeError("a bug")
    assert server.ask("set=1\nlisten_port=7\n\n") == "errno=-5\n\n"
    assert "a bug" in caplog.text
    backend.failure = None
    assert server.ask("set=1\nlisten_port=7\n\n") == OK


@pytest.mark.parametrize(
    "request_text",
    [
        "unknown=1\n\n",
        "get=2\n\n",
        "get\n\n",
        "get=1\r\n\r\n",
        "\n",
        "\n\n",
        " get=1\n\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "set=1",
        "x" * 100,
        b"\x00\xff\xfe\n",
    ],
)
def test_an_unknown_operation_gets_no_answer(
    server: RunningServer, request_text: str | bytes
) -> None:
    with server.connect() as connection:
        connection.send(request_text)
        connection.finish()
        assert connection.read_answer() == ""


@pytest.mark.parametrize("tail", ["x", "x\n", "x\n\n", "\r\n", "listen_port=1\n\n"])
def test_get_with_anything_after_it_is_refused_at_once(server: RunningServer, tail: str) -> None:
    with server.connect() as connection:
        assert connection.ask(f"get=1\n{tail}") == "errno=22\n\n"
        assert connection.is_closed()


@pytest.mark.parametrize(
    "request_text", ["set=1\n", "set=1\nlisten_port=7", "set=1\nlisten_port=7\n"]
)
def test_an_end_before_the_blank_line_applies_nothing(
    server: RunningServer, backend: RecordingBackend, request_text: str
) -> None:
    with server.connect() as connection:
        connection.send(request_text)
        connection.finish()
        assert connection.read_answer() == "errno=-71\n\n"
        assert connection.is_closed()
    assert backend.plans == []


def test_a_connection_that_says_nothing_is_no_trouble(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        server.connect().socket.close()
    assert server.ask("get=1\n\n").endswith(OK)
    assert caplog.records == []


# --- the daemon's own operations -------------------------------------------------------


def test_own_operations_answer_with_messages(backend: RecordingBackend) -> None:
    seen: list[Sequence[str]] = []

    async def reload(lines: Sequence[str]) -> Sequence[str]:
        seen.append(lines)
        return ["2 peers changed", "two\nlines"]

    with running(backend, {"nvpn_reload": reload}) as server:
        assert client.messages(client.request(NAME, "nvpn_reload", ["a=b"])) == [
            "2 peers changed",
            "two",
            "lines",
        ]
        assert seen == [["a=b"]]
        assert server.ask("nvpn_reload=1\n\n").endswith("\nerrno=0\n\n")


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (ConfigErrors((ConfigError("one", line=1), ConfigError("two"))), errno.EINVAL),
        (ControlError(errno.EBUSY, "one\ntwo"), errno.EBUSY),
        (PlatformError("one\ntwo", errno=errno.EPERM), errno.EPERM),
    ],
)
def test_a_refusal_of_an_own_operation_brings_its_sentences(
    backend: RecordingBackend, error: Exception, number: int
) -> None:
    async def refuse(lines: Sequence[str]) -> Sequence[str]:
        raise error

    with running(backend, {"nvpn_reload": refuse}), pytest.raises(ControlError) as refused:
        client.request(NAME, "nvpn_reload")
    assert refused.value.errno == number
    assert str(refused.value) == str(error)


def test_an_operation_may_close_the_server_and_still_be_answered(
    backend: RecordingBackend,
) -> None:
    started: list[RunningServer] = []

    async def stop(lines: Sequence[str]) -> Sequence[str]:
        await started[0].server.close()
        return ["stopped"]

    with running(backend, {"nvpn_stop": stop}) as server:
        started.append(server)
        assert client.messages(client.request(NAME, "nvpn_stop")) == ["stopped"]
        assert not Path(server.path).exists()


def test_an_operation_that_ends_the_daemon_is_answered_before_the_end(
    backend: RecordingBackend,
) -> None:
    closed: list[asyncio.Task[None]] = []

    async def stop(lines: Sequence[str]) -> list[str]:
        closed.append(asyncio.get_running_loop().create_task(server.server.close()))
        return ["goodbye " * 100_000]

    with running(backend, {"nvpn_stop": stop}) as server, server.connect() as connection:
        with server.connect() as idle:
            idle.ask("get=1\n\n")
            answer = connection.ask("nvpn_stop=1\n\n")
            assert idle.is_closed()
        assert answer.endswith(f"goodbye \n{OK}")
        assert connection.is_closed()
        server.run(asyncio.wait_for(closed[0], 60))


def test_who_does_not_read_its_answer_delays_the_end_by_a_moment_only(
    backend: RecordingBackend,
) -> None:
    async def talk(lines: Sequence[str]) -> list[str]:
        return ["word " * 2_000_000]

    with running(backend, {"nvpn_talk": talk}) as server, server.connect() as connection:
        connection.send("nvpn_talk=1\n\n")
        assert connection.socket.recv(1)  # it has begun to answer
        server.run(asyncio.wait_for(server.server.close(), 60))


def test_a_daemon_that_does_not_know_an_operation_is_told_apart(server: RunningServer) -> None:
    with pytest.raises(ControlError, match="does not know the request nvpn_reload"):
        client.request(NAME, "nvpn_reload")


# --- the path --------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_and_the_directory_for_all(
    server: RunningServer, directory: Path
) -> None:
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o700
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


def test_a_strict_umask_does_not_hide_the_directory(
    backend: RecordingBackend, directory: Path
) -> None:
    before = os.umask(0o077)
    try:
        with running(backend):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    finally:
        os.umask(before)


def test_close_removes_the_socket(backend: RecordingBackend) -> None:
    with running(backend) as server:
        path = server.path
    assert not os.path.lexists(path)
    assert not server.removed.is_set()


def test_a_stale_socket_is_replaced(backend: RecordingBackend, directory: Path) -> None:
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / f"{NAME}.sock"))
    assert not client.is_running(NAME) or pytest.fail("the client took it for alive")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / f"{NAME}.sock"))
    with running(backend) as server:
        assert server.ask("get=1\n\n").endswith(OK)


def test_a_live_one_is_refused_and_goes_on(
    server: RunningServer, backend: RecordingBackend
) -> None:
    with pytest.raises(PlatformError, match=f"cannot start {NAME}.*it is running already"):
        running(backend).__enter__()
    assert server.ask("get=1\n\n").endswith(OK)
    assert not server.removed.is_set()


def test_something_that_is_no_socket_is_left_alone(
    backend: RecordingBackend, directory: Path
) -> None:
    directory.mkdir()
    file = directory / f"{NAME}.sock"
    file.write_text("precious")
    with pytest.raises(PlatformError, match="something else has that name"):
        running(backend).__enter__()
    assert file.read_text() == "precious"


def test_a_path_that_is_too_long_is_told(
    backend: RecordingBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path / ("d" * 120)))
    with pytest.raises(PlatformError, match="too long"):
        running(backend).__enter__()


def test_somebody_who_holds_the_lock_cannot_keep_a_tunnel_from_starting(
    backend: RecordingBackend, directory: Path
) -> None:
    import fcntl

    directory.mkdir()
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with running(backend) as server:
            assert server.ask("get=1\n\n").endswith(OK)
    finally:
        os.close(held)


@pytest.mark.parametrize("how", ["unlink", "rename", "replace"])
def test_a_removed_socket_is_noticed_and_what_took_its_place_is_left_alone(
    backend: RecordingBackend, directory: Path, how: str
) -> None:
    with running(backend) as server:
        path = Path(server.path)
        if how == "unlink":
            path.unlink()
        elif how == "rename":
            path.rename(directory / "elsewhere")
        else:
            (directory / "new").write_text("new")
            (directory / "new").rename(path)
        assert server.removed.wait(30)
    assert path.exists() is (how == "replace")


def test_a_changed_mode_is_no_removal(server: RunningServer) -> None:
    os.chmod(server.path, 0o600)
    assert server.ask("get=1\n\n").endswith(OK)
    assert not server.removed.wait(0.1)


def test_removal_is_noticed_without_inotify(
    backend: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvpn.control.removal._open_inotify", lambda path: -1)
    monkeypatch.setattr("nvpn.control.removal._POLL_SECONDS", 0.01)
    with running(backend) as server:
        os.unlink(server.path)
        assert server.removed.wait(30)


def test_a_socket_that_is_taken_for_a_dead_ones_while_it_starts_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `wg show` does with all sockets that refuse it."""
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path))
    real, paths = server_module.listen, []

    def lost_at_first(name: str, path: str) -> socket.socket:
        listener = real(name, path)
        paths.append(path)
        if len(paths) == 1:
            os.unlink(path)
        return listener

    monkeypatch.setattr(server_module, "listen", lost_at_first)

    async def backend() -> RecordingBackend:
        return RecordingBackend()

    with RunningServer(NAME, backend):
        assert client.is_running(NAME)
    assert len(paths) == 2
