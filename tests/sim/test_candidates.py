"""Several places where a peer may be: the one that answers first is where it is."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from nvpn.errors import DropReason
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.notices import NoticeKind
from nvpn.wire.messages import MessageType
from tests.support.sim import Flight, Pair, Weather

RTT = 40 * MILLISECOND
JITTER = SECOND // 3
LOST = 15 * SECOND  # of silence: then a session counts as lost


class Many(Pair):
    """Bob is reached at three addresses, and Alice knows all of them."""

    def __init__(self, seed: int = 1, *, weather: Weather | None = None, delays: int = 0) -> None:
        super().__init__(seed, weather=weather or Weather(latency=RTT // 2))
        self.places = self.bob.spread("198.51.100.2:1002", "203.0.113.2:1002")
        self.alice.device.set_candidates(self.bob.public, self.places, self.alice.now)
        self.alice.delays = self.bob.delays = delays

    def kill(self, *numbers: int) -> None:
        self.world.dead |= {self.places[number].remote for number in numbers}

    def talk(self) -> None:
        """A packet there and one back: nothing is left to be answered."""
        self.alice_sends()
        self.run(1)
        self.bob_sends()
        self.run(1)
        self.bob.delivered.clear()
        self.world.flights.clear()

    @property
    def where(self) -> Endpoint:
        """Where Alice takes Bob to be."""
        found = self.alice.device.peer_state(self.bob.public).endpoint
        assert found is not None
        return found

    def targets(self, kind: MessageType) -> list[str]:
        return [str(flight.target) for flight in self.world.sent(kind, "alice")]


@pytest.mark.parametrize("alive", [0, 1, 2])
def test_of_three_places_the_one_that_lives_has_a_session_after_one_round_trip(alive: int) -> None:
    pair = Many()
    pair.kill(*{0, 1, 2} - {alive})
    packet = pair.alice_sends()
    pair.world.run_until(pair.world.time + RTT + RTT // 2)
    assert pair.bob.delivered == [packet]
    assert pair.where.remote == pair.places[alive].remote
    assert pair.targets(MessageType.INITIATION) == [*map(str, pair.places)]
    assert set(pair.targets(MessageType.TRANSPORT)) == {str(pair.places[alive])}


def test_copies_are_one_initiation_and_the_first_to_arrive_is_answered() -> None:
    pair = Many()
    pair.alice_sends()
    pair.run(1)
    sent = pair.world.sent(MessageType.INITIATION)
    assert len(sent) == 3 and len({flight.datagram for flight in sent}) == 1
    assert len(pair.world.sent(MessageType.RESPONSE)) == 1
    assert pair.bob.drops == {DropReason.STALE_TIMESTAMP: 2}
    assert pair.alice.drops == {}


def test_a_session_that_lives_is_renewed_where_it_is_and_nowhere_else() -> None:
    pair = Many()
    pair.kill(0)
    pair.world.every(1, pair.alice_sends, until=300)
    pair.world.every(1, pair.bob_sends, until=300)
    pair.run(1)
    pair.world.dead.clear()
    pair.world.flights.clear()
    pair.run(300)
    assert set(pair.targets(MessageType.INITIATION)) == {str(pair.places[1])}
    assert len(pair.targets(MessageType.INITIATION)) >= 2
    assert pair.where.remote == pair.places[1].remote


@pytest.mark.parametrize("delays", [0, 3 * MILLISECOND], ids=["prompt", "lagging"])
def test_when_the_place_dies_another_one_has_the_session_within_fifteen_seconds(
    delays: int,
) -> None:
    pair = Many(delays=delays)
    pair.talk()
    before = pair.where.remote
    pair.world.dead.add(before)
    begin = pair.world.time
    pair.world.every(0.1, pair.alice_sends, until=30)
    pair.world.run_until(begin + LOST + JITTER + RTT + 12 * delays)
    assert pair.where.remote != before
    pair.run(0.2)
    assert pair.bob.delivered


def test_the_place_that_was_left_is_tried_again_when_its_successor_dies() -> None:
    pair = Many()
    pair.kill(1, 2)
    pair.talk()
    pair.world.every(0.5, pair.alice_sends, until=90)
    pair.world.dead.clear()
    pair.kill(0, 2)
    pair.run(17)
    assert pair.where.remote == pair.places[1].remote
    pair.world.dead.clear()
    pair.kill(1, 2)
    pair.bob.delivered.clear()
    pair.run(17)
    assert pair.bob.delivered
    assert pair.where.remote == pair.places[0].remote


def test_a_renewal_that_is_lost_looks_elsewhere_with_its_second_attempt() -> None:
    pair = Many()
    pair.talk()
    pair.run(116)
    pair.kill(0)
    pair.world.every(1, pair.alice_sends, until=20)  # two of them before it is 120 s old
    pair.run(10)
    assert pair.where.remote != pair.places[0].remote
    assert pair.targets(MessageType.INITIATION) == [*map(str, (pair.places[0], *pair.places))]


def test_who_roams_is_not_pulled_back_and_still_found_where_it_was() -> None:
    pair = Many()
    pair.connect()
    pair.bob.move("192.0.2.77:7")
    pair.bob_sends()
    pair.run(1)
    assert str(pair.where) == "192.0.2.77:7"
    pair.alice.device.set_candidates(pair.bob.public, pair.places[:1], pair.alice.now)
    assert str(pair.where) == "192.0.2.77:7"
    pair.world.flights.clear()
    pair.alice_sends()
    assert pair.targets(MessageType.TRANSPORT) == ["192.0.2.77:7"]
    pair.bob.move("192.0.2.2:1002")  # without a word
    pair.world.every(0.5, pair.alice_sends, until=30)
    pair.run(17)
    assert str(pair.where) == "192.0.2.2:1002"


def test_no_data_goes_where_nobody_answered_whatever_the_delays() -> None:
    """Proven: an authentic packet came from there before."""
    moved = 0
    for seed in range(100):
        weather = Weather(latency=5 * MILLISECOND, jitter=300 * MILLISECOND, loss=0.1)
        pair = Restless(seed, weather=weather, delays=2 * MILLISECOND)
        pair.world.every(0.3, pair.alice_sends, until=25)
        pair.world.every(0.7, pair.bob_sends, until=25)
        pair.run(26)
        assert set(pair.targets(MessageType.TRANSPORT)) <= pair.proven, seed
        moved += len(pair.proven) > 1
    assert moved > 10


class Restless(Many):
    """Places come and go; ``proven`` are those that Alice was answered from so far."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.proven: set[str] = set()
        for number, place in enumerate(self.places):
            if self.world.random.random() < 0.3:
                self.kill(number)
            moment = self.world.time + self.world.random.randrange(20 * SECOND)
            self.world.at(moment, functools.partial(self._toggle, place))
        self._receive, self._send = self.alice.receive, self.world.send
        self.alice.receive = self._note  # type: ignore[method-assign]
        self.world.send = self._check  # type: ignore[method-assign]

    def _toggle(self, place: Endpoint) -> None:
        self.world.dead ^= {place.remote}

    def _note(self, datagram: bytes, source: Endpoint, *, at: Endpoint | None = None) -> None:
        self.proven.add(str(source))
        self._receive(datagram, source, at=at)

    def _check(self, flight: Flight) -> None:
        if flight.sender == "alice" and flight.kind is MessageType.TRANSPORT:
            assert str(flight.target) in self.proven, self.world
        self._send(flight)


@pytest.mark.parametrize("delays", [0, 3 * MILLISECOND], ids=["prompt", "lagging"])
def test_crossing_initiations_with_several_places_on_both_sides_settle_in_one_session(
    delays: int,
) -> None:
    for seed in range(60):
        pair = Many(seed, weather=Weather(latency=5 * MILLISECOND, jitter=60 * MILLISECOND))
        places = pair.alice.spread("198.51.100.1:1001", "203.0.113.1:1001")
        pair.bob.device.set_candidates(pair.alice.public, places, pair.bob.now)
        pair.alice.delays = pair.bob.delays = delays
        begin = pair.world.time
        pair.world.at(begin, pair.alice_sends)
        pair.world.at(begin + pair.world.random.randrange(100 * MILLISECOND), pair.bob_sends)
        pair.world.run_until(begin + 400 * MILLISECOND)
        assert pair.alice.delivered and pair.bob.delivered, seed
        pair.run(2)
        (left,), (right,) = pair.alice.core.peers.values(), pair.bob.core.peers.values()
        here, there = left.slots.current, right.slots.current
        assert here is not None and there is not None
        assert (here.our_index, here.their_index) == (there.their_index, there.our_index), seed


def test_a_cookie_from_any_place_is_kept_and_the_next_attempt_shows_it() -> None:
    pair = Many()
    pair.kill(0, 1)
    pair.bob.core._admission._loaded_until = pair.world.time + 8 * SECOND
    packet = pair.alice_sends()
    pair.run(0.1)
    assert len(pair.world.sent(MessageType.COOKIE_REPLY, "bob")) == 1
    assert str(pair.where) == "192.0.2.2:1002", "a cookie proves nothing"
    pair.run(6)
    assert pair.bob.delivered == [packet]
    assert pair.where.remote == pair.places[2].remote


def test_a_peer_that_is_nowhere_is_at_the_first_of_its_places() -> None:
    pair = Many()
    pair.alice.device.set_endpoint(pair.bob.public, None, pair.alice.now)
    pair.alice.device.set_candidates(pair.bob.public, pair.places[1:], pair.alice.now)
    assert pair.where.remote == pair.places[1].remote


def test_somebody_is_told_once_that_two_attempts_had_no_answer() -> None:
    pair = Many()
    pair.kill(0, 1, 2)
    pair.alice_sends()
    pair.run(9)
    assert pair.alice.notices == []
    pair.run(3)
    assert [notice.kind for notice in pair.alice.notices] == [NoticeKind.HANDSHAKE_UNANSWERED]
    pair.run(60)
    assert len(pair.alice.notices) == 1
    pair.world.dead.clear()
    pair.run(6)
    pair.talk()
    pair.kill(0, 1, 2)
    pair.alice.notices.clear()
    pair.world.every(1, pair.alice_sends, until=40)
    pair.run(40)
    assert [notice.kind for notice in pair.alice.notices] == [NoticeKind.HANDSHAKE_UNANSWERED]
