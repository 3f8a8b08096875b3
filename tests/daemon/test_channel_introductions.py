"""Peers get to know each other, and stock ones hear next to nothing of it; in virtual time."""

from __future__ import annotations

import asyncio

from nvpn.channel.acquaintance import FIRST_LOOK
from nvpn.channel.messages import (
    Goodbye,
    Hello,
)
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.notices import NoticeKind
from tests.support.channel_nodes import A, B, C, Node, couple
from tests.support.virtual_loop import play_virtually, virtual_loop


async def live(node: Node, peer: PublicKey, *, sessions: int, data: bool = True) -> None:
    """Sessions of two minutes, in which data comes or not."""
    for _ in range(sessions):
        node.plug.tell(NoticeKind.HANDSHAKE_COMPLETED, peer)
        if data:
            node.plug.data_at[peer] = virtual_loop().clocks().boot + SECOND
        await asyncio.sleep(120)


def test_a_stock_peer_sees_one_datagram_and_then_none_for_an_hour() -> None:
    async def scenario() -> None:
        alice, stock = Node(A), Node(B, is_open=False)
        alice.plug.join(stock.plug)
        await live(alice, B, sessions=10, data=False)
        assert alice.plug.sent == []
        await live(alice, B, sessions=1)
        assert len(alice.plug.sent) == 1
        await live(alice, B, sessions=29)
        assert len(alice.plug.sent) == 1
        await live(alice, B, sessions=2)
        assert len(alice.plug.sent) == 2
        await live(alice, B, sessions=58)
        assert len(alice.plug.sent) == 2
        assert alice.port.acquaintance(B) is None
        assert alice.port.statistics()["introductions_asked"] == 2

    play_virtually(scenario)


def test_peers_that_speak_get_to_know_each_other_by_one_question() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        await live(alice, B, sessions=1)
        assert alice.port.acquaintance(B) == Hello(f"node {B.short}", "0.1.0", ("lease",))
        assert bob.port.acquaintance(A) == Hello(f"node {A.short}", "0.1.0", ("lease",))
        await live(bob, A, sessions=5)
        assert (len(alice.plug.sent), len(bob.plug.sent)) == (1, 1)

        alice.plug.tell(NoticeKind.SESSION_EXPIRED, B)
        assert alice.port.acquaintance(B) is None
        await live(alice, B, sessions=1)
        assert alice.port.acquaintance(B) is not None

    play_virtually(scenario)


def test_a_peer_that_was_removed_is_not_asked() -> None:
    async def scenario() -> None:
        alice, _ = couple()
        alice.plug.tell(NoticeKind.HANDSHAKE_COMPLETED, B)
        alice.plug.data_at[B] = virtual_loop().clocks().boot
        del alice.plug.others[B]
        await asyncio.sleep(3 * FIRST_LOOK / SECOND)
        assert alice.plug.sent == []
        alice.plug.tell(NoticeKind.SESSION_ENDED, B)
        assert alice.port.acquaintance(B) is None

    play_virtually(scenario)


def test_a_peer_that_says_goodbye_is_not_asked() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        alice.plug.tell(NoticeKind.HANDSHAKE_COMPLETED, B)
        bob.port.tell(A, Goodbye("stopping"))
        alice.plug.data_at[B] = virtual_loop().clocks().boot + SECOND
        await asyncio.sleep(120)
        assert alice.plug.sent == []
        await live(alice, B, sessions=1)
        assert len(alice.plug.sent) == 1

    play_virtually(scenario)


def test_who_is_none_of_ours_is_not_asked() -> None:
    async def scenario() -> None:
        alice, _ = couple()
        alice.port.open(frozenset({C}))
        await live(alice, B, sessions=2)
        assert alice.plug.sent == []

    play_virtually(scenario)
