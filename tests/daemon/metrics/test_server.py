from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import pytest

from nvpn.config.model import MetricsConfig
from nvpn.daemon.metrics import server as server_module
from nvpn.daemon.metrics.exposition import Kind, Metric
from nvpn.daemon.metrics.server import CONNECTIONS, MetricsServer
from nvpn.daemon.metrics.sources import peer_metrics
from nvpn.errors import DropReason, PlatformError
from nvpn.model.keys import PublicKey
from nvpn.model.snapshot import PeerSnapshot
from tests.support.ports import free_ports
from tests.support.scenarios import play

GET: Final = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
OPENMETRICS: Final = (
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n"
)


async def one_metric() -> list[Metric]:
    metric = Metric("things", Kind.GAUGE, "Things")
    metric.add({"name": "caf\u00e9 \udcff"}, 1)
    return [metric]


BODY: Final = b'# HELP things Things\n# TYPE things gauge\nthings{name="caf\xc3\xa9 ?"} 1\n'


def serving(
    scenario: Callable[[MetricsServer], Awaitable[None]],
    collect: Callable[[], Awaitable[Iterable[Metric]]] = one_metric,
    *,
    host: str = "127.0.0.1",
) -> None:
    async def run() -> None:
        server = MetricsServer(asyncio.get_running_loop(), collect)
        server.start(MetricsConfig(host, 0))
        try:
            await scenario(server)
        finally:
            await server.close()
            assert server.address is None

    play(run)


async def connect(server: MetricsServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert server.address is not None
    return await asyncio.open_connection(*server.address)


async def ask(server: MetricsServer, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Status, headers, and body."""
    reader, writer = await connect(server)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


def test_a_scrape_gets_the_numbers_in_the_format_it_asks_for() -> None:
    async def scenario(server: MetricsServer) -> None:
        status, headers, body = await ask(server, GET)
        assert (status, body) == ("HTTP/1.1 200 OK", BODY)
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert headers["Content-Length"] == str(len(BODY))
        status, headers, body = await ask(server, OPENMETRICS)
        assert (status, body) == ("HTTP/1.1 200 OK", BODY + b"# EOF\n")
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")

    serving(scenario)


def test_head_gets_the_head_of_the_same_answer() -> None:
    async def scenario(server: MetricsServer) -> None:
        _, wanted, _ = await ask(server, GET)
        assert await ask(server, GET.replace(b"GET", b"HEAD")) == ("HTTP/1.1 200 OK", wanted, b"")

    serving(scenario)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /secrets HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (b"hello\r\n\r\n", "400 Bad Request"),
        (
            b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000,
            "431 Request Header Fields Too Large",
        ),
    ],
)
def test_anything_else_is_told_so(request_: bytes, status: str) -> None:
    async def scenario(server: MetricsServer) -> None:
        assert (await ask(server, request_))[0] == f"HTTP/1.1 {status}"

    serving(scenario)


def test_who_does_not_finish_a_request_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.05)

    async def scenario(server: MetricsServer) -> None:
        assert (await ask(server, GET[:-2]))[0] == "HTTP/1.1 408 Request Timeout"

    serving(scenario)


def test_who_does_not_read_is_sent_away_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", 0.1)

    async def much() -> list[Metric]:
        metric = Metric("things", Kind.GAUGE, "Things")
        metric.samples.extend(["x" * 1000 + " 1\n"] * 20_000)
        return [metric]

    async def scenario(server: MetricsServer) -> None:
        slow = socket.socket()
        slow.setblocking(False)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        loop = asyncio.get_running_loop()
        with slow:
            await loop.sock_connect(slow, server.address)
            await loop.sock_sendall(slow, GET)
            assert (await ask(server, GET))[0] == "HTTP/1.1 200 OK"
            await asyncio.sleep(0.2)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while chunk := await loop.sock_recv(slow, 1 << 16):
                    received += len(chunk)
            assert received < 20_000_000

    serving(scenario, much)


def test_those_who_ask_again_and_again_share_an_answer_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = 0

    async def counted() -> list[Metric]:
        nonlocal times
        times += 1
        return await one_metric()

    async def scenario(server: MetricsServer) -> None:
        monkeypatch.setattr(server_module, "FRESH_SECONDS", 0)
        await ask(server, GET)
        while server._fresh:
            await asyncio.sleep(0)
        assert times == 1
        monkeypatch.setattr(server_module, "FRESH_SECONDS", 3600)
        answers = await asyncio.gather(*(ask(server, GET) for _ in range(20)))
        assert {body for _, _, body in answers} == {BODY}
        assert times == 2
        assert (await ask(server, OPENMETRICS))[2] == BODY + b"# EOF\n"
        assert times == 3

    serving(scenario, counted)


def test_only_so_many_are_served_at_once() -> None:
    async def scenario(server: MetricsServer) -> None:
        served = [await connect(server) for _ in range(CONNECTIONS)]
        for reader, writer in served:
            writer.write(GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")  # and stays there
        reader, writer = await connect(server)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        for _, waiter in served:
            waiter.close()
        while server._tasks:
            await asyncio.sleep(0)
        assert (await ask(server, GET))[0] == "HTTP/1.1 200 OK"

    serving(scenario)


def test_those_who_connect_and_do_not_ask_keep_nobody_out() -> None:
    async def scenario(server: MetricsServer) -> None:
        idle = [await connect(server) for _ in range(CONNECTIONS)]
        for _, writer in idle[1:]:
            writer.write(GET[:-2])
        for _ in range(3):
            assert (await ask(server, GET))[0] == "HTTP/1.1 200 OK"
        # Those who came first had to go, and no more than had to.
        first, last = idle[0], idle[-1]
        assert await first[0].read() == b""
        last[1].write(GET[-2:])
        assert (await last[0].readline()).startswith(b"HTTP/1.1 200")
        for _, writer in idle:
            writer.close()

    serving(scenario)


def test_a_bug_in_a_number_is_an_answer_and_no_end(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> list[Metric]:
        raise ZeroDivisionError

    async def scenario(server: MetricsServer) -> None:
        assert (await ask(server, GET))[0] == "HTTP/1.1 500 Internal Server Error"
        assert (await ask(server, b"GET / HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 404 Not Found"

    serving(scenario, broken)
    assert "internal error in a scrape" in caplog.text


def test_a_port_that_is_taken_stops_a_start_and_only_warns_a_reload() -> None:
    async def scenario(server: MetricsServer) -> None:
        assert server.address is not None
        taken = MetricsConfig(*server.address)
        other = MetricsServer(asyncio.get_running_loop(), one_metric)
        with pytest.raises(PlatformError) as refusal:
            other.start(taken)
        sentence = (
            f"cannot serve metrics on 127.0.0.1:{taken.port}: Address already in use;"
            " give [metrics] another listen"
        )
        assert (refusal.value.errno, str(refusal.value)) == (errno.EADDRINUSE, sentence)
        assert other.change(taken) == [sentence]
        assert other.address is None
        assert other.change(MetricsConfig("127.0.0.1", 0)) == []
        before = other.address
        assert other.change(taken) == [sentence]
        assert other.address == before
        assert (await ask(other, GET))[0] == "HTTP/1.1 200 OK"
        assert other.change(None) == []
        assert other.address is None
        await other.close()

    serving(scenario)


def test_it_serves_on_ipv6_and_on_every_address() -> None:
    async def scenario(server: MetricsServer) -> None:
        assert (await ask(server, GET))[0] == "HTTP/1.1 200 OK"

    serving(scenario, host="::1")

    async def both(server: MetricsServer) -> None:
        assert server.address is not None
        for host in ("127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(host, server.address[1])
            writer.write(GET)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
            writer.close()

    serving(both, host="::")


def test_it_moves_to_another_address_at_its_own_port() -> None:
    async def run() -> None:
        (port,) = free_ports(1, socket.SOCK_STREAM)
        server = MetricsServer(asyncio.get_running_loop(), one_metric)
        server.start(MetricsConfig("0.0.0.0", port))
        try:
            assert server.change(MetricsConfig("127.0.0.1", port)) == []
            assert server.address == ("127.0.0.1", port)
            (sentence,) = server.change(MetricsConfig("192.0.2.77", port))
            assert "Cannot assign requested address" in sentence
            assert server.address == ("127.0.0.1", port)
            assert (await ask(server, GET))[0] == "HTTP/1.1 200 OK"
        finally:
            await server.close()

    play(run)


def test_ten_thousand_peers_are_told_of_in_turns() -> None:
    class Many:
        def peers(self) -> list[PublicKey]:
            return [PublicKey(number.to_bytes(32, "big")) for number in range(10_000)]

        def peer(self, peer: PublicKey) -> PeerSnapshot | None:
            return PeerSnapshot(peer)

        def drops(self) -> dict[DropReason, int]:
            return {}

    async def scenario(server: MetricsServer) -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        _, _, body = await ask(server, GET)
        counting.cancel()
        assert body.count(b"\nwireguard_") == 30_000
        assert turns > 150

    serving(scenario, lambda: peer_metrics("wg0", Many()))
