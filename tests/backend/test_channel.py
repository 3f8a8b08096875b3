"""The control channel through our own backend, over both datapaths and real UDP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from nvpn.channel.packets import (
    CHANNEL_PORT,
    channel_address,
    channel_prefix,
    pack_packet,
    parse_packet,
)
from nvpn.datapath.commands import Command, InsertPrefix
from nvpn.errors import DropReason
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    RemoveAllowedIp,
    ReplaceAllowedIps,
    ReplacePeers,
    SetEndpoint,
    SetPrivateKey,
)
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix
from tests.support.datapaths import HAS_NATIVE
from tests.support.memory_tunnel import MemoryTunnel, ipv4_packet, make_native, make_python
from tests.support.scenarios import Recorder, apply, play, prefix

Make = Callable[[asyncio.AbstractEventLoop, Any], Any]

MAKERS = {"python": make_python} | ({"native": make_native} if HAS_NATIVE else {})


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


class Node:
    """A tunnel, and what comes to its end of the channel."""

    def __init__(self, name: str, seed: int, make: Make) -> None:
        self.tunnel = MemoryTunnel(name, make=make)
        self.backend = self.tunnel.backend
        self.key = PrivateKey(bytes([seed]) * 32)
        self.public = self.key.public()
        self.heard: asyncio.Queue[tuple[PublicKey, bytes]] = asyncio.Queue()

    async def start(self, *, channel: bool = True) -> None:
        await apply(self.tunnel, SetPrivateKey(self.key))
        await self.backend.bring_up()
        if channel:
            self.open()

    def open(self) -> None:
        self.backend.open_channel(lambda peer, payload: self.heard.put_nowait((peer, payload)))

    async def meet(self, other: Node, *networks: str) -> None:
        where = Endpoint.parse(f"127.0.0.1:{other.backend.listen_port}")
        await apply(
            self.tunnel,
            AddPeer(other.public),
            SetEndpoint(other.public, where),
            *(AddAllowedIp(other.public, prefix(network)) for network in networks),
        )

    async def hear(self) -> tuple[PublicKey, bytes]:
        return await asyncio.wait_for(self.heard.get(), 60)


class Batches(Recorder):
    """Keeps the batches apart."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Command]] = []

    def apply(
        self, commands: Iterable[Command], acknowledged: Callable[[], None] | None = None
    ) -> None:
        self.batches.append(list(commands))
        super().apply(self.batches[-1], acknowledged)


async def couple(make: Make, *, channels: str = "ab") -> tuple[Node, Node]:
    alice, bob = Node("alice", 0xA, make), Node("bob", 0xB, make)
    await alice.start(channel="a" in channels)
    await bob.start(channel="b" in channels)
    await alice.meet(bob, "10.0.0.2/32")
    await bob.meet(alice, "10.0.0.1/32")
    return alice, bob


async def close(*nodes: Node) -> None:
    for node in nodes:
        await node.tunnel.close()


def test_a_datagram_begins_a_session_and_says_whose_it_is(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make)
        alice.backend.send_channel(bob.public, b"x" * 1192)
        assert await bob.hear() == (alice.public, b"x" * 1192)
        bob.backend.send_channel(alice.public, b"there")
        assert await alice.hear() == (bob.public, b"there")

        # The tunnel itself goes on, and neither host saw anything of it.
        await alice.tunnel.send(ipv4_packet("10.0.0.1", "10.0.0.2", b"data"))
        assert await bob.tunnel.receive() == ipv4_packet("10.0.0.1", "10.0.0.2", b"data")
        await close(alice, bob)

    play(scenario)


def test_nobody_sees_the_prefixes_of_the_channel(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make)
        before = alice.backend.snapshot().peers[0].allowed_ips
        assert before == (prefix("10.0.0.2/32"),)
        assert alice.backend.peer(bob.public).allowed_ips == before  # type: ignore[union-attr]
        alice.backend.close_channel()
        assert alice.backend.snapshot().peers[0].allowed_ips == before
        await close(alice, bob)

    play(scenario)


def test_what_changes_about_allowed_ips_does_not_touch_it(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make)
        network = AddAllowedIp(bob.public, prefix("10.0.0.2/32"))
        for plan in (
            (ReplaceAllowedIps(bob.public),),
            (ReplacePeers(), AddPeer(bob.public), network),
            (AddAllowedIp(bob.public, channel_prefix(bob.public)),),
            (RemoveAllowedIp(bob.public, channel_prefix(bob.public)),),
        ):
            await apply(alice.tunnel, *plan)
            alice.backend.send_channel(bob.public, repr(plan).encode()[:1000])
            assert await bob.hear() == (alice.public, repr(plan).encode()[:1000])
        await close(alice, bob)

    play(scenario)


def test_a_peer_may_have_all_link_local_addresses_besides(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make)
        carol = Node("carol", 0xC, make)
        await carol.start()
        # Carol is allowed all of fe80::, and even what is Bob's by his key.
        await alice.meet(carol, "fe80::/10", str(channel_prefix(bob.public)))
        await carol.meet(alice, "fe80::/10")
        alice.backend.send_channel(bob.public, b"to bob")
        assert await bob.hear() == (alice.public, b"to bob")
        alice.backend.send_channel(carol.public, b"to carol")
        assert await carol.hear() == (alice.public, b"to carol")

        # Other addresses there are carried as ever.
        plain = pack_packet(
            b"\xfe\x80" + bytes(13) + b"\1", b"\xfe\x80" + bytes(13) + b"\2", b"hi"
        )
        await alice.tunnel.send(plain)
        assert await carol.tunnel.receive() == plain

        # Without the channel Bob's address is Carol's, as was said.
        alice.backend.close_channel()
        to_bob = pack_packet(channel_address(alice.public), channel_address(bob.public), b"x")
        await alice.tunnel.send(to_bob)
        assert await carol.tunnel.receive() == to_bob

        # With it again it is not, and then it is nobody's.
        alice.open()
        await apply(alice.tunnel, RemoveAllowedIp(carol.public, channel_prefix(bob.public)))
        alice.backend.send_channel(bob.public, b"again")
        assert await bob.hear() == (alice.public, b"again")
        await close(alice, bob, carol)

    play(scenario)


def test_nobody_speaks_for_another(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make)
        await apply(bob.tunnel, AddAllowedIp(alice.public, prefix("fe80::/10")))
        ours, theirs = channel_address(alice.public), channel_address(bob.public)
        other = channel_address(PublicKey(bytes(32)))
        await apply(alice.tunnel, AddAllowedIp(bob.public, prefix("fe80::/10")))
        alice.backend.close_channel()
        alice.backend.send_channel(bob.public, b"closed")
        # From another's address: it is the session that counts, and the two must agree.
        await alice.tunnel.send(pack_packet(other, theirs, b"not me"))
        await alice.tunnel.send(pack_packet(ours, theirs, b"me"))
        assert await bob.hear() == (alice.public, b"")
        assert await bob.hear() == (alice.public, b"me")
        await close(alice, bob)

    play(scenario)


def test_who_has_no_address_reaches_nothing_but_the_channel(make: Make) -> None:
    async def scenario() -> None:
        server, guest = Node("server", 0xA, make), Node("guest", 0xB, make)
        await server.start()
        await guest.start(channel=False)  # it says what it likes
        await server.meet(guest)
        await guest.meet(server, "::/0")
        ours, theirs = channel_address(guest.public), channel_address(server.public)
        inside = Prefix.parse("fd42::1/128").packed
        for destination in (inside, bytes.fromhex("ff02" + 13 * "00" + "01")):
            await guest.tunnel.send(pack_packet(ours, destination, b"let me in"))
        await guest.tunnel.send(pack_packet(ours, theirs, b"invited"))
        assert await server.hear() == (guest.public, b"invited")
        assert server.backend.drops()[DropReason.SOURCE_NOT_ALLOWED] == 2
        with pytest.raises(asyncio.TimeoutError):
            await server.tunnel.receive(0.05)
        await close(server, guest)

    play(scenario)


def test_a_closed_channel_is_as_if_there_were_none(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make, channels="a")
        alice.backend.send_channel(bob.public, b"anybody?")
        await alice.tunnel.send(ipv4_packet("10.0.0.1", "10.0.0.2", b"after"))
        assert await bob.tunnel.receive() == ipv4_packet("10.0.0.1", "10.0.0.2", b"after")
        assert bob.backend.drops() == {DropReason.SOURCE_NOT_ALLOWED: 1}
        assert bob.heard.empty()

        alice.backend.close_channel()
        alice.backend.close_channel()
        alice.backend.send_channel(bob.public, b"anybody?")
        traffic = bob.backend.snapshot().peers[0].rx_bytes
        await alice.tunnel.send(ipv4_packet("10.0.0.1", "10.0.0.2", b"more"))
        await bob.tunnel.receive()
        assert bob.backend.snapshot().peers[0].rx_bytes - traffic == 32 + 32
        await close(alice, bob)

    play(scenario)


def test_opening_again_changes_who_listens_and_nothing_else(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make)
        alice.backend.send_channel(bob.public, b"one")
        assert await bob.hear() == (alice.public, b"one")
        other: asyncio.Queue[bytes] = asyncio.Queue()
        bob.backend.open_channel(lambda peer, payload: other.put_nowait(payload))
        alice.backend.send_channel(bob.public, b"two")
        assert await asyncio.wait_for(other.get(), 60) == b"two"
        assert bob.heard.empty()
        await close(alice, bob)

    play(scenario)


def test_nothing_is_sent_to_who_is_unknown_or_nowhere(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make)
        nowhere = PublicKey(bytes([9]) * 32)
        await apply(alice.tunnel, AddPeer(nowhere))
        alice.backend.send_channel(nowhere, b"x")
        alice.backend.send_channel(PublicKey(bytes([8]) * 32), b"x")
        await alice.backend.bring_down()
        alice.backend.send_channel(bob.public, b"x")
        assert alice.backend.drops() == {}
        await alice.backend.close()
        alice.backend.send_channel(bob.public, b"x")
        alice.open()
        await close(alice, bob)

    play(scenario)


def test_the_channel_follows_our_own_key(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make)
        bob.key = PrivateKey(b"\x0d" * 32)
        await apply(bob.tunnel, SetPrivateKey(bob.key))
        bob.public = bob.key.public()
        await alice.meet(bob)
        alice.backend.send_channel(bob.public, b"new you")
        assert await bob.hear() == (alice.public, b"new you")
        await close(alice, bob)

    play(scenario)


def test_when_data_came_last_is_known(make: Make) -> None:
    async def scenario() -> None:
        alice, bob = await couple(make)
        assert bob.backend.data_received_at(alice.public) == 0
        await alice.tunnel.send(ipv4_packet("10.0.0.1", "10.0.0.2", b"data"))
        await bob.tunnel.receive()
        assert bob.backend.data_received_at(alice.public) > 0
        assert bob.backend.data_received_at(PublicKey(bytes(32))) == 0
        await close(alice, bob)

    play(scenario)


def test_ten_thousand_peers_are_told_in_turns_and_a_new_one_costs_one_command() -> None:
    async def scenario() -> None:
        recorder = Batches()
        tunnel = MemoryTunnel("many", wrap=recorder.around)
        keys = [PublicKey(n.to_bytes(32, "big")) for n in range(1, 10_001)]
        await apply(tunnel, SetPrivateKey(PrivateKey(b"\x0e" * 32)), *map(AddPeer, keys))
        seen = len(recorder.batches)
        tunnel.backend.open_channel(lambda peer, payload: None)
        longest, told = 0, 0
        while told < len(keys):
            await asyncio.sleep(0)
            batches = recorder.batches[seen:]
            seen += len(batches)
            longest = max([longest, *map(len, batches)])
            told += sum(isinstance(one, InsertPrefix) for batch in batches for one in batch)
        assert told == len(keys)
        assert longest <= 256

        one_more = PublicKey((2**40).to_bytes(32, "big"))
        await apply(tunnel, AddPeer(one_more))
        ours = [one for batch in recorder.batches[seen:] for one in batch]
        assert [one.prefix for one in ours if isinstance(one, InsertPrefix)] == [
            channel_prefix(one_more)
        ]
        await tunnel.close()

    play(scenario)


def test_the_packet_is_one_for_any_host() -> None:
    # What a peer with the kernel's WireGuard reads from a socket, and sends through one.
    source, destination = (channel_address(PublicKey(bytes([n]) * 32)) for n in (1, 2))
    packet = pack_packet(source, destination, b"payload")
    assert int.from_bytes(packet[40:42], "big") == CHANNEL_PORT
    assert socket.inet_ntop(socket.AF_INET6, packet[8:24]).startswith("fe80::")
    assert parse_packet(packet, source=source, destination=destination) == b"payload"
    assert Prefix.of(packet[24:40], 10) == prefix("fe80::/10")


def test_a_backend_that_ends_tells_no_more_peers() -> None:
    async def scenario() -> None:
        recorder = Batches()
        tunnel = MemoryTunnel("many", wrap=recorder.around)
        keys = [PublicKey(n.to_bytes(32, "big")) for n in range(1, 1001)]
        await apply(tunnel, SetPrivateKey(PrivateKey(b"\x0e" * 32)), *map(AddPeer, keys))
        tunnel.backend.open_channel(lambda peer, payload: None)
        await tunnel.backend.close()
        seen = len(recorder.batches)
        await asyncio.sleep(0.01)
        assert recorder.batches[seen:] == []
        await tunnel.close()

    play(scenario)
