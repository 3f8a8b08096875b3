"""Ask, tell, serve: between ports over a cable that loses what a test says, in virtual time."""

from __future__ import annotations

import asyncio
import logging

import pytest

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
from nvpn.daemon.channel_port import PeerRefused
from nvpn.errors import Refused, Unavailable
from nvpn.model.keys import PublicKey
from nvpn.model.notices import NoticeKind
from tests.support.channel_nodes import LEASE, SETTINGS, A, B, C, Node, couple, give_settings
from tests.support.virtual_loop import play_virtually, virtual_loop

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
