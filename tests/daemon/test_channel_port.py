"""Ask, tell, serve: between ports over a cable that loses what a test says, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.channel.acquaintance import FIRST_LOOK
from nvpn.channel.frames import FrameKind, cut
from nvpn.channel.messages import (
    Done,
    Enrol,
    Enrolled,
    Failure,
    FailureCode,
    Goodbye,
    Hello,
    LeaseRequest,
    Message,
    Release,
    Settings,
    encode,
)
from nvpn.daemon.channel_handlers import MAX_SERVED_AT_ONCE
from nvpn.daemon.channel_port import ChannelPort, PeerRefused
from nvpn.errors import Refused, Unavailable
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import Interface
from tests.support.virtual_loop import play_virtually, virtual_loop

A, B, C = (PublicKey(bytes([n]) * 32) for n in (0xAA, 0xBB, 0xCC))
SETTINGS = Settings((Interface.parse("10.8.0.7/24"),), name="laptop")
LEASE = LeaseRequest("laptop", "0.1.0")

Lose = Callable[[bytes], bool]


class Plug:
    """A backend as a port knows it: one end of cables to others."""

    def __init__(self, key: PublicKey) -> None:
        self.key = key
        self.name = "wg0"
        self.others: dict[PublicKey, Plug] = {}
        self.sent: list[tuple[PublicKey, bytes]] = []
        self.lose: Lose = lambda datagram: False
        self.data_at: dict[PublicKey, int] = {}
        self.only: frozenset[PublicKey] | None = None
        self._listener: Callable[[Notice], None] = lambda notice: None
        self._received: Callable[[PublicKey, bytes], None] | None = None

    def join(self, *others: Plug) -> None:
        for other in others:
            self.others[other.key] = other
            other.others[self.key] = self

    def tell(self, kind: NoticeKind, peer: PublicKey) -> None:
        self._listener(Notice(kind, peer, 0))

    # What a port calls.

    def subscribe(self, listener: Callable[[Notice], None]) -> None:
        self._listener = listener

    def has_peer(self, peer: PublicKey) -> bool:
        return peer in self.others

    def open_channel(
        self,
        received: Callable[[PublicKey, bytes], None],
        *,
        only: frozenset[PublicKey] | None = None,
    ) -> None:
        self._received, self.only = received, only

    def close_channel(self) -> None:
        self._received = None

    def send_channel(self, peer: PublicKey, payload: bytes) -> None:
        assert len(payload) <= 1192
        self.sent.append((peer, payload))
        other = self.others[peer]
        if not self.lose(payload):
            virtual_loop().call_later(0.01, other.hear, self.key, payload)

    def hear(self, peer: PublicKey, payload: bytes) -> None:
        if self._received is not None:
            self._received(peer, payload)

    def data_received_at(self, peer: PublicKey) -> int:
        return self.data_at.get(peer, 0)


class Node:
    """A port and its plug."""

    def __init__(self, key: PublicKey, *, is_open: bool = True, **options: Any) -> None:
        self.plug = Plug(key)
        self.key = key
        self.name = f"node {key.short}"
        numbers = itertools.count(int.from_bytes(bytes(key)[:2], "big") << 32)
        loop = virtual_loop()
        self.port = ChannelPort(
            self.plug,  # type: ignore[arg-type]
            loop=loop,
            introduce=lambda: Hello(self.name, "0.1.0", ("lease",)),
            random=lambda size: (next(numbers) % (1 << 8 * size)).to_bytes(size, "big"),
            clocks=loop.clocks,
            **options,
        )
        if is_open:
            self.port.open()


def couple(**options: Any) -> tuple[Node, Node]:
    alice, bob = Node(A, **options), Node(B)
    alice.plug.join(bob.plug)
    return alice, bob


async def give_settings(peer: PublicKey, request: LeaseRequest) -> Settings:
    return SETTINGS


# --- asking and serving -----------------------------------------------------------------


def test_what_is_asked_is_answered_by_whoever_serves_it() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        asked = []

        async def lease(peer: PublicKey, request: LeaseRequest) -> Settings:
            asked.append((peer, request))
            await asyncio.sleep(0.1)
            return SETTINGS

        bob.port.serve(LeaseRequest, lease)
        assert await alice.port.ask(B, LEASE) == SETTINGS
        assert asked == [(A, LEASE)]
        assert alice.port.statistics()["requests_sent"] == 1
        assert bob.port.statistics()["requests_received"] == 1

    play_virtually(scenario)


def test_loss_of_questions_and_answers_is_made_up_for_and_nothing_done_twice() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        served = []

        async def enrol(peer: PublicKey, request: Enrol) -> Enrolled:
            served.append(request.public_key)
            return Enrolled(request.name)

        bob.port.serve(Enrol, enrol)
        for plug in (alice.plug, bob.plug):
            losses = iter((True, True, False))
            plug.lose = lambda datagram, losses=losses: next(losses, False)  # type: ignore[misc]
        began = virtual_loop().time()
        assert await alice.port.ask(B, Enrol(C, "laptop", "1")) == Enrolled("laptop")
        assert served == [C]
        assert 3 < virtual_loop().time() - began < 16

    play_virtually(scenario)


def test_a_long_answer_comes_in_parts_even_if_one_of_them_is_lost() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        long = Settings((), search=("x" * 253,) * 8, endpoints=("y" * 261,) * 8)

        async def lease(peer: PublicKey, request: LeaseRequest) -> Settings:
            return long

        bob.port.serve(LeaseRequest, lease)
        losses = iter((False, True))
        bob.plug.lose = lambda datagram: next(losses, False)
        assert await alice.port.ask(B, LEASE) == long
        assert len(bob.plug.sent) == 8

    play_virtually(scenario)


def test_silence_is_unavailable_and_bounded() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        bob.port.close()
        began = virtual_loop().time()
        with pytest.raises(Unavailable, match="does not answer"):
            await alice.port.ask(B, LEASE)
        assert 10 < virtual_loop().time() - began < 16
        assert len(alice.plug.sent) == 5
        assert len(set(alice.plug.sent)) == 1
        with pytest.raises(Unavailable, match="no peer"):
            await alice.port.ask(C, LEASE)

    play_virtually(scenario)


class Exhausted(Refused):
    code = FailureCode.EXHAUSTED


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (Exhausted("there is no address left"), "exhausted", "there is no address left"),
        (Refused("not\nyou"), "refused", "not you"),
        (Refused("x" * 1000), "refused", "x" * 300),
    ],
)
def test_a_no_is_told_with_its_sentence(raised: Refused, code: str, sentence: str) -> None:
    async def scenario() -> None:
        alice, bob = couple()

        async def refuse(peer: PublicKey, request: LeaseRequest) -> Message:
            raise raised

        bob.port.serve(LeaseRequest, refuse)
        with pytest.raises(PeerRefused) as told:
            await alice.port.ask(B, LEASE)
        assert (told.value.code, str(told.value)) == (code, sentence)

    play_virtually(scenario)


def test_why_we_are_unavailable_is_for_us_to_know(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        alice, bob = couple()

        async def fail(peer: PublicKey, request: LeaseRequest) -> Message:
            raise Unavailable("etcd at 10.1.1.1 does not answer")

        bob.port.serve(LeaseRequest, fail)
        with caplog.at_level(logging.INFO), pytest.raises(Unavailable) as told:
            await alice.port.ask(B, LEASE)
        assert "etcd" not in str(told.value)
        assert "etcd at 10.1.1.1" in caplog.text

    play_virtually(scenario)


def test_who_takes_too_long_is_cancelled() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        ended = []

        async def dawdle(peer: PublicKey, request: LeaseRequest) -> Message:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(virtual_loop().time())
            raise AssertionError

        bob.port.serve(LeaseRequest, dawdle)
        began = virtual_loop().time()
        with pytest.raises(Unavailable):
            await alice.port.ask(B, LEASE)
        await asyncio.sleep(10)
        assert [round(at - began) for at in ended] == [20]
        assert bob.port.statistics()["requests_served"] == 0

    play_virtually(scenario)


def test_a_bug_of_ours_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        alice, bob = couple()

        async def stumble(peer: PublicKey, request: LeaseRequest) -> Message:
            raise ZeroDivisionError

        async def say_too_much(peer: PublicKey, request: Release) -> Message:
            return Failure("x" * 100, "")

        bob.port.serve(LeaseRequest, stumble)
        bob.port.serve(Release, say_too_much)
        for request in (LEASE, Release()):
            with pytest.raises(Unavailable):
                await alice.port.ask(B, request)  # type: ignore[type-var]
        assert caplog.text.count("internal error on the control channel") == 10
        bob.port.serve(LeaseRequest, give_settings)
        assert await alice.port.ask(B, LEASE) == SETTINGS
        for _ in range(5):
            with pytest.raises(Unavailable):
                await alice.port.ask(B, Release())
        assert caplog.text.count("internal error on the control channel") == 20

    play_virtually(scenario)


def test_who_cannot_say_who_he_is_goes_on_serving(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        alice, bob = couple()
        bob.port.serve(LeaseRequest, give_settings)
        bob.name = "two\nlines"
        with pytest.raises(Unavailable):
            await alice.port.ask(B, Hello("alice", "1", ()))
        assert "internal error on the control channel" in caplog.text
        assert await alice.port.ask(B, LEASE) == SETTINGS

    play_virtually(scenario)


def test_what_nobody_serves_is_refused_at_once() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        with pytest.raises(PeerRefused) as told:
            await alice.port.ask(B, LEASE)
        assert told.value.code == FailureCode.UNKNOWN_REQUEST
        assert len(alice.plug.sent) == 1

        # An answer is no question.
        for body in (encode(Done()), b'{"type":"of a later version"}'):
            (datagram,) = cut(FrameKind.REQUEST, body[:8], body)
            bob.plug.hear(A, datagram)
        assert len(bob.plug.sent) == 3
        assert all(b'"unknown-request"' in datagram for _, datagram in bob.plug.sent)

    play_virtually(scenario)


def test_answers_of_another_kind_are_not_taken() -> None:
    async def scenario() -> None:
        alice, bob = couple()

        async def confuse(peer: PublicKey, request: LeaseRequest) -> Message:
            return Done()

        bob.port.serve(LeaseRequest, confuse)
        with pytest.raises(Unavailable, match="does not know"):
            await alice.port.ask(B, LEASE)
        assert alice.port.statistics()["dropped_not_asked"] == 1

    play_virtually(scenario)


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


# --- notices, opening, closing ----------------------------------------------------------


def test_notices_arrive_at_all_who_wait_for_them() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        heard: list[tuple[str, PublicKey, Goodbye]] = []
        bob.port.on_notice(Goodbye, lambda peer, notice: heard.append(("first", peer, notice)))
        bob.port.on_notice(Goodbye, lambda peer, notice: heard.append(("second", peer, notice)))
        alice.port.tell(B, Goodbye("stopping"))
        alice.port.tell(B, Done())
        await asyncio.sleep(1)
        goodbye = Goodbye("stopping")
        assert heard == [("first", A, goodbye), ("second", A, goodbye)]

    play_virtually(scenario)


def test_a_closed_port_does_nothing_and_ends_what_is_under_way() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        ended = []

        async def wait(peer: PublicKey, request: LeaseRequest) -> Message:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(peer)
            raise AssertionError

        bob.port.serve(LeaseRequest, wait)
        asking = asyncio.ensure_future(alice.port.ask(B, LEASE))
        await asyncio.sleep(0.05)
        bob.port.close()
        alice.port.close()
        alice.port.close()
        with pytest.raises(Unavailable, match="closed"):
            await asking
        await asyncio.sleep(0)
        assert ended == [A]
        with pytest.raises(Unavailable, match="closed"):
            await alice.port.ask(B, LEASE)
        sent = len(alice.plug.sent)
        alice.port.tell(B, Goodbye())
        alice.plug.tell(NoticeKind.HANDSHAKE_COMPLETED, B)
        await asyncio.sleep(1000)
        assert len(alice.plug.sent) == sent

        alice.port.open()
        bob.port.open()
        bob.port.serve(LeaseRequest, give_settings)
        assert await alice.port.ask(B, LEASE) == SETTINGS

    play_virtually(scenario)


def test_who_gives_up_waiting_stops_the_asking() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        bob.port.close()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(alice.port.ask(B, LEASE), 0.1)
        await asyncio.sleep(100)
        assert len(alice.plug.sent) == 1

    play_virtually(scenario)


def test_only_those_with_whom_it_is_open_are_heard() -> None:
    async def scenario() -> None:
        alice, bob = couple()
        bob.port.serve(LeaseRequest, give_settings)
        bob.port.open(frozenset({C}))
        with pytest.raises(Unavailable):
            await alice.port.ask(B, LEASE)
        assert bob.plug.sent == []
        bob.port.open(frozenset({A, C}))
        assert await alice.port.ask(B, LEASE) == SETTINGS

    play_virtually(scenario)


def test_opening_again_changes_with_whom() -> None:
    async def scenario() -> None:
        alice = Node(A, is_open=False)
        assert not alice.port.is_open
        alice.port.open(frozenset({B}))
        assert alice.plug.only == {B}
        alice.port.open()
        assert alice.port.is_open
        assert alice.plug.only is None

    play_virtually(scenario)


# --- getting to know peers --------------------------------------------------------------


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
