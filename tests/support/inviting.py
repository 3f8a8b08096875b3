"""A server that has invited one guest: a whole tunnel, whose registry is the test."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from nvpn.channel.messages import Enrol, Enrolled, Hello
from nvpn.config.model import HostPort
from nvpn.daemon.channel_port import ChannelPort
from nvpn.daemon.leasing.enrolment import ATTEMPTS
from nvpn.model.changes import AddPeer, SetPrivateKey
from nvpn.model.clock import SECOND
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.registry.invitation_text import InvitationText
from nvpn.resilience.policy import RetryPolicy
from tests.support.memory_tunnel import MemoryTunnel

Admit = Callable[[PublicKey, Enrol], Awaitable[Enrolled]]


def new_key() -> PrivateKey:
    return PrivateKey(os.urandom(32))


def invitation_to(server: PublicKey, secret: PrivateKey, *places: HostPort) -> InvitationText:
    hour = 3600 * SECOND
    return InvitationText(server, secret, time.time_ns() + hour, places, "laptop")


def attempts_of(seconds: float) -> RetryPolicy:
    """A guest's that takes about so long for its first attempt, and never gives up."""
    return replace(ATTEMPTS, initial=int(seconds * SECOND))


@asynccontextmanager
async def inviting_server(
    guest: PublicKey, admit: Admit
) -> AsyncIterator[tuple[PublicKey, HostPort]]:
    """Its public key, and where it is."""
    tunnel = MemoryTunnel("server")
    key = new_key()
    public = key.public()
    port = ChannelPort(
        tunnel.backend,
        loop=asyncio.get_running_loop(),
        introduce=lambda: Hello("server", "1", ()),
    )
    try:
        await tunnel.backend.apply((SetPrivateKey(key), AddPeer(guest)))
        await tunnel.backend.bring_up()
        port.serve(Enrol, admit)
        port.open()
        yield public, HostPort("127.0.0.1", tunnel.backend.listen_port)
    finally:
        port.close()
        await tunnel.close()


@contextmanager
def inviting_server_beside_us(
    guest: PublicKey, admit: Admit
) -> Iterator[tuple[PublicKey, HostPort]]:
    """The same on a thread of its own, for guests in other processes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = inviting_server(guest, admit)

    async def begin() -> tuple[PublicKey, HostPort]:
        return await server.__aenter__()

    async def end() -> None:
        await server.__aexit__(None, None, None)

    try:
        yield asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
        asyncio.run_coroutine_threadsafe(end(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
