"""What datagrams do to sessions, endpoints and the instants that timers look at."""

from __future__ import annotations

import pytest

from nvpn.datapath.api import Activity, Counters, Watch
from nvpn.datapath.commands import PeerId, SendHandshake, SendKeepalive, SetPeerEndpoint, Touch
from nvpn.datapath.events import (
    DataReceived,
    DataSent,
    EndpointRoamed,
    HandshakeWanted,
    KeypairConfirmed,
    KeypairGone,
)
from nvpn.datapath.python.core import Core
from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Source
from tests.support.cores import THEM, Ends, endpoint, ipv4, only
from tests.support.incoming import (
    ELSEWHERE,
    receive,
    sealed_raw,
)

# --- sessions --------------------------------------------------------------------------


def test_the_first_packet_under_next_promotes_it_and_sets_waiting_packets_free() -> None:
    ends = Ends(session=False)
    ends.bob.send_inner(ipv4("10.0.0.2", "10.0.0.1"), ends.now)
    ends.bob.take_events()
    ends.establish()
    confirming = ends.alice.take_datagrams()
    ends.deliver(ends.bob, confirming[0])
    index = 0xB0000001
    assert ends.bob.take_events() == [
        KeypairConfirmed(THEM, index, ends.now),
        DataSent(THEM),
    ]
    assert len(ends.bob.take_datagrams()) == 1
    ends.alice.send_inner(ipv4(), ends.now)
    ends.carry(ends.alice, ends.bob)
    assert only(ends.bob.take_events(), KeypairConfirmed) == []


def test_a_forged_packet_under_next_promotes_nothing() -> None:
    ends = Ends(session=False)
    ends.establish()
    (confirming,) = ends.alice.take_datagrams()
    receive(ends, confirming.datagram[:-1] + b"\0")
    assert ends.bob.take_events() == []
    assert ends.bob.peers[THEM].slots.current is None


def test_packets_under_the_previous_key_are_still_accepted() -> None:
    ends = Ends()
    old = [ends.seal(ipv4(payload=bytes([n]))) for n in range(3)]
    ends.establish()
    assert receive(ends, old[0])
    ends.settle()
    assert receive(ends, old[1])
    ends.establish()
    ends.settle()
    assert receive(ends, old[2]) == []
    assert ends.bob.drops() == {DropReason.UNKNOWN_INDEX: 1}


def test_each_keypair_is_reported_gone_exactly_once() -> None:
    ends = Ends(session=False)
    gone: dict[str, list[int]] = {"alice": [], "bob": []}
    for _ in range(6):
        ends.establish()
        ends.carry(ends.alice, ends.bob)
        for name, core in (("alice", ends.alice), ("bob", ends.bob)):
            events = only(core.take_events(), KeypairGone)
            gone[name] += [event.our_index for event in events if isinstance(event, KeypairGone)]
    assert gone["alice"] == [0xA0000000 + n for n in (1, 2, 3, 4)]
    assert gone["bob"] == [0xB0000000 + n for n in (1, 2, 3, 4)]
    assert len(ends.alice.receivers) == len(ends.bob.receivers) == 2


def test_an_initiator_that_only_receives_renews_once_at_165_seconds() -> None:
    ends = Ends()
    start, told = ends.now, []
    for second in (100, 130, 164, 165, 166, 179):
        ends.now = start + second * SECOND
        datagram = ends.seal(ipv4("10.0.0.2", "10.0.0.1"), ends.bob)
        ends.alice.receive(datagram, ends.bob_at, ends.now)
        if only(ends.alice.take_events(), HandshakeWanted):
            told.append(second)
    assert told == [165]


def test_a_responder_that_only_receives_renews_nothing() -> None:
    ends = Ends()
    ends.now += 170 * SECOND
    receive(ends, ends.seal(ipv4()))
    assert only(ends.bob.take_events(), HandshakeWanted) == []


def test_a_handshake_message_renews_nothing() -> None:
    ends = Ends()
    ends.now += 170 * SECOND
    ends.tell(ends.alice, Touch(THEM, 148, ends.now), SendHandshake(THEM, bytes(92)))
    assert ends.alice.take_events() == []


# --- roaming ---------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [b"", ipv4(), b"\0" * 16])
def test_any_authentic_packet_moves_the_endpoint(plain: bytes) -> None:
    ends = Ends()
    here = ELSEWHERE._replace(source=Source(b"\xc0\0\2\2", 5))
    receive(ends, sealed_raw(ends, plain), here)
    moved = here._replace(learned_at=ends.now)
    assert EndpointRoamed(THEM, moved) in ends.bob.take_events()
    ends.tell(ends.bob, SendKeepalive(THEM))
    assert [sent.endpoint for sent in ends.bob.take_datagrams()] == [moved]


def test_a_replayed_packet_does_not_move_the_endpoint() -> None:
    ends = Ends()
    datagram = ends.seal(ipv4())
    receive(ends, datagram)
    receive(ends, datagram, ELSEWHERE)
    assert only(ends.bob.take_events(), EndpointRoamed) == []
    assert ends.bob.peers[THEM].endpoint == ends.alice_at


def test_staying_where_it_is_is_no_event() -> None:
    ends = Ends()
    for _ in range(3):
        receive(ends, ends.seal(ipv4()))
    assert only(ends.bob.take_events(), EndpointRoamed) == []


def test_our_own_address_follows_silently() -> None:
    ends = Ends()
    for number in (1, 2):
        source = Source(bytes((192, 0, 2, number)), 3)
        receive(ends, ends.seal(ipv4()), ends.alice_at._replace(source=source))
        known = ends.bob.peers[THEM].endpoint
        assert known is not None
        assert known.source == source
    assert only(ends.bob.take_events(), EndpointRoamed) == []


def test_of_two_endpoints_the_one_learned_later_wins() -> None:
    ends = Ends()
    seen_before = endpoint("203.0.113.1:1")._replace(learned_at=ends.now)
    ends.now += SECOND
    receive(ends, ends.seal(ipv4()))
    ends.tell(ends.bob, SetPeerEndpoint(THEM, seen_before))
    assert ends.bob.peers[THEM].endpoint == ends.alice_at
    ends.now += SECOND
    seen_after = seen_before._replace(learned_at=ends.now)
    ends.tell(ends.bob, SetPeerEndpoint(THEM, seen_after))
    assert ends.bob.peers[THEM].endpoint == seen_after


# --- instants and watches --------------------------------------------------------------


def test_instants_tell_what_is_unanswered() -> None:
    ends = Ends()
    t0 = ends.now

    def at(second: int) -> None:
        ends.now = t0 + second * SECOND

    at(1)
    ends.alice.send_inner(ipv4(), ends.now)
    at(2)
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.activity(THEM)[:2] == (t0 + 1 * SECOND, 0)
    assert ends.alice.activity(THEM).last_sent_at == t0 + 2 * SECOND
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.activity(THEM) == Activity(
        0, t0 + 2 * SECOND, t0 + 2 * SECOND, 0, t0 + 2 * SECOND
    )
    at(3)
    ends.tell(ends.bob, SendKeepalive(THEM))
    assert ends.bob.activity(THEM).data_received_at == 0
    assert ends.bob.activity(THEM).data_sent_at == 0
    ends.carry(ends.bob, ends.alice)
    assert ends.alice.activity(THEM) == Activity(0, 0, 0, t0 + 2 * SECOND, t0 + 3 * SECOND)
    at(4)
    ends.alice.send_inner(ipv4(), ends.now)
    ends.tell(ends.alice, Touch(THEM, 148, ends.now))
    assert ends.alice.activity(THEM)[:2] == (0, 0)


def test_each_direction_is_told_once_until_it_is_watched_or_answered() -> None:
    ends = Ends()
    for _ in range(5):
        ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_events() == [DataSent(THEM)]
    ends.alice.watch(THEM, Watch.DATA_SENT, True)
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_events() == []
    # The timer fired, and gave up its watch: the next packet must be told.
    ends.alice.watch(THEM, Watch.DATA_SENT, False)
    ends.alice.send_inner(ipv4(), ends.now)
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_events() == [DataSent(THEM)]

    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_events() == [DataReceived(THEM)]
    ends.bob.watch(THEM, Watch.DATA_RECEIVED, True)
    receive(ends, ends.seal(ipv4()))
    assert ends.bob.take_events() == []
    ends.bob.watch(THEM, Watch.DATA_RECEIVED, False)
    receive(ends, ends.seal(ipv4()))
    receive(ends, ends.seal(ipv4()))
    assert ends.bob.take_events() == [DataReceived(THEM)]


def test_a_keepalive_is_no_data_in_either_direction() -> None:
    ends = Ends()
    ends.tell(ends.alice, SendKeepalive(THEM))
    ends.carry(ends.alice, ends.bob)
    assert ends.alice.take_events() == ends.bob.take_events() == []
    assert ends.alice.activity(THEM).data_sent_at == 0
    assert ends.bob.activity(THEM).data_received_at == 0


def test_of_an_unknown_peer_all_is_zero() -> None:
    core = Core(mtu=1420, random=bytes)
    nobody = PeerId(9)
    core.watch(nobody, Watch.DATA_SENT, True)
    core.forget_source(nobody)
    assert core.activity(nobody) == Activity()
    assert core.counters(nobody) == Counters()
