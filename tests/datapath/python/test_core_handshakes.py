"""Handshake messages from the socket: which go up, which are answered at once, which end here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvpn.datapath.commands import DestroyPeer, EraseKeys, SendHandshake, SetAdmission
from nvpn.datapath.events import HandshakeReceived
from nvpn.errors import DropReason
from nvpn.model.keys import PublicKey
from nvpn.wire.constants import COOKIE_REPLY_BURST
from nvpn.wire.crypto import mac, mac1_key
from nvpn.wire.messages import (
    CookieReply,
    Initiation,
    Response,
    before_mac1,
    parse_handshake,
)
from tests.support.cores import THEM, Ends, only
from tests.support.incoming import (
    ELSEWHERE,
    initiation,
    receive,
    session_of_the_vectors,
)
from tests.support.vectors import unhex, vectors


def test_an_admitted_message_goes_up_with_where_it_came_from() -> None:
    ends = session_of_the_vectors()
    receive(ends, initiation(), ELSEWHERE)
    assert ends.bob.take_events() == [
        HandshakeReceived(initiation(), ELSEWHERE._replace(learned_at=ends.now), ends.now)
    ]
    assert not ends.bob.drops()


def test_a_flood_is_asked_for_cookies_and_never_grows_the_queue() -> None:
    ends = session_of_the_vectors()
    for _ in range(3000):
        receive(ends, initiation(), ELSEWHERE)
    replies = ends.bob.take_datagrams()
    assert ends.bob.events.queued_handshakes == 128
    assert len(replies) == COOKIE_REPLY_BURST // 2, "one source has half of the ration"
    assert {len(reply.datagram) for reply in replies} == {64}
    assert {(reply.endpoint, reply.tos, reply.peer) for reply in replies} == {(ELSEWHERE, 0, None)}
    assert ends.bob.drops() == {DropReason.COOKIE_REQUIRED: 3000 - 128}


def answer(kind: int, index: int) -> bytes:
    """A response (2), past mac1, or a cookie reply (3), to the message with that index."""
    if kind == 3:
        return b"\3\0\0\0" + index.to_bytes(4, "little") + bytes(56)
    (public,) = unhex(vectors()["handshakes"][1], "responder_static_public")
    unsigned = Response(7, index, bytes(32), bytes(16)).pack()
    mac1 = mac(mac1_key(PublicKey(public)), before_mac1(unsigned))
    return Response(7, index, bytes(32), bytes(16), mac1).pack()


@pytest.mark.parametrize("kind", [2, 3])
def test_an_answer_to_no_message_of_ours_is_dropped_at_once(kind: int) -> None:
    ends = session_of_the_vectors()
    for index in range(2000):
        receive(ends, answer(kind, index), ELSEWHERE)
    assert ends.bob.events.queued_handshakes == 0
    assert ends.bob.take_events() == []
    assert ends.bob.drops() == {DropReason.UNKNOWN_INDEX: 2000}
    receive(ends, initiation(), ELSEWHERE)
    assert len(only(ends.bob.take_events(), HandshakeReceived)) == 1, "nobody is under load"


@pytest.mark.parametrize("kind", [2, 3])
def test_only_the_latest_initiation_may_be_answered_and_only_until_it_is(kind: int) -> None:
    ends = session_of_the_vectors()
    for index in (11, 12):
        sent = Initiation(index, bytes(32), bytes(48), bytes(28)).pack()
        ends.tell(ends.bob, SendHandshake(THEM, sent))
    receive(ends, answer(kind, 11), ELSEWHERE)
    assert ends.bob.take_events() == []
    receive(ends, answer(kind, 12), ELSEWHERE)
    assert len(ends.bob.take_events()) == 1

    install, _ = ends.keypairs()
    ends.tell(ends.bob, replace(install, our_index=12))
    ends.tell(ends.bob, EraseKeys(THEM))
    ends.bob.take_events()
    receive(ends, answer(kind, 12), ELSEWHERE)
    assert ends.bob.take_events() == []


def test_a_removed_peer_expects_no_answer() -> None:
    ends = session_of_the_vectors()
    sent = Initiation(12, bytes(32), bytes(48), bytes(28)).pack()
    ends.tell(ends.bob, SendHandshake(THEM, sent), DestroyPeer(THEM))
    receive(ends, answer(3, 12), ELSEWHERE)
    assert ends.bob.take_events() == []


def test_a_flood_of_cookie_replies_to_a_message_of_ours_is_no_load() -> None:
    ends = session_of_the_vectors()
    for _ in range(2000):
        receive(ends, answer(3, 0xAABBCCDD), ELSEWHERE)  # our index in the session
    assert ends.bob.events.queued_handshakes == 0
    assert ends.bob.drops() == {DropReason.QUEUE_FULL: 2000 - 64}
    receive(ends, initiation(), ELSEWHERE)
    assert [type(parse_handshake(e.datagram)) for e in handshakes(ends, 1)] == [
        CookieReply,
        Initiation,
    ]


def handshakes(ends: Ends, most: int) -> list[HandshakeReceived]:
    events = ends.bob.take_events(max_handshakes=most)
    return [event for event in events if isinstance(event, HandshakeReceived)]


def test_without_a_private_key_handshakes_are_dropped() -> None:
    ends = session_of_the_vectors()
    ends.tell(ends.bob, SetAdmission(None, None, None))
    receive(ends, initiation(), ELSEWHERE)
    assert ends.bob.take_events() == []
    assert sum(ends.bob.drops().values()) == 1
