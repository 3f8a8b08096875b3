"""Clients that are slow, many, or mean: others are served, and nothing grows."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import socket
import tempfile
import threading
import time
from random import Random

import pytest

from nvpn.control.requests import Limits
from nvpn.model.changes import SetListenPort
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from tests.support.control_socket import Client, RecordingBackend, RunningServer
from tests.support.servers import NAME, OK, SHORT, A, running

pytestmark = pytest.mark.usefixtures("directory")


def assert_serves(server: RunningServer) -> None:
    with server.connect(timeout=30) as connection:
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
    deadline = time.monotonic() + 30
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
                with server.connect(timeout=30) as connection:
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
    monkeypatch.setattr("nvpn.control.accepting._PAUSE_SECONDS", 0.05)
    with running(backend) as server:
        assert_serves(server)
        waiting = Client.__new__(Client)
        waiting.socket = socket.socket(socket.AF_UNIX)
        waiting.socket.settimeout(30)
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
