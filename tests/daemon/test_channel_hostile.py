"""Many at once, floods, and rubbish: a port serves on, and nobody waits for others."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.channel.frames import FrameKind, cut
from nvpn.channel.messages import (
    Enrol,
    Goodbye,
    Hello,
    LeaseRequest,
    Settings,
    encode,
)
from nvpn.daemon.channel_handlers import MAX_SERVED_AT_ONCE
from nvpn.daemon.channel_port import ChannelPort
from nvpn.model.keys import PublicKey
from tests.support.channel_nodes import LEASE, SETTINGS, A, B, C, Node, couple, give_settings
from tests.support.virtual_loop import play_virtually, virtual_loop


def test_as_many_are_served_at_once_as_there_is_room_for_and_all_in_the_end() -> None:
    async def scenario() -> None:
        server = Node(A)
        most = 0

        async def lease(peer: PublicKey, request: LeaseRequest) -> Settings:
            nonlocal most
            most = max(most, server.port.statistics()["requests_served"])
            await asyncio.sleep(0.2)
            return SETTINGS

        server.port.serve(LeaseRequest, lease)
        clients = [Node(PublicKey(n.to_bytes(32, "big"))) for n in range(1, 601)]
        server.plug.join(*(client.plug for client in clients))
        answers = await asyncio.gather(*(client.port.ask(A, LEASE) for client in clients))
        assert answers == [SETTINGS] * 600
        assert most == MAX_SERVED_AT_ONCE
        assert server.port.statistics()["busy"] >= 600 - MAX_SERVED_AT_ONCE

    play_virtually(scenario)


def test_a_peer_that_asks_a_thousand_times_a_second_delays_nobody() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        hostile = Node(C)
        bob.plug.join(hostile.plug)
        served = []

        async def lease(peer: PublicKey, request: LeaseRequest) -> Settings:
            served.append(peer)
            return SETTINGS

        bob.port.serve(LeaseRequest, lease)

        async def flood() -> None:
            for number in range(3000):
                (datagram,) = cut(FrameKind.REQUEST, number.to_bytes(8, "big"), encode(LEASE))
                bob.plug.hear(C, datagram)
                bob.plug.hear(C, b"\1\1\0\2" + datagram[4:])
                bob.plug.hear(C, datagram[:-1])
                await asyncio.sleep(0.001)

        flooding = asyncio.ensure_future(flood())
        for _ in range(20):
            began = virtual_loop().time()
            assert await alice.port.ask(B, LEASE) == SETTINGS
            assert virtual_loop().time() - began < 0.03
            await asyncio.sleep(0.1)
        await flooding
        assert served.count(C) < 20 + 30 + 1
        assert len([1 for peer, _ in bob.plug.sent if peer == C]) < 20 + 30 + 1

    play_virtually(scenario)


_WHOLE = [
    datagram
    for kind, message in (
        (FrameKind.REQUEST, Hello("x", "1", ("a",))),
        (FrameKind.REQUEST, LEASE),
        (FrameKind.REQUEST, Enrol(C, "x", "1")),
        (FrameKind.RESPONSE, SETTINGS),
        (FrameKind.NOTICE, Goodbye("stopping")),
    )
    for datagram in cut(kind, bytes(8), encode(message))
]


@given(
    st.lists(
        st.binary(max_size=60)
        | st.builds(
            lambda datagram, at, put: datagram[:at] + put + datagram[at + len(put) :],
            st.sampled_from(_WHOLE),
            st.integers(0, 120),
            st.binary(max_size=8),
        ),
        max_size=10,
    )
)
@settings(max_examples=60)
def test_whatever_a_peer_sends_it_is_no_bug_and_it_is_served_on(datagrams: list[bytes]) -> None:
    async def scenario() -> None:
        alice, bob = couple()
        bob.port.serve(LeaseRequest, give_settings)
        for datagram in datagrams:
            bob.plug.hear(A, datagram)
        await asyncio.sleep(1)
        assert bob.port.statistics()["requests_served"] == 0
        assert await alice.port.ask(B, LEASE) == SETTINGS

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChannelPort, "_log_bug", _fail)
        play_virtually(scenario)


def _fail(port: ChannelPort, peer: PublicKey | None, error: Exception) -> None:
    raise AssertionError("a peer caused a bug") from error
