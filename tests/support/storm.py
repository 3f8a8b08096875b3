"""Many clients of one server in one process: each with a key, sockets and a tunnel of its own.

    storm.py lease ADDRESS:PORT SERVER_PUBLIC SOURCES < KEYS
    storm.py ping ADDRESS:PORT SERVER_PUBLIC SOURCES PINGS INNER < KEYS
    storm.py stall ADDRESS:PORT SERVER_PUBLIC SOURCES INNER < KEYS
    storm.py misbehave ADDRESS:PORT SERVER_PUBLIC SOURCES INNER < KEYS

KEYS are private keys in base64, a line each: ``NUMBER KEY``. Sources are 10.200.0.1 and those
after it; they must be local here (``ip route add local 10.200.0.0/16 dev lo``); 0: the kernel
chooses.

``lease``: all of them ask for a lease at once. Prints JSON: which client (its number) got which
addresses, why others got none, and the seconds until the last.

``ping``: having leases, all ping INNER PINGS times, and ask for their leases once more. Prints
JSON: how many pings were answered, how long the middle one and the slowest took in
milliseconds, and what the second asking brought.

``stall``: having leases, each stops reading, or dies in the middle of a message. ``misbehave``:
each does worse, in one of the ways of :data:`WAYS`. Both last until killed, and print ``begun``.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvloop

from nvpn.channel.frames import ID_BYTES, FrameKind, cut
from nvpn.channel.messages import Enrol, LeaseRequest, Message, Release, encode
from nvpn.errors import NvpnError
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.prefixes import Interface, parse_address
from tests.support.client_host import ClientHost, echo_request

ROUND_PAUSE = 0.02


async def lease(clients: list[ClientHost]) -> dict[str, Any]:
    begun = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(client.lease() for client in clients), return_exceptions=True)
    seconds = asyncio.get_running_loop().time() - begun
    leased, failed = {}, {}
    for client, answer in zip(clients, answers, strict=True):
        if isinstance(answer, NvpnError):
            failed[client.number] = str(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            leased[client.number] = [str(address) for address in answer.addresses]
    return {"leased": leased, "failed": failed, "seconds": seconds}


# --- how one stalls -------------------------------------------------------------------------


async def stops_reading(client: ClientHost, inner: bytes, pause: float = 0.05) -> None:
    """Takes nothing off its device, and asks now and then, as TCP would."""
    while True:
        await client.tunnel.send(echo_request(client.address, inner, bytes(1000)))
        await asyncio.sleep(pause)


async def asks_without_reading(client: ClientHost, inner: bytes) -> None:
    """The same, a thousand times a second."""
    await stops_reading(client, inner, 0.001)


async def floods(client: ClientHost, inner: bytes) -> None:
    """A thousand requests a second, none of which waits for its answer."""
    while True:
        for _ in range(10):
            say(client, LeaseRequest("flood", "1"))
        await asyncio.sleep(0.01)


async def dies_mid_write(client: ClientHost, inner: bytes) -> None:
    """First parts of messages whose last part never comes, then silence."""
    for _ in range(50):
        frames = cut(FrameKind.REQUEST, os.urandom(ID_BYTES), bytes(4000))
        client.tunnel.backend.send_channel(client.server, frames[0])
    await client.tunnel.backend.bring_down()
    await asyncio.sleep(3600)


async def says_rubbish(client: ClientHost, inner: bytes) -> None:
    """What is no message, in every size."""
    while True:
        client.tunnel.backend.send_channel(client.server, os.urandom(1 + os.urandom(1)[0] * 4))
        await asyncio.sleep(0.001)


async def claims_others(client: ClientHost, inner: bytes) -> None:
    """Packets from everybody else's addresses."""
    while True:
        stranger = client.address[:3] + os.urandom(1)
        await client.tunnel.send(echo_request(stranger, inner, bytes(64)))
        await asyncio.sleep(0.001)


async def asks_for_others(client: ClientHost, inner: bytes) -> None:
    """Leases of everybody's addresses, the server's among them."""
    while True:
        victim = Interface(client.address[:3] + os.urandom(1), 32)
        say(client, LeaseRequest("thief", "1", (victim, Interface(inner, 32))))
        await asyncio.sleep(0.005)


async def enrols_strangers(client: ClientHost, inner: bytes) -> None:
    """As if its own key were an invitation's."""
    while True:
        say(client, Enrol(PrivateKey(os.urandom(32)).public(), "stranger", "1"))
        await asyncio.sleep(0.005)


async def replays(client: ClientHost, inner: bytes) -> None:
    """The same requests over and over, releases of what it needs among them."""
    number = os.urandom(ID_BYTES)
    while True:
        for message in (LeaseRequest("again", "1"), Release(), LeaseRequest("again", "1")):
            for frame in cut(FrameKind.REQUEST, number, encode(message)):
                client.tunnel.backend.send_channel(client.server, frame)
        await asyncio.sleep(0.005)


STALLS: tuple[Callable[[ClientHost, bytes], Awaitable[None]], ...] = (
    stops_reading,
    dies_mid_write,
)
WAYS = (
    asks_without_reading,
    floods,
    dies_mid_write,
    says_rubbish,
    claims_others,
    asks_for_others,
    enrols_strangers,
    replays,
)


def say(client: ClientHost, message: Message) -> None:
    """A request under a number that nobody waits for."""
    for frame in cut(FrameKind.REQUEST, os.urandom(ID_BYTES), encode(message)):
        client.tunnel.backend.send_channel(client.server, frame)


async def ping(clients: list[ClientHost], pings: int, inner: bytes) -> dict[str, Any]:
    outcome = await lease(clients)
    assert not outcome["failed"], outcome["failed"]
    return {**await ping_all(clients, pings, inner), "renewed": await lease(clients)}


async def misbehave(
    clients: list[ClientHost],
    inner: bytes,
    ways: tuple[Callable[[ClientHost, bytes], Awaitable[None]], ...],
) -> None:
    outcome = await lease(clients)
    assert not outcome["failed"], outcome["failed"]
    print("begun", flush=True)
    await asyncio.gather(
        *(ways[number % len(ways)](client, inner) for number, client in enumerate(clients))
    )


async def ping_all(clients: list[ClientHost], pings: int, inner: bytes) -> dict[str, Any]:
    async def one(client: ClientHost) -> list[float | None]:
        times = []
        for _ in range(pings):
            times.append(await client.ping(inner))
            await asyncio.sleep(ROUND_PAUSE)
        return times

    rounds = await asyncio.gather(*(one(client) for client in clients))
    times = [time for each in rounds for time in each if time is not None]
    return {
        "sent": pings * len(clients),
        "answered": len(times),
        "median_ms": statistics.median(times) * 1000,
        "slowest_ms": max(times) * 1000,
    }


async def main() -> None:
    mode, where, public, sources = sys.argv[1:5]
    server = PublicKey.from_base64(public)
    endpoint = Endpoint.parse(where)
    clients = []
    for line in sys.stdin:
        number, key = line.split()
        clients.append(ClientHost(PrivateKey.from_base64(key), server, number=int(number)))
    for client in clients:
        source = b""
        if int(sources):
            last = client.number % int(sources) + 1
            source = bytes((10, 200, last >> 8, last & 0xFF))
        await client.up(endpoint.address, endpoint.port, source)
    if mode in ("stall", "misbehave"):
        ways = STALLS if mode == "stall" else WAYS
        await misbehave(clients, parse_address(sys.argv[5]), ways)
    elif mode == "ping":
        pings, inner = sys.argv[5:7]
        print(json.dumps(await ping(clients, int(pings), parse_address(inner))))
    else:
        print(json.dumps(await lease(clients)))
    sys.stdout.flush()
    os._exit(0)  # no farewell: the server has to do without


if __name__ == "__main__":
    uvloop.run(main())
