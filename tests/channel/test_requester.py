from __future__ import annotations

import pytest

from nvpn.channel.drops import ChannelDrop
from nvpn.channel.frames import FrameKind, cut
from nvpn.channel.messages import Done, Failure, Goodbye, Hello, LeaseRequest, Release, encode
from nvpn.channel.requester import (
    CHANNEL_RETRY,
    MAX_QUESTIONS,
    ONCE,
    Answered,
    Requester,
    Unanswered,
)
from nvpn.errors import Unavailable
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.keys import PublicKey
from nvpn.resilience.policy import RetryPolicy

A, B = (PublicKey(bytes([n]) * 32) for n in (0xAA, 0xBB))
NOW = 1000 * SECOND
STEADY = RetryPolicy(
    max_attempts=3, initial=SECOND, maximum=4 * SECOND, multiplier=2.0, jitter=0.0
)


class Ids:
    """Random bytes that can be told apart."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, size: int) -> bytes:
        self.given += 1
        return self.given.to_bytes(size, "big")


def requester() -> Requester:
    return Requester(random=Ids())


def test_a_request_is_repeated_under_its_id_until_it_is_given_up() -> None:
    asking = requester()
    asked = asking.request(A, Release(), NOW, STEADY)
    frame = cut(FrameKind.REQUEST, asked, encode(Release()))[0]
    assert asking.take_datagrams() == [(A, frame)]

    sent_at = []
    while (now := asking.next_timeout()) is not None:
        asking.handle_timeout(now)
        if asking.take_datagrams() == [(A, frame)]:
            sent_at.append((now - NOW) // SECOND)
    assert sent_at == [1, 3]
    assert asking.take_outcomes() == [Unanswered(asked)]
    assert len(asking) == 0


def test_nothing_is_done_before_its_time() -> None:
    asking = requester()
    asking.request(A, Release(), NOW, STEADY)
    asking.take_datagrams()
    asking.handle_timeout(NOW + SECOND - 1)
    assert asking.take_datagrams() == []
    assert asking.next_timeout() == NOW + SECOND


def test_by_default_it_is_given_up_after_some_fifteen_seconds() -> None:
    asking = requester()
    asking.request(A, Release(), NOW)
    times = []
    while (now := asking.next_timeout()) is not None:
        times.append((now - NOW) / SECOND)
        asking.handle_timeout(now)
    assert len(times) == CHANNEL_RETRY.max_attempts
    assert 11 <= times[-1] <= 15.5
    assert times[0] <= 0.5


def test_an_answer_ends_it() -> None:
    asking = requester()
    asked = asking.request(A, Release(), NOW)
    asking.receive(A, asked, encode(Done()))
    assert asking.take_outcomes() == [Answered(asked, Done())]
    assert asking.next_timeout() is None

    asking.receive(A, asked, encode(Done()))
    assert asking.take_outcomes() == []
    assert asking.drops() == {ChannelDrop.NOT_ASKED: 1}


def test_a_no_is_an_answer() -> None:
    asking = requester()
    asked = asking.request(A, Hello("a", "1", ()), NOW)
    no = Failure("refused", "not you")
    asking.receive(A, asked, encode(no))
    assert asking.take_outcomes() == [Answered(asked, no)]


def test_only_who_was_asked_may_answer() -> None:
    asking = requester()
    asked = asking.request(A, Release(), NOW)
    asking.receive(B, asked, encode(Done()))
    asking.receive(A, b"another!", encode(Done()))
    assert asking.take_outcomes() == []
    assert asking.drops() == {ChannelDrop.NOT_ASKED: 2}
    assert len(asking) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"nonsense", ChannelDrop.MALFORMED),
        (b'{"type":"of a later version"}', ChannelDrop.MALFORMED),
        (encode(Goodbye()), ChannelDrop.NOT_ASKED),
    ],
)
def test_an_answer_that_makes_no_sense_is_not_asked_for_again(
    body: bytes, reason: ChannelDrop
) -> None:
    asking = requester()
    asked = asking.request(A, LeaseRequest("a", "1"), NOW)
    asking.receive(A, asked, body)
    assert asking.take_outcomes() == [Unanswered(asked, was_strange=True)]
    assert asking.drops() == {reason: 1}
    assert asking.next_timeout() is None


def test_who_gives_up_by_himself_hears_no_more() -> None:
    asking = requester()
    asked = asking.request(A, Release(), NOW)
    asking.cancel(asked)
    asking.cancel(asked)
    assert asking.next_timeout() is None
    asking.handle_timeout(NOW + 100 * SECOND)
    assert asking.take_outcomes() == []


def test_one_datagram_is_one_datagram() -> None:
    asking = requester()
    asked = asking.request(A, Hello("a", "1", ()), NOW, ONCE)
    assert len(asking.take_datagrams()) == 1
    asking.handle_timeout(NOW + 10 * SECOND - MILLISECOND)
    assert asking.take_outcomes() == []
    asking.handle_timeout(NOW + 10 * SECOND)
    assert asking.take_datagrams() == []
    assert asking.take_outcomes() == [Unanswered(asked)]


def test_questions_are_bounded() -> None:
    asking = requester()
    for _ in range(MAX_QUESTIONS):
        asked = asking.request(A, Release(), NOW)
    with pytest.raises(Unavailable):
        asking.request(A, Release(), NOW)
    asking.cancel(asked)
    asking.request(A, Release(), NOW)


def test_without_randomness_nothing_is_asked() -> None:
    def fail(size: int) -> bytes:
        raise OSError(5, "Input/output error")

    asking = Requester(random=fail)
    with pytest.raises(Unavailable, match="random"):
        asking.request(A, Release(), NOW)
    assert len(asking) == 0
