"""The protocol's timelines, on a virtual clock, with a prompt and with a lagging datapath."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from nvpn.errors import DropReason
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.keys import PresharedKey
from nvpn.model.notices import NoticeKind
from nvpn.protocol.handshake import ReceivedInitiation
from nvpn.wire.messages import Initiation, MessageType, parse_handshake
from tests.support.sim import START, Flight, Pair, Weather

INITIATION, RESPONSE, TRANSPORT = (
    MessageType.INITIATION,
    MessageType.RESPONSE,
    MessageType.TRANSPORT,
)
JITTER = 0.334
SLACK = 0.05  # two ways through the network, and the lag of the datapath

PairMaker = Callable[..., Pair]


@pytest.fixture(params=[0, 4 * MILLISECOND], ids=["prompt", "lagging"])
def make(request: pytest.FixtureRequest) -> PairMaker:
    """Pairs whose datapath obeys and reports at once, or late by random amounts."""

    def made(seed: int = 1, **options: Any) -> Pair:
        return Pair(
            seed, delays=request.param, weather=Weather(latency=5 * MILLISECOND), **options
        )

    return made


def seconds(flights: list[Flight], since: int = START) -> list[float]:
    return [(flight.at - since) / SECOND for flight in flights]


def mute(pair: Pair, sender: str, receiver: str) -> None:
    pair.world.blocked.add((sender, receiver))


def test_a_peer_that_never_answers_is_tried_twenty_times_and_then_forgotten(
    make: PairMaker,
) -> None:
    pair = make()
    mute(pair, "alice", "bob")
    pair.alice_sends()
    pair.run(300)

    tries = pair.world.sent(INITIATION, "alice")
    assert len(tries) == 20
    assert seconds(tries)[0] < SLACK
    for before, after in pairwise(seconds(tries)):
        assert 5 <= after - before <= 5 + JITTER + SLACK
    assert pair.world.flights == tries  # and silence after
    assert len({flight.sender_index for flight in tries}) == 20
    assert len({flight.datagram[8:40] for flight in tries}) == 20
    stamps = [opened(flight, pair).timestamp for flight in tries]
    assert stamps == sorted(set(stamps))

    assert pair.alice.drops == {DropReason.HANDSHAKE_FAILED: 1}  # the staged packet
    assert [notice.kind for notice in pair.alice.notices] == [
        NoticeKind.HANDSHAKE_UNANSWERED,
        NoticeKind.HANDSHAKE_GIVEN_UP,
    ]
    assert pair.alice.device.next_timeout() is None
    assert pair.alice.device.peer_state(pair.bob.public).attempts == 0


def opened(flight: Flight, pair: Pair) -> ReceivedInitiation:
    message = parse_handshake(flight.datagram)
    assert isinstance(message, Initiation)
    return ReceivedInitiation.open(message, static=pair.bob.key)


def test_outgoing_data_begins_anew_after_giving_up(make: PairMaker) -> None:
    pair = make()
    mute(pair, "alice", "bob")
    pair.alice_sends(b"lost")
    pair.run(300)
    pair.world.blocked.clear()
    kept = pair.alice_sends(b"kept")
    pair.run(1)
    assert pair.bob.delivered == [kept]


def test_two_idle_peers_are_silent_and_forget_their_keys_after_540_seconds(
    make: PairMaker,
) -> None:
    pair = make()
    pair.alice.device.initiate(pair.bob.public, pair.alice.now)
    pair.alice.turn()
    pair.run(1)
    assert [flight.is_keepalive for flight in pair.world.sent(TRANSPORT)] == [True]
    pair.world.flights.clear()

    pair.run(538)
    assert pair.alice.core.receivers and pair.bob.core.receivers
    pair.run(2)
    assert not pair.alice.core.receivers and not pair.bob.core.receivers
    assert pair.world.flights == []
    assert pair.alice.notices[-1].kind is NoticeKind.SESSION_EXPIRED
    assert pair.alice.device.next_timeout() is None
    assert len(pair.alice.device._context.indices) == 0

    pair.alice_sends()
    pair.run(0.1)
    assert [flight.kind for flight in pair.world.flights] == [INITIATION, RESPONSE, TRANSPORT]


def test_a_mute_receiver_of_steady_data_sends_a_keepalive_every_ten_seconds(
    make: PairMaker,
) -> None:
    pair = make()
    pair.world.every(1, pair.alice_sends, until=119.9)
    pair.run(119.9)
    keepalives = pair.world.sent(TRANSPORT, "bob")
    assert all(flight.is_keepalive for flight in keepalives)
    assert len(keepalives) == 11
    for before, after in pairwise([0.0, *seconds(keepalives)]):
        assert 10 - SLACK <= after - before <= 10 + SLACK
    assert len(pair.world.sent(INITIATION)) == 1


def test_the_initiator_renews_a_session_with_the_first_packet_after_120_seconds(
    make: PairMaker,
) -> None:
    pair = make()
    pair.world.every(1, pair.alice_sends, until=199)
    pair.run(200)
    assert len(pair.bob.delivered) == 200
    first, second = seconds(pair.world.sent(INITIATION))
    assert first < SLACK
    assert 120 < second <= 121 + SLACK


def test_a_silent_peer_is_called_15_seconds_after_unanswered_data(make: PairMaker) -> None:
    pair = make()
    pair.world.every(1, pair.alice_sends, until=60)
    pair.world.every(1, pair.bob_sends, until=60)
    pair.run(30.5)
    mute(pair, "bob", "alice")
    mute(pair, "alice", "bob")
    pair.run(20)
    late = seconds(pair.world.sent(INITIATION, "alice"))[1:]
    assert 31 + 15 <= late[0] <= 31 + 15 + JITTER + SLACK
    assert len(late) == 1


def test_rekeying_rides_on_the_keepalives_of_an_initiator_that_only_receives(
    make: PairMaker,
) -> None:
    pair = make()
    pair.connect()
    pair.world.every(1, pair.bob_sends, until=199)
    pair.run(200)
    assert len(pair.alice.delivered) == 200
    renewals = seconds(pair.world.sent(INITIATION))
    assert len(renewals) == 1
    assert 120 <= renewals[0] <= 130 + 2 * SLACK
    (keepalive,) = [
        flight for flight in pair.world.sent(TRANSPORT, "alice") if near(flight, renewals[0])
    ][:1]
    assert keepalive.is_keepalive


def near(flight: Flight, second: float) -> bool:
    return abs(seconds([flight])[0] - second) <= SLACK


def test_one_packet_to_an_idle_initiator_at_170_seconds_renews_the_session_once(
    make: PairMaker,
) -> None:
    pair = make()
    pair.connect()
    pair.run(169)
    pair.bob_sends()
    pair.bob_sends()
    pair.run(100)
    (renewal,) = seconds(pair.world.sent(INITIATION, "alice"))
    assert 170 <= renewal <= 170 + SLACK
    assert pair.world.sent(INITIATION, "bob") == []


def test_a_responder_renews_nothing_before_it_misses_answers(make: PairMaker) -> None:
    pair = make()
    pair.connect()
    begin = pair.world.time
    mute(pair, "alice", "bob")
    pair.world.every(1, pair.bob_sends, until=400)
    pair.run(400)
    first = seconds(pair.world.sent(INITIATION, "bob"), begin)[0]
    assert 15 <= first <= 15 + JITTER + SLACK
    born = START + round(2 * SLACK * SECOND)
    assert seconds(pair.world.sent(TRANSPORT, "bob"), born)[-1] <= 180
    state = pair.bob.core.peers[pair.bob.device.peer_state(pair.alice.public).peer_id]
    assert 0 < len(state.staged) <= 128


def test_a_responder_does_not_renew_an_answered_session_at_120_seconds(make: PairMaker) -> None:
    pair = make()
    pair.connect()
    pair.world.every(1, pair.bob_sends, until=118)
    pair.run(118.9)
    mute(pair, "alice", "bob")  # or her keepalives would renew it
    pair.world.every(1, pair.bob_sends, until=5)
    pair.run(6)
    assert pair.world.sent(INITIATION, "bob") == []


def test_of_200_packets_without_a_key_the_newest_128_go_out_in_order(make: PairMaker) -> None:
    pair = make()
    sent = [pair.alice_sends(b"%d" % number) for number in range(200)]
    pair.run(1)
    assert pair.bob.delivered == sent[-128:]
    assert pair.alice.drops == {DropReason.STAGING_FULL: 72}


def test_a_persistent_keepalive_comes_every_25_seconds_and_carries_the_rekeying(
    make: PairMaker,
) -> None:
    pair = make(keepalive=25)
    pair.run(1)
    pair.world.flights.clear()
    pair.run(124)
    kinds = [(flight.sender, flight.is_keepalive) for flight in pair.world.flights]
    assert kinds[:4] == [("alice", True)] * 4
    for expected, actual in zip((25, 50, 75, 100), seconds(pair.world.flights), strict=False):
        assert expected <= actual <= expected + SLACK
    pair.run(2)
    (renewal,) = seconds(pair.world.sent(INITIATION))
    assert 125 <= renewal <= 125 + SLACK


def test_traffic_in_either_direction_postpones_the_persistent_keepalive(make: PairMaker) -> None:
    pair = make(keepalive=25)
    pair.run(1)
    pair.world.flights.clear()
    pair.world.every(8, pair.alice_sends, until=100)
    pair.run(100)
    keepalives = [flight.sender for flight in pair.world.flights if flight.is_keepalive]
    assert set(keepalives) == {"bob"}


def test_another_preshared_key_spares_the_session_and_fails_the_next_handshake(
    make: PairMaker,
) -> None:
    pair = make(preshared=b"1" * 32)
    pair.connect()
    pair.bob.device.set_preshared_key(pair.alice.public, PresharedKey(b"2" * 32))
    pair.world.every(1, pair.alice_sends, until=179)
    pair.run(119.5)
    assert len(pair.bob.delivered) == 120
    assert DropReason.BAD_TAG not in pair.alice.drops
    pair.run(80)
    assert pair.alice.drops[DropReason.BAD_TAG] >= 10
    assert seconds(pair.world.sent(TRANSPORT, "alice"))[-1] <= 180 + SLACK
    tries = seconds(pair.world.sent(INITIATION, "alice"))
    for before, after in pairwise(tries):
        assert 5 <= after - before <= 5 + JITTER + SLACK


def test_a_keepalive_is_not_answered_by_a_keepalive(make: PairMaker) -> None:
    pair = make()
    pair.connect()
    pair.bob_sends()
    pair.run(100)
    assert [(flight.sender, len(flight.datagram)) for flight in pair.world.flights] == [
        ("bob", 64),
        ("alice", 32),
    ]


def test_the_keepalive_comes_ten_seconds_after_the_receipt(make: PairMaker) -> None:
    pair = make()
    pair.connect()
    pair.run(29)
    pair.bob_sends()
    pair.run(5)
    pair.bob_sends()
    pair.run(40)
    (keepalive,) = seconds(pair.world.sent(TRANSPORT, "alice"))
    assert 40 <= keepalive <= 40 + SLACK


def test_an_answer_makes_the_keepalive_needless(make: PairMaker) -> None:
    pair = make()
    pair.connect()
    pair.bob_sends()
    pair.run(9)
    pair.alice_sends()
    pair.run(9)
    assert not any(flight.is_keepalive for flight in pair.world.sent(TRANSPORT, "alice"))


def test_no_two_handshake_messages_of_a_side_are_closer_than_five_seconds_when_it_initiates(
    make: PairMaker,
) -> None:
    pair = make(seed=3)
    pair.world.weather = Weather(latency=20 * MILLISECOND, loss=0.8)
    pair.world.every(0.5, pair.alice_sends, until=600)
    pair.world.every(0.7, pair.bob_sends, until=600)
    pair.run(600)
    for side in ("alice", "bob"):
        messages = [
            flight
            for flight in pair.world.flights
            if flight.sender == side and flight.kind in (INITIATION, RESPONSE)
        ]
        assert len(pair.world.sent(INITIATION, side)) > 5
        for before, after in pairwise(messages):
            if after.kind is INITIATION:
                assert after.at - before.at >= 5 * SECOND - 4 * MILLISECOND


def test_a_responder_that_waited_for_its_first_session_asks_again_when_it_is_old(
    make: PairMaker,
) -> None:
    pair = make()
    confirming = pair.world.hold_next(TRANSPORT, "alice")
    pair.alice_sends()
    pair.run(0.1)
    waiting = pair.bob_sends(b"staged until the session is confirmed")
    pair.run(0.1)
    pair.world.fly(confirming[0], 0)
    pair.run(0.1)
    assert pair.alice.delivered == [waiting]

    pair.run(200)
    packet = pair.bob_sends(b"under a new session")
    pair.run(0.1)
    assert pair.alice.delivered == [waiting, packet]
    assert len(pair.world.sent(INITIATION, "bob")) == 1


def test_after_giving_up_a_live_session_new_data_is_watched_again(make: PairMaker) -> None:
    pair = make()
    pair.connect()
    pair.bob_sends()  # bob is responder: nothing but silence makes him call
    mute(pair, "alice", "bob")
    mute(pair, "bob", "alice")
    pair.run(124)
    assert len(pair.world.sent(INITIATION, "bob")) == 20
    assert pair.bob.notices[-1].kind is NoticeKind.HANDSHAKE_GIVEN_UP
    pair.world.flights.clear()
    pair.run(10)
    assert pair.world.sent(sender="bob") == []

    begin = pair.world.time
    pair.bob_sends()
    pair.run(20)
    assert [flight.kind for flight in pair.world.sent(sender="bob")] == [TRANSPORT, INITIATION]
    (call,) = seconds(pair.world.sent(INITIATION, "bob"), begin)
    assert 15 <= call <= 15 + JITTER + SLACK
