"""The queue of events: bounded, and handshakes a few at a time."""

from __future__ import annotations

from nvpn.datapath.commands import PeerId
from nvpn.datapath.events import (
    DataReceived,
    DataSent,
    EndpointRoamed,
    Event,
    HandshakeReceived,
    InnerReceived,
)
from nvpn.datapath.python.event_queue import EventQueue
from tests.support.cores import endpoint

PEER = PeerId(1)


def handshake(number: int) -> HandshakeReceived:
    return HandshakeReceived(number.to_bytes(4, "big"), endpoint(), number)


def test_it_holds_1024_handshakes_and_no_more() -> None:
    queue = EventQueue()
    assert all(queue.add_handshake(handshake(n)) for n in range(1024))
    assert not queue.add_handshake(handshake(1024))
    assert queue.queued_handshakes == 1024
    assert queue.take() == [handshake(n) for n in range(1024)]
    assert not queue


def test_cookie_replies_have_a_queue_of_their_own() -> None:
    queue = EventQueue()
    replies = [HandshakeReceived(b"\3\0\0\0" + bytes([n] * 60), endpoint(), n) for n in range(65)]
    assert [queue.add_handshake(reply) for reply in replies] == [True] * 64 + [False]
    assert queue
    assert queue.queued_handshakes == 0
    assert queue.add_handshake(handshake(1))
    assert queue.take(2) == [*replies[:2], handshake(1)]
    assert queue.take() == replies[2:64]


def test_one_who_floods_leaves_room_to_the_others_among_what_is_diverted() -> None:
    queue = EventQueue()
    flood = [InnerReceived(PEER, b"%d" % n) for n in range(40)]
    assert [queue.add_diverted(each) for each in flood] == [True] * 32 + [False] * 8
    others = [InnerReceived(PeerId(n), b"x") for n in range(2, 302)]
    assert [queue.add_diverted(each) for each in others] == [True] * 224 + [False] * 76
    assert queue.take() == flood[:32] + others[:224]
    assert queue.add_diverted(flood[0])


def test_few_handshakes_at_a_time_and_everything_else_at_once() -> None:
    queue = EventQueue()
    others: list[Event] = [DataSent(PeerId(n)) for n in range(10)]
    for n, other in enumerate(others):
        queue.add_handshake(handshake(n))
        queue.add(other)
    assert queue.take(4) == [*others, *map(handshake, range(4))]
    assert queue
    assert queue.queued_handshakes == 6
    assert queue.take(0) == []
    assert queue.take(4) == [*map(handshake, range(4, 8))]
    assert queue.take() == [*map(handshake, range(8, 10))]


def test_a_peer_that_roams_to_and_fro_is_one_event() -> None:
    queue = EventQueue()
    places = [endpoint(f"192.0.2.{n}:9") for n in range(100)]
    for place in places:
        queue.set_roamed(PEER, place)
    assert queue.take() == [EndpointRoamed(PEER, places[-1])]
    assert not queue


def test_what_packets_can_repeat_waits_once() -> None:
    queue = EventQueue()
    for _ in range(100):
        queue.add_once(DataSent(PEER))
        queue.add_once(DataReceived(PEER))
    assert queue
    assert queue.take() == [DataSent(PEER), DataReceived(PEER)]
    assert not queue
