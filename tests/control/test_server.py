from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest

from nvpn.backend.api import Backend
from nvpn.control import client
from nvpn.control.requests import Limits
from nvpn.control.server import Operation
from nvpn.errors import ConfigError, ConfigErrors, ControlError, PlatformError
from nvpn.model.changes import AddPeer, SetListenPort
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from tests.support.control_socket import Client, RecordingBackend, RunningServer

NAME = "u6test"
A = PublicKey(b"\xaa" * 32)
OK = "errno=0\n\n"
SHORT = Limits(
    connections=8,
    request_bytes=200_000,
    request_seconds=0.3,
    idle_seconds=0.5,
    answer_seconds=0.5,
)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "wireguard"
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def backend() -> RecordingBackend:
    return RecordingBackend()


def running(
    backend: RecordingBackend,
    operations: dict[str, Operation] | None = None,
    limits: Limits | None = None,
) -> RunningServer:
    async def make() -> Backend:
        return backend

    return RunningServer(NAME, make, operations=operations, limits=limits)


@pytest.fixture
def server(backend: RecordingBackend) -> Iterator[RunningServer]:
    with running(backend) as started:
        yield started


@pytest.fixture
def strict_server(backend: RecordingBackend) -> Iterator[RunningServer]:
    with running(backend, limits=SHORT) as started:
        yield started


# --- the conversation -----------------------------------------------------------------


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


# --- the daemon's own operations ------------------------------------------------------


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


def test_a_daemon_that_does_not_know_an_operation_is_told_apart(server: RunningServer) -> None:
    with pytest.raises(ControlError, match="does not know the request nvpn_reload"):
        client.request(NAME, "nvpn_reload")


# --- the path -------------------------------------------------------------------------


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
        assert server.removed.wait(5)
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
        assert server.removed.wait(5)


# --- slow and hostile clients ---------------------------------------------------------


def assert_serves(server: RunningServer) -> None:
    with server.connect(timeout=2) as connection:
        assert connection.ask("get=1\n\n").endswith(OK)


def test_half_a_request_holds_up_nobody_and_ends(
    strict_server: RunningServer, backend: RecordingBackend
) -> None:
    with strict_server.connect() as slow:
        slow.send("set=1\nlisten_port=7\n")
        assert_serves(strict_server)
        assert slow.read_answer() == "errno=-110\n\n"
        assert slow.is_closed()
    assert backend.plans == []


def test_a_client_that_drips_cannot_stretch_its_time(strict_server: RunningServer) -> None:
    with strict_server.connect() as slow:
        began = time.monotonic()
        slow.send("set=1\nl")
        with pytest.raises(OSError):
            while time.monotonic() < began + 10:
                slow.send("x")
                time.sleep(0.02)
        assert_serves(strict_server)


def test_a_client_that_never_speaks_is_let_go(strict_server: RunningServer) -> None:
    with strict_server.connect() as silent:
        assert silent.is_closed()


def test_an_endless_line_is_cut_off(
    strict_server: RunningServer, backend: RecordingBackend
) -> None:
    with strict_server.connect() as hostile:
        sent = 0
        with pytest.raises(OSError):
            hostile.send("set=1\nprivate_key=")
            while sent < 1 << 30:
                hostile.send(b"a" * 65536)
                sent += 65536
        assert sent < 1 << 20
    assert_serves(strict_server)
    assert backend.plans == []


def test_a_line_at_the_limit_is_read_and_one_beyond_it_is_not(server: RunningServer) -> None:
    line = "nvpn_name=" + "n" * (65535 - 10)
    assert server.ask(f"set=1\npublic_key={A.hex}\n{line}\n\n") == OK
    with server.connect() as connection:
        connection.send(f"set=1\npublic_key={A.hex}\n{line}n")
        assert connection.read_answer() == "errno=-5\n\n"


def test_an_endless_request_is_cut_off(
    strict_server: RunningServer, backend: RecordingBackend
) -> None:
    with strict_server.connect() as hostile:
        hostile.send("set=1\n")
        with pytest.raises(OSError):
            for _ in range(1 << 20):
                hostile.send("listen_port=7\n" * 1000)
    assert_serves(strict_server)
    assert backend.plans == []


def test_a_client_that_does_not_read_its_answer_is_let_go(
    backend: RecordingBackend,
) -> None:
    prefixes = tuple(Prefix(4, i << 8, 24) for i in range(1 << 17))
    backend.shown = TunnelSnapshot(NAME, peers=(PeerSnapshot(A, allowed_ips=prefixes),))
    with running(backend, limits=SHORT) as server, server.connect() as lazy:
        lazy.send("get=1\n\n")
        assert server.ask("set=1\nlisten_port=7\n\n") == OK
        hung_up = select.poll()
        hung_up.register(lazy.socket, select.POLLRDHUP)
        assert hung_up.poll(10_000)
        answer = b""
        while chunk := lazy.socket.recv(1 << 16):
            answer += chunk
        assert b"errno" not in answer
        assert backend.plans == [(SetListenPort(7),)]


@pytest.mark.parametrize("seed", range(4))
def test_random_requests_in_random_pieces_do_no_harm(
    strict_server: RunningServer, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    random = Random(seed)
    words = [b"set=1", b"get=1", b"\n", b"\n\n", b"=", b"\r", b"\x00", b"\xff", b"public_key="]
    words += [A.hex.encode(), b"remove=true", b"allowed_ip=", b"-", b"10.0.0.0/8", b"9" * 5000]
    for _ in range(50):
        with strict_server.connect() as connection:
            try:
                for _ in range(random.randrange(8)):
                    connection.send(b"".join(random.choices(words, k=random.randrange(1, 12))))
                connection.finish()
                connection.read_answer()
            except OSError:
                pass  # it was shown the door
    assert_serves(strict_server)
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_connections_beyond_the_limit_are_refused_at_once(backend: RecordingBackend) -> None:
    limits = Limits(connections=8, request_seconds=30)
    with running(backend, limits=limits) as server:
        held = [server.connect() for _ in range(8)]
        for connection in held:
            assert connection.ask("get=1\n\n").endswith(OK)
            connection.send("set=1\n")
        server.settle()
        with server.connect() as refused:
            assert refused.is_closed()
        held.pop().socket.close()
        _until_served(server)
        for connection in held:
            connection.socket.close()


def test_who_asks_nothing_makes_room_for_who_does(backend: RecordingBackend) -> None:
    limits = Limits(connections=8, idle_seconds=30)
    with running(backend, limits=limits) as server:
        idle = [server.connect() for _ in range(8)]
        for connection in idle:
            assert connection.ask("get=1\n\n").endswith(OK)
        with server.connect() as late:
            assert late.ask("get=1\n\n").endswith(OK)
            assert idle[0].is_closed(), "the one that was there for longest"
        assert idle[7].ask("get=1\n\n").endswith(OK)
        for connection in idle:
            connection.socket.close()


def _until_served(server: RunningServer) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if server.ask("get=1\n\n").endswith(OK):
                return
        except OSError:
            pass  # the server has not seen the free place yet
        time.sleep(0.01)
    raise AssertionError("nobody was served again")


def test_a_thousand_connections_leave_the_server_well(server: RunningServer) -> None:
    def attack() -> None:
        for _ in range(250):
            try:
                with server.connect(timeout=5) as connection:
                    connection.send("set=1\nlisten_port=7\n")
            except OSError:
                pass  # refused: that is what the limit is for

    threads = [threading.Thread(target=attack) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _until_served(server)


def test_running_out_of_descriptors_neither_spins_nor_ends_the_server(
    backend: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvpn.control.server._PAUSE_SECONDS", 0.05)
    with running(backend) as server:
        assert_serves(server)
        waiting = Client.__new__(Client)
        waiting.socket = socket.socket(socket.AF_UNIX)
        waiting.socket.settimeout(10)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        plugs = []
        try:
            while True:
                try:
                    plugs.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            waiting.socket.connect(server.path)
            cpu = time.process_time()
            time.sleep(0.3)
            spent = time.process_time() - cpu
        finally:
            for fd in plugs:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert spent < 0.2  # a loop that spins would use all of the 0.3 seconds
        assert waiting.ask("get=1\n\n").endswith(OK)
        waiting.socket.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_user_is_not_served_even_if_the_socket_lets_him_in(
    backend: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as open_to_all:
        os.chmod(open_to_all, 0o755)
        monkeypatch.setenv("NVPN_RUNTIME_DIR", open_to_all)
        with running(backend) as server:
            os.chmod(server.path, 0o777)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.setuid(65534)
                    stranger = Client(server.path)
                    status = 2
                    stranger.finish()
                    status = 0 if stranger.is_closed() else 3
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_of_a_request_is_zeroed() -> None:
    from nvpn.control.requests import Request, RequestReader

    body = bytearray(b"private_key=abc\n")
    Request("set", body).wipe()
    assert body == b""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            reader = RequestReader(ours, {"set", "get"}, Limits())
            theirs.sendall(b"set=1\nprivate_key=abc\n\nset=1\nprivate_key=ab")
            request = await reader.next()
            assert request is not None
            assert list(request.lines()) == ["private_key=abc"]
            reader.wipe()
            assert not any(reader._buffer)
            assert not any(reader._chunk)

    asyncio.run(scenario())
