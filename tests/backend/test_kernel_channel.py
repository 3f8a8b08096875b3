"""The control channel over the kernel's WireGuard, where allowed IPs are all there is."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque

import pytest

from nvpn.backend.kernel import KernelBackend
from nvpn.backend.kernel_channel import DATA_BYTES, RENEWAL, ChannelPlace
from nvpn.channel.packets import channel_address, channel_prefix
from nvpn.errors import PlatformError
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    ReplaceAllowedIps,
    SetEndpoint,
    SetPrivateKey,
)
from nvpn.model.clock import SECOND, Now
from nvpn.model.keys import PrivateKey, PublicKey
from tests.support.fake_kernel import FakeKernel
from tests.support.scenarios import ELSEWHERE, A, B, C, play, prefix

KEY = PrivateKey(b"\x05" * 32)


class Socket:
    """One end of a socket pair whose other end is the kernel's tunnel."""

    def __init__(self) -> None:
        self._ring, self._bell = socket.socketpair()
        self.sent: list[tuple[bytes, bytes]] = []
        self.waiting: deque[tuple[bytes, bytes]] = deque()
        self.closed = False

    def fileno(self) -> int:
        return self._ring.fileno()

    def send(self, address: bytes, payload: bytes) -> None:
        self.sent.append((address, payload))

    def bring(self, address: bytes, payload: bytes) -> None:
        self.waiting.append((address, payload))
        self._bell.send(b"!")

    def receive(self) -> tuple[bytes, bytes] | None:
        if not self.waiting:
            self._ring.recv(4096)
            return None
        return self.waiting.popleft()

    def close(self) -> None:
        self.closed = True
        self._ring.close()
        self._bell.close()


class World:
    """A kernel's interface, its addresses, and what its peers say."""

    def __init__(self, *, has_ipv6: bool = True) -> None:
        self.kernel = FakeKernel()
        self.addresses: set[bytes] = set()
        self.sockets: list[Socket] = []
        self.heard: asyncio.Queue[tuple[PublicKey, bytes]] = asyncio.Queue()
        self.now = 1000 * SECOND
        self._has_ipv6 = has_ipv6
        self.backend = KernelBackend(
            name="wg0",
            index=7,
            wireguard=self.kernel,
            raise_link=self.kernel.raise_link,
            let_go=lambda is_ours: None,
            mtu=1420,
            loop=asyncio.get_running_loop(),
            clocks=lambda: Now(self.now, self.now),
            channel_place=ChannelPlace(self._enter, self.addresses.discard),
        )

    def _enter(self, address: bytes) -> Socket:
        if not self._has_ipv6:
            raise PlatformError("give address fe80::1/64 to wg0", errno=13)
        self.addresses.add(address)
        self.sockets.append(Socket())
        return self.sockets[-1]

    async def start(self, *, only: frozenset[PublicKey] | None = None) -> None:
        await self.backend.apply(
            (
                SetPrivateKey(KEY),
                AddPeer(A),
                AddAllowedIp(A, prefix("10.0.0.1/32")),
                SetEndpoint(A, ELSEWHERE),
                AddPeer(B),
            )
        )
        await self.backend.bring_up()
        self.open(only=only)
        await self.settle()

    def open(self, *, only: frozenset[PublicKey] | None = None) -> None:
        self.backend.open_channel(
            lambda peer, payload: self.heard.put_nowait((peer, payload)), only=only
        )

    async def settle(self) -> None:
        """What is to be done for the channel is done when a plan is."""
        await asyncio.sleep(0)
        await self.backend.apply(())

    def routed(self, peer: PublicKey) -> list[str]:
        return [str(one) for one in self.kernel.peers[peer].allowed_ips]


def test_peers_are_reached_and_heard_by_their_addresses() -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        assert world.addresses == {channel_address(KEY.public())}
        assert world.routed(A) == ["10.0.0.1/32", str(channel_prefix(A))]
        world.backend.send_channel(A, b"question")
        world.backend.send_channel(C, b"to a stranger")
        (ours,) = world.sockets
        assert ours.sent == [(channel_address(A), b"question")]

        ours.bring(channel_address(A), b"answer")
        ours.bring(channel_address(C), b"from a stranger")
        ours.bring(channel_address(B), b"notice")
        assert await world.heard.get() == (A, b"answer")
        assert await world.heard.get() == (B, b"notice")
        await world.backend.close()
        assert ours.closed
        assert world.addresses == set()

    play(scenario)


def test_nobody_sees_the_channels_addresses_and_no_plan_takes_them() -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        for plan in (
            (ReplaceAllowedIps(A), AddAllowedIp(A, prefix("10.0.0.2/32"))),
            (AddPeer(C), AddAllowedIp(C, prefix("10.0.0.3/32"))),
        ):
            await world.backend.apply(plan)
        assert world.routed(A) == ["10.0.0.2/32", str(channel_prefix(A))]
        assert world.routed(B) == [str(channel_prefix(B))]
        assert world.routed(C) == ["10.0.0.3/32", str(channel_prefix(C))]
        shown = {peer.public_key: peer for peer in world.backend.snapshot().peers}
        assert [str(one) for one in shown[A].allowed_ips] == ["10.0.0.2/32"]
        assert shown[B].allowed_ips == ()
        assert world.backend.peer(C).allowed_ips == (prefix("10.0.0.3/32"),)  # type: ignore[union-attr]

        world.sockets[-1].bring(channel_address(C), b"new here")
        assert await world.heard.get() == (C, b"new here")
        await world.backend.close()

    play(scenario)


def test_only_peers_that_matter_are_told_the_kernel() -> None:
    async def scenario() -> None:
        world = World()
        await world.start(only=frozenset({A}))
        assert world.routed(A) == ["10.0.0.1/32", str(channel_prefix(A))]
        assert world.routed(B) == []
        world.open(only=frozenset({B}))
        await world.settle()
        assert world.routed(A) == ["10.0.0.1/32"]
        assert world.routed(B) == [str(channel_prefix(B))]
        await world.backend.close()

    play(scenario)


def test_a_closed_channel_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        world.backend.close_channel()
        world.backend.close_channel()
        await world.settle()
        assert world.routed(A) == ["10.0.0.1/32"]
        assert world.routed(B) == []
        assert world.addresses == set()
        assert world.sockets[-1].closed
        world.backend.send_channel(A, b"x")
        assert world.sockets[-1].sent == []
        await world.backend.close()

    play(scenario)


def test_another_key_is_another_address() -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        other = PrivateKey(b"\x06" * 32)
        await world.backend.apply((SetPrivateKey(other),))
        assert world.addresses == {channel_address(other.public())}
        assert [one.closed for one in world.sockets] == [True, False]
        await world.backend.apply((SetPrivateKey(None),))
        assert world.addresses == set()
        await world.backend.close()

    play(scenario)


def test_what_others_took_away_is_put_back_after_a_while() -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        world.kernel.peers[A].allowed_ips.clear()
        await world.backend.apply(())
        assert world.routed(A) == []
        world.now += RENEWAL
        await world.backend.apply(())
        assert world.routed(A) == [str(channel_prefix(A))]
        await world.backend.close()

    play(scenario)


def test_a_kernel_that_does_not_take_them_back_spoils_no_plan() -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        world.kernel.peers[A].allowed_ips.clear()
        world.kernel.refuses = {A}
        world.now += RENEWAL
        await world.backend.apply((AddAllowedIp(B, prefix("10.0.0.2/32")),))
        assert world.routed(B)[-1] == "10.0.0.2/32"
        world.kernel.refuses = set()
        world.now += RENEWAL
        await world.backend.apply(())
        assert world.routed(A) == [str(channel_prefix(A))]
        await world.backend.close()

    play(scenario)


def test_data_is_what_is_more_than_handshakes_and_keepalives() -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        world.kernel.peers[A].rx_bytes += 148 + 92 + 32
        await world.backend.apply(())
        assert world.backend.data_received_at(A) == 0
        world.kernel.peers[A].rx_bytes += DATA_BYTES
        world.now += SECOND
        await world.backend.apply(())
        seen_at = world.now
        assert world.backend.data_received_at(A) == seen_at
        world.now += SECOND
        await world.backend.apply(())
        assert world.backend.data_received_at(A) == seen_at
        assert world.backend.data_received_at(B) == world.backend.data_received_at(C) == 0
        await world.backend.close()

    play(scenario)


def test_without_ipv6_the_channel_stays_closed_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        world = World(has_ipv6=False)
        with caplog.at_level(logging.WARNING):
            await world.start()
            await world.backend.apply((SetPrivateKey(PrivateKey(b"\x06" * 32)),))
        assert [record.getMessage() for record in caplog.records] == [
            "the control channel of wg0 stays closed: cannot give address fe80::1/64 to wg0:"
            " Permission denied"
        ]
        world.backend.send_channel(A, b"x")
        await world.backend.close()

    play(scenario)


def test_a_flood_is_read_in_turns() -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        for _ in range(100):
            world.sockets[-1].bring(channel_address(A), b"x")
        turns = 0
        while world.heard.qsize() < 100:
            await asyncio.sleep(0)
            turns += 1
            assert turns < 1000
        assert turns > 1
        await world.backend.close()

    play(scenario)
