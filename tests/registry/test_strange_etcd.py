"""Something that is no etcd, or a broken one, where an etcd should be: trouble, and no bug."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from nvpn.config.model import StoreConfig, StoreKind
from nvpn.errors import ServiceError, Unavailable
from nvpn.model.clock import MILLISECOND, read_clocks
from nvpn.registry import etcd_gateway
from nvpn.registry.etcd_gateway import EtcdGateway, encode
from nvpn.registry.etcd_store import EtcdStore
from nvpn.registry.store import Changes, Condition, Put
from nvpn.resilience.policy import BreakerPolicy, Policies, RetryPolicy
from nvpn.resilience.registry import Breakers

HASTY = Policies(
    RetryPolicy(max_attempts=1, initial=MILLISECOND, maximum=MILLISECOND),
    BreakerPolicy(failure_threshold=1000),
)
KEY = encode(b"/nvpn/wg0/a")
STRANGE: tuple[tuple[int, object], ...] = (
    (200, None),
    (200, []),
    (200, {"header": None}),
    (200, {"header": {"revision": "-"}, "kvs": [{}]}),
    (200, {"header": {"revision": "7"}, "kvs": 5, "responses": 5}),
    (200, {"header": {"revision": "7"}, "kvs": [{"key": "!", "mod_revision": "1"}]}),
    (
        200,
        {"header": {"revision": "7"}, "kvs": [1], "responses": [{"response_range": {"kvs": [1]}}]},
    ),
    (200, {"header": {"revision": "7"}, "kvs": [{"key": KEY, "mod_revision": []}]}),
    (200, {"result": {"events": [{"kv": {"key": encode(b"\xff"), "mod_revision": "9"}}]}}),
    (200, {"result": {"events": 7}}),
    (200, {"result": {"canceled": True, "compact_revision": "1"}}),
    (403, {"error": "etcdserver: permission denied", "code": 7}),
    (500, {"error": {}, "code": [7]}),
    (500, {"error": ["invalid auth token"], "code": {}}),
    (301, "elsewhere"),
    (401, [[[]]]),
)


def store_at(server: asyncio.Server) -> EtcdStore:
    host, port = server.sockets[0].getsockname()
    breakers = Breakers(HASTY)
    return EtcdStore(
        EtcdGateway(StoreConfig(StoreKind.ETCD, (f"http://{host}:{port}",), "/nvpn/wg0")),
        "/nvpn/wg0",
        breaker=lambda: breakers.get("etcd"),
        retry=lambda: HASTY.retry,
        clocks=read_clocks,
    )


class DeafGateway(EtcdGateway):
    """Its watch forgets to be cancelled once, as wait_for may do before Python 3.12."""

    async def stream(
        self, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()
        yield {}


def test_a_watch_that_forgets_that_it_is_cancelled_is_ended_all_the_same() -> None:
    config = StoreConfig(StoreKind.ETCD, ("http://127.0.0.1:1",), "/nvpn/wg0")
    breakers = Breakers(HASTY)

    async def run() -> None:
        store = EtcdStore(
            DeafGateway(config),
            "/nvpn/wg0",
            breaker=lambda: breakers.get("etcd"),
            retry=lambda: HASTY.retry,
            clocks=read_clocks,
        )
        store.watch(lambda changes: None)
        await asyncio.sleep(0)
        await asyncio.wait_for(store.close(), 30)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


@pytest.mark.parametrize("turns", range(8))
def test_who_is_cancelled_together_with_an_answer_does_not_go_on(turns: int) -> None:
    """Who does would ask for ever, and the end of the server wait for it."""

    class HeldGateway(EtcdGateway):
        async def _exchange(self, url: str, body: dict[str, Any]) -> Any:
            return await answered

    async def run() -> None:
        nonlocal answered
        answered = asyncio.get_running_loop().create_future()
        gateway = HeldGateway(StoreConfig(StoreKind.ETCD, ("http://127.0.0.1:1",), "/nvpn/wg0"))
        asking = asyncio.ensure_future(gateway.ask("/v3/kv/range", {}))
        for _ in range(10):
            await asyncio.sleep(0)
        answered.set_result(etcd_gateway._Answer(200, {}))
        for _ in range(turns):
            await asyncio.sleep(0)
        is_under_way = asking.cancel()
        await asyncio.wait((asking,))
        assert asking.cancelled() == is_under_way
        await gateway.close()

    answered: asyncio.Future[Any]
    asyncio.run(run())


@pytest.mark.parametrize(("status", "body"), STRANGE)
def test_a_strange_answer_is_trouble_and_no_bug(status: int, body: object) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + text)
        await writer.drain()
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        store = store_at(server)
        heard: list[Changes] = []
        with pytest.raises(Unavailable):
            await store.commit((Condition("a", 0),), (Put("a", b"1"),))
        with pytest.raises(ServiceError):
            await store.load()
        store.watch(heard.append)
        await asyncio.sleep(0.02)
        await asyncio.wait_for(store.close(), 60)
        assert heard == []
        server.close()
        await server.wait_closed()

    asyncio.run(story())


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_an_answer_without_an_end_is_given_up(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "MAX_ANSWER", 1 << 20)
    monkeypatch.setattr(etcd_gateway, "MAX_LINE", 1 << 20)
    monkeypatch.setattr(etcd_gateway, "WHOLE_SECONDS", 0.1 if seconds else 60.0)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" " * (1 << 16))
                await writer.drain()
                await asyncio.sleep(seconds)

    async def story() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        store = store_at(server)
        reason = "does not answer" if seconds else "without an end"
        with pytest.raises(Unavailable, match=reason):
            await store.load()
        heard: list[Changes] = []
        store.watch(heard.append)
        await asyncio.sleep(0.02)
        await asyncio.wait_for(store.close(), 60)
        assert heard == []
        server.close()

    asyncio.run(story())


def test_a_commit_in_an_etcd_that_was_set_back_is_not_taken_for_done() -> None:
    revisions = iter((9, 3, 9))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        header = {"cluster_id": "1", "raft_term": "2", "revision": str(next(revisions))}
        text = json.dumps({"header": header, "succeeded": True}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + text)
        await writer.drain()
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        store = store_at(server)
        assert (await store.commit((), (Put("a", b"1"),))).done
        with pytest.raises(Unavailable, match="set back"):
            await store.commit((), (Put("a", b"2"),))
        assert (await store.commit((), (Put("a", b"3"),))).done
        await store.close()
        server.close()

    asyncio.run(story())
