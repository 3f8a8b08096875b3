"""What a server's store is made of follows the configuration."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from nvpn.config.model import StoreConfig, StoreKind
from nvpn.daemon.server.stores import make_store
from nvpn.errors import Unavailable
from nvpn.model.clock import MILLISECOND
from nvpn.resilience.policy import BreakerPolicy, Policies, RetryPolicy
from nvpn.resilience.registry import Breakers


def hasty(attempts: int) -> Policies:
    return Policies(
        RetryPolicy(max_attempts=attempts, initial=MILLISECOND, maximum=MILLISECOND),
        BreakerPolicy(failure_threshold=1000),
    )


def test_an_etcd_is_asked_as_often_as_a_reload_says_from_the_next_question_on() -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            asked += 1
            writer.write(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        breakers = Breakers(hasty(1))
        config = StoreConfig(StoreKind.ETCD, (f"http://{host}:{port}",), "/nvpn/wg0")
        store = make_store("wg0", config, breakers)
        with pytest.raises(Unavailable):
            await store.load()
        assert asked == 1

        breakers.change(hasty(3))
        with pytest.raises(Unavailable):
            await store.load()
        assert asked == 1 + 3

        await store.close()
        server.close()
        await server.wait_closed()

    asyncio.run(story())
