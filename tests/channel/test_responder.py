from __future__ import annotations

import pytest

from nvpn.channel.drops import ChannelDrop
from nvpn.channel.frames import FrameKind, cut
from nvpn.channel.messages import (
    Done,
    Failure,
    FailureCode,
    Goodbye,
    Release,
    Settings,
    decode,
    encode,
)
from nvpn.channel.responder import ANSWER_LIFE, Responder
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix

A, B = (PublicKey(bytes([n]) * 32) for n in (0xAA, 0xBB))
NOW = 1000 * SECOND
RELEASE = encode(Release())


def identifier(number: int) -> bytes:
    return number.to_bytes(8, "big")


def answer_to(number: int) -> list[tuple[PublicKey, bytes]]:
    return [(A, part) for part in cut(FrameKind.RESPONSE, identifier(number), encode(Done()))]


def test_a_request_is_served_once_however_often_it_comes() -> None:
    answering = Responder()
    assert answering.receive(A, identifier(1), RELEASE, NOW) == Release()
    # Again, while it is being served: that is under way.
    assert answering.receive(A, identifier(1), RELEASE, NOW) is None
    assert answering.take_datagrams() == []

    answering.answer(A, identifier(1), Done(), NOW)
    assert answering.take_datagrams() == answer_to(1)
    assert answering.receive(A, identifier(1), RELEASE, NOW + SECOND) is None
    assert answering.take_datagrams() == answer_to(1)
    assert answering.drops() == {}


def test_the_last_two_answers_are_kept_for_a_minute() -> None:
    answering = Responder()
    for number in (1, 2, 3):
        answering.receive(A, identifier(number), RELEASE, NOW)
        answering.answer(A, identifier(number), Done(), NOW)
    answering.take_datagrams()
    assert answering.receive(A, identifier(2), RELEASE, NOW) is None
    assert answering.receive(A, identifier(3), RELEASE, NOW) is None
    assert answering.take_datagrams() == answer_to(2) + answer_to(3)
    assert answering.receive(A, identifier(1), RELEASE, NOW) == Release()
    answering.give_up(A, identifier(1))

    assert answering.receive(A, identifier(3), RELEASE, NOW + ANSWER_LIFE) == Release()
    answering.give_up(A, identifier(3))
    assert answering.receive(B, identifier(1), RELEASE, NOW + 2 * ANSWER_LIFE) == Release()
    answering.give_up(B, identifier(1))
    assert len(answering) == 1
    assert answering.kept_bytes == 0


def test_of_a_peer_one_request_is_under_way() -> None:
    answering = Responder()
    assert answering.receive(A, identifier(1), RELEASE, NOW) == Release()
    assert answering.receive(A, identifier(2), RELEASE, NOW) is None
    assert answering.drops() == {ChannelDrop.UNDER_WAY: 1}
    assert answering.receive(B, identifier(2), RELEASE, NOW) == Release()

    # What is not under way any more gets no answer.
    answering.answer(A, identifier(2), Done(), NOW)
    assert answering.take_datagrams() == []
    answering.give_up(A, identifier(1))
    answering.answer(A, identifier(1), Done(), NOW)
    assert answering.take_datagrams() == []
    assert answering.receive(A, identifier(2), RELEASE, NOW) == Release()


def test_a_peer_may_ask_twenty_times_at_once_and_ten_times_a_second() -> None:
    answering = Responder()
    served = 0
    for number in range(1000):  # a thousand in a second
        now = NOW + number * MILLISECOND
        if answering.receive(A, identifier(number), RELEASE, now) is not None:
            answering.answer(A, identifier(number), Done(), now)
            served += 1
    assert 28 <= served <= 31
    assert answering.drops() == {ChannelDrop.RATE_LIMITED: 1000 - served}
    assert len(answering.take_datagrams()) == served
    # Others are not touched by it.
    assert answering.receive(B, identifier(1), RELEASE, NOW + SECOND) == Release()


def test_repeated_requests_and_notices_count_too() -> None:
    answering = Responder()
    answering.receive(A, identifier(1), RELEASE, NOW)
    answering.answer(A, identifier(1), Done(), NOW)
    answering.take_datagrams()
    for _ in range(100):
        answering.receive(A, identifier(1), RELEASE, NOW)
    assert len(answering.take_datagrams()) == 19
    assert answering.receive_notice(A, encode(Goodbye("stopping")), NOW) is None
    assert answering.receive_notice(B, encode(Goodbye("stopping")), NOW) == Goodbye("stopping")
    assert answering.receive_notice(B, b"{}", NOW) is None
    assert answering.drops()[ChannelDrop.MALFORMED] == 1


def test_all_peers_together_may_ask_two_thousand_times_a_second() -> None:
    answering = Responder()
    peers = [PublicKey(n.to_bytes(32, "big")) for n in range(5000)]
    served = sum(
        answering.receive(peer, identifier(1), RELEASE, NOW) is not None for peer in peers
    )
    assert served == 2000
    # Who was not heard has not been charged for it.
    late = [answering.receive(peers[-1], identifier(n), RELEASE, NOW + SECOND) for n in (1, 2)]
    assert late == [Release(), None]


def test_what_is_not_understood_is_answered_once_and_for_all() -> None:
    answering = Responder()
    assert answering.receive(A, identifier(1), b'{"type":"post-quantum"}', NOW) is None
    ((peer, datagram),) = answering.take_datagrams()
    assert peer == A
    no = decode(datagram[12:])
    assert isinstance(no, Failure)
    assert no.code == FailureCode.UNKNOWN_REQUEST
    answering.receive(A, identifier(1), b'{"type":"post-quantum"}', NOW)
    assert answering.take_datagrams() == [(A, datagram)]
    assert answering.drops() == {ChannelDrop.MALFORMED: 1}


def test_an_answer_that_does_not_fit_leaves_the_request_open() -> None:
    answering = Responder()
    answering.receive(A, identifier(1), RELEASE, NOW)
    with pytest.raises(ValueError, match="failure"):
        answering.answer(A, identifier(1), Failure("x", "y" * 301), NOW)
    answering.answer(A, identifier(1), Done(), NOW)
    assert answering.take_datagrams() == answer_to(1)


def test_answers_are_bounded_in_all() -> None:
    big = Settings((), routes=tuple(Prefix(6, (2**128 - 1) - n, 128) for n in range(160)))
    assert len(encode(big)) > 6000
    answering = Responder(max_answer_bytes=1_000_000)
    for n in range(400):
        now = NOW + n * MILLISECOND
        peer = PublicKey(n.to_bytes(32, "big"))
        assert answering.receive(peer, identifier(n), RELEASE, now) == Release()
        answering.answer(peer, identifier(n), big, now)
        answering.take_datagrams()
        assert answering.kept_bytes <= 1_000_000
    assert answering.kept_bytes > 900_000
    assert len(answering) < 170


def test_short_questions_for_long_answers_are_worth_little() -> None:
    big = Settings((), search=("x" * 253,) * 8, endpoints=("y" * 261,) * 8)
    answering = Responder()
    sent = 0
    for n in range(10_000):  # in ten seconds
        now = NOW + n * MILLISECOND
        if answering.receive(A, identifier(n // 500), RELEASE, now) is not None:
            answering.answer(A, identifier(n // 500), big, now)
        sent += sum(len(datagram) for _, datagram in answering.take_datagrams())
    assert sent <= (20 + 10 * 10) * (len(encode(big)) + 4 * 12)


def test_a_peer_that_is_gone_leaves_nothing_behind() -> None:
    answering = Responder()
    answering.receive(A, identifier(1), RELEASE, NOW)
    answering.answer(A, identifier(1), Done(), NOW)
    answering.receive(A, identifier(2), RELEASE, NOW)
    answering.forget(A)
    answering.forget(A)
    answering.answer(A, identifier(2), Done(), NOW)
    assert (len(answering), answering.kept_bytes) == (0, 0)


def test_what_is_under_way_is_not_forgotten_over_it() -> None:
    answering = Responder()
    answering.receive(A, identifier(1), RELEASE, NOW)
    answering.receive(B, identifier(1), RELEASE, NOW + ANSWER_LIFE + SECOND)
    answering.answer(A, identifier(1), Done(), NOW + ANSWER_LIFE + SECOND)
    assert answering.take_datagrams() == answer_to(1)
