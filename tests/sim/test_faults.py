"""Forgeries, restarts, clocks that jump, randomness that fails."""

from __future__ import annotations

import random

import pytest

from nvpn.errors import DropReason
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import NoticeKind
from nvpn.protocol.tai64n import TimestampSource
from nvpn.wire.crypto import mac, mac1_key
from nvpn.wire.messages import CookieReply, MessageType, Response
from tests.support.sim import Host, Pair, World, inner

YEAR = 365 * 86_400 * SECOND
HOUR = 3_600 * SECOND


def forged_response(pair: Pair, to: int, seed: int = 1) -> bytes:
    """What anybody can make who saw alice's index and knows her public key."""
    rng = random.Random(seed)
    body = Response(1234, to, rng.randbytes(32), rng.randbytes(16)).pack()[:-32]
    return body + mac(mac1_key(pair.alice.public), body) + bytes(16)


def test_a_forged_response_does_not_end_a_handshake() -> None:
    pair = Pair(7)
    packet = pair.alice_sends()
    held = pair.world.hold_next(MessageType.RESPONSE)
    pair.run(0.1)
    (genuine,) = held

    pair.alice.receive(
        forged_response(pair, int.from_bytes(genuine.datagram[8:12], "little")), genuine.source
    )
    assert pair.alice.drops == {DropReason.BAD_TAG: 1}
    pair.world.fly(genuine, 0)
    pair.run(0.1)
    assert pair.bob.delivered == [packet]


def test_responses_to_nobody_and_to_a_session_are_counted_and_change_nothing() -> None:
    pair = Pair(7)
    pair.connect()
    index = next(iter(pair.alice.core.receivers))
    pair.alice.receive(forged_response(pair, to=index), pair.bob.outer)
    pair.alice.receive(forged_response(pair, to=index ^ 1), pair.bob.outer)
    assert pair.alice.drops == {DropReason.NOT_EXPECTED: 1, DropReason.UNKNOWN_INDEX: 1}
    assert pair.world.flights == []


def test_a_second_copy_of_the_response_is_not_expected() -> None:
    pair = Pair(7)
    pair.alice_sends()
    pair.run(0.1)
    (response,) = pair.world.sent(MessageType.RESPONSE)
    pair.alice.receive(response.datagram, response.source)
    assert pair.alice.drops == {DropReason.NOT_EXPECTED: 1}


def test_a_replayed_initiation_is_dropped_in_silence_and_moves_no_endpoint() -> None:
    pair = Pair(7)
    pair.alice_sends()
    pair.run(1)
    (initiation,) = pair.world.sent(MessageType.INITIATION)
    sent = len(pair.world.flights)
    pair.bob.receive(initiation.datagram, Endpoint.parse("203.0.113.9:9"))
    assert pair.bob.drops == {DropReason.STALE_TIMESTAMP: 1}
    assert len(pair.world.flights) == sent
    state = pair.bob.device.peer_state(pair.alice.public)
    assert state.endpoint is not None and state.endpoint.remote == pair.alice.outer.remote


def test_initiations_closer_than_20_ms_are_dropped() -> None:
    pair = Pair(7)
    pair.alice_sends()
    for _ in range(3):
        # The rate limit of our own side is not what is tried here.
        pair.alice.device._peers[pair.bob.public]._negotiation.allow_at_once()
        pair.alice.device._peers[pair.bob.public]._negotiation.wanted = False
        pair.alice.device.initiate(pair.bob.public, pair.alice.now)
        pair.alice.turn()
    pair.run(0.5)
    assert len(pair.world.sent(MessageType.INITIATION)) == 4
    assert pair.bob.drops == {DropReason.TOO_SOON: 3}
    assert len(pair.world.sent(MessageType.RESPONSE)) == 1


def test_a_strangers_initiation_meets_silence() -> None:
    pair = Pair(7)
    stranger = Host(pair.world, "eve", "192.0.2.66:66")
    stranger.meet(pair.bob, "10.0.0.2/32")
    stranger.send(inner("10.0.0.6", "10.0.0.2"))
    pair.run(1)
    assert pair.bob.drops == {DropReason.UNKNOWN_PEER: 1}
    assert pair.world.sent(sender="bob") == []


def test_back_to_back_initiations_leak_no_index() -> None:
    pair = Pair(7)
    pair.world.blocked.add(("bob", "alice"))
    for _ in range(50):
        pair.alice_sends()
        pair.run(20)
    assert len(pair.world.sent(MessageType.INITIATION)) > 100
    assert len(pair.bob.core.receivers) == 1
    assert len(pair.bob.device._context.indices) == 1
    assert len(pair.alice.device._context.indices) <= 1


def test_indices_are_unique_over_the_device_and_free_again_with_the_peer() -> None:
    pair = Pair(7)
    pair.connect()
    indices = pair.bob.device._context.indices
    assert len(indices) == 1
    pair.bob.device.remove_peer(pair.alice.public, pair.bob.now)
    pair.bob.turn()
    assert len(indices) == 0
    assert not pair.bob.core.receivers and not pair.bob.core.peers


def test_an_initiator_that_restarts_is_back_at_once() -> None:
    pair = Pair(7)
    pair.connect()
    pair.run(30)
    pair.alice.restart()
    pair.alice.meet(pair.bob, "10.0.0.2/32")
    packet = pair.alice_sends(b"after the restart")
    pair.run(0.1)
    assert pair.bob.delivered == [packet]


def test_a_responder_that_restarts_is_found_again_within_16_seconds() -> None:
    pair = Pair(7)
    pair.connect()
    pair.world.every(0.5, pair.alice_sends, until=60)
    pair.run(10.1)
    pair.bob.restart()
    pair.bob.meet(pair.alice, "10.0.0.1/32", endpoint=False)
    pair.run(16)
    assert pair.bob.delivered


def test_a_responder_that_remembers_its_peer_is_back_at_once() -> None:
    pair = Pair(7)
    pair.connect()
    pair.run(10)
    pair.bob.restart()
    pair.bob.meet(pair.alice, "10.0.0.1/32")
    pair.bob.device.initiate(pair.alice.public, pair.bob.now)
    pair.bob.turn()
    pair.run(0.1)
    packet = pair.alice_sends(b"after the restart")
    pair.run(0.1)
    assert pair.bob.delivered == [packet]


@pytest.mark.parametrize("delays", [0, 3 * MILLISECOND], ids=["prompt", "lagging"])
def test_a_peer_that_moves_is_answered_at_its_new_place(delays: int) -> None:
    pair = Pair(7, delays=delays)
    pair.connect()
    pair.alice.move("198.51.100.7:4242")
    pair.alice_sends(b"from elsewhere")
    pair.run(0.1)
    packet = pair.bob_sends(b"to elsewhere")
    pair.run(0.1)
    assert pair.alice.delivered == [packet]
    roamed = [notice for notice in pair.bob.notices if notice.kind is NoticeKind.ROAMED]
    assert [notice.endpoint.remote for notice in roamed] == [pair.alice.outer.remote]
    state = pair.bob.device.peer_state(pair.alice.public)
    assert state.endpoint is not None and state.endpoint.remote == pair.alice.outer.remote


def test_an_initiation_from_elsewhere_moves_the_peer_too() -> None:
    pair = Pair(7)
    pair.connect()
    pair.run(200)
    pair.alice.move("198.51.100.7:4242")
    pair.alice_sends(b"from elsewhere")
    pair.run(0.1)
    assert [notice.kind for notice in pair.bob.notices] == [
        NoticeKind.HANDSHAKE_COMPLETED,
        NoticeKind.ROAMED,
        NoticeKind.HANDSHAKE_COMPLETED,
    ]


def test_a_configured_endpoint_wins_over_what_was_learned_before() -> None:
    pair = Pair(7)
    pair.connect()
    elsewhere = Endpoint.parse("203.0.113.5:5")
    pair.bob.device.set_endpoint(pair.alice.public, elsewhere, pair.bob.now)
    pair.bob.turn()
    pair.bob_sends()
    assert pair.world.flights[-1].target.remote == elsewhere.remote


# --- clocks ---------------------------------------------------------------------------


def test_a_clock_that_goes_back_locks_nobody_out() -> None:
    pair = Pair(7)
    pair.connect()
    pair.alice.wall_offset = -HOUR
    pair.run(200)
    packet = pair.alice_sends(b"an hour ago")
    pair.run(0.1)
    assert pair.bob.delivered == [packet]


def test_a_clock_that_was_ten_years_ahead_locks_nobody_out_even_over_a_restart() -> None:
    timestamps = TimestampSource()
    pair = Pair(7, timestamps=timestamps)
    pair.alice.wall_offset = 10 * YEAR
    pair.connect()
    pair.alice.wall_offset = 0
    pair.run(200)
    pair.alice_sends(b"right again")
    pair.run(0.1)
    assert len(pair.bob.delivered) == 1

    pair.alice._timestamps = TimestampSource(timestamps.last)
    pair.alice.restart()
    pair.alice.meet(pair.bob, "10.0.0.2/32")
    pair.alice_sends(b"after a restart")
    pair.run(0.1)
    assert len(pair.bob.delivered) == 2


@pytest.mark.parametrize("asleep", [1, 170, 600, 36_000])
def test_after_a_suspend_the_first_packet_passes_at_once(asleep: int) -> None:
    pair = Pair(7)
    pair.connect()
    pair.alice.suspend(asleep)
    pair.run(asleep + 0.001)
    before = len(pair.world.sent(MessageType.INITIATION))
    packet = pair.alice_sends(b"awake")
    pair.run(0.1)
    assert pair.bob.delivered == [packet]
    renewed = len(pair.world.sent(MessageType.INITIATION)) - before
    assert renewed == (1 if asleep >= 120 else 0)


# --- randomness, keys -----------------------------------------------------------------


class Randomness:
    def __init__(self) -> None:
        self.works = True
        self._rng = random.Random(3)

    def __call__(self, size: int) -> bytes:
        if not self.works:
            raise BlockingIOError("no entropy yet")
        return self._rng.randbytes(size)


def test_without_randomness_there_is_no_handshake_until_it_works() -> None:
    rng = Randomness()
    pair = Pair(7, rng=rng)
    rng.works = False
    packet = pair.alice_sends()
    pair.run(12)
    assert pair.world.flights == []
    assert pair.alice.drops[DropReason.HANDSHAKE_FAILED] == 3
    rng.works = True
    pair.run(6)
    assert pair.bob.delivered == [packet]


def test_without_randomness_nothing_is_answered() -> None:
    rng = Randomness()
    pair = Pair(7, rng=rng)
    rng.works = False
    pair.bob_sends()
    pair.run(1)
    assert pair.world.sent(sender="alice") == []
    assert pair.alice.drops == {DropReason.HANDSHAKE_FAILED: 1}
    rng.works = True
    pair.run(6)
    assert pair.alice.delivered


def test_a_device_that_starts_without_randomness_lets_people_in_later() -> None:
    rng = Randomness()
    rng.works = False
    pair = Pair(7, rng=rng)
    pair.bob_sends()
    pair.run(1)
    assert pair.alice.drops == {DropReason.NOT_EXPECTED: 1}
    rng.works = True
    pair.run(15)
    assert pair.alice.delivered


def test_a_key_with_which_no_secret_can_be_shared_is_never_called() -> None:
    pair = Pair(7)
    weak = PublicKey(bytes(32))
    pair.alice.device.add_peer(weak)
    pair.alice.device.set_endpoint(weak, Endpoint.parse("192.0.2.7:7"), pair.alice.now)
    pair.alice.device.set_persistent_keepalive(weak, 1, pair.alice.now)
    pair.alice.turn()
    pair.run(30)
    assert pair.world.flights == []
    assert pair.alice.drops == {DropReason.WEAK_KEY: 1}


def test_a_new_private_key_stops_sending_and_allows_a_handshake_at_once() -> None:
    pair = Pair(7)
    pair.connect()
    new = Host(World(99), "carol", "192.0.2.9:9").key
    pair.bob.device.add_peer(new.public())
    pair.bob.turn()
    pair.alice.device.set_private_key(new, pair.alice.now)
    pair.alice.turn()
    packet = pair.bob_sends(b"still under the old session")
    pair.run(0.1)
    assert pair.alice.delivered == [packet]

    pair.alice_sends(b"as somebody else")
    pair.run(0.1)
    assert pair.world.flights[-3].kind is MessageType.INITIATION
    completed = [n for n in pair.bob.notices if n.kind is NoticeKind.HANDSHAKE_COMPLETED]
    assert completed[-1].peer == new.public()


def test_a_handshake_under_way_begins_anew_with_a_new_private_key() -> None:
    pair = Pair(7)
    pair.alice_sends()
    new = Host(World(99), "carol", "192.0.2.9:9").key
    pair.alice.device.set_private_key(new, pair.alice.now)
    pair.alice.turn()
    assert len(pair.world.sent(MessageType.INITIATION)) == 2
    pair.alice.device.set_private_key(None, pair.alice.now)
    pair.alice.turn()
    pair.run(30)
    assert len(pair.world.sent(MessageType.INITIATION)) == 2


# --- load -----------------------------------------------------------------------------


def test_under_load_a_cookie_is_fetched_and_shown_with_the_next_try() -> None:
    pair = Pair(7)
    pair.bob.core._admission._loaded_until = pair.world.time + 8 * SECOND
    packet = pair.alice_sends()
    pair.run(1)
    assert [f.kind for f in pair.world.flights] == [
        MessageType.INITIATION,
        MessageType.COOKIE_REPLY,
    ]
    pair.run(5)
    assert pair.bob.delivered == [packet]
    retry = pair.world.sent(MessageType.INITIATION)[1]
    assert retry.datagram[-16:] != bytes(16)
    assert 5 * SECOND <= retry.at - pair.world.flights[0].at <= 5.4 * SECOND


def test_forged_and_repeated_cookies_change_nothing() -> None:
    pair = Pair(7)
    pair.bob.core._admission._loaded_until = pair.world.time + 8 * SECOND
    pair.alice_sends()
    (initiation,) = pair.world.flights
    forged = CookieReply(initiation.sender_index, bytes(24), bytes(32)).pack()
    pair.alice.receive(forged, pair.bob.outer)
    assert pair.alice.drops == {DropReason.BAD_TAG: 1}
    pair.run(0.1)
    cookie = pair.world.flights[-1]
    pair.alice.receive(cookie.datagram, cookie.source)
    assert pair.alice.drops == {DropReason.BAD_TAG: 1, DropReason.NOT_EXPECTED: 1}


def test_the_cookie_secret_changes_with_a_message_after_two_minutes_and_wakes_nobody() -> None:
    pair = Pair(7)
    pair.connect()
    before = pair.bob.core._admission._secret
    pair.run(130)
    assert pair.bob.core._admission._secret == before
    pair.alice_sends()
    pair.run(1)
    assert pair.bob.core._admission._secret != before
