"""What somebody who can see, repeat and forge datagrams gains: nothing that lasts."""

from __future__ import annotations

import pytest

from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.wire.messages import CookieReply, MessageType
from tests.support.sim import Pair

ATTACKER = Endpoint.parse("203.0.113.66:666")


def remote_of(pair: Pair) -> tuple[bytes, int, int, int]:
    """Where alice believes bob to be."""
    endpoint = pair.alice.device.peer_state(pair.bob.public).endpoint
    assert endpoint is not None
    return endpoint.remote


def test_the_greatest_timestamp_outlives_the_link_going_down() -> None:
    pair = Pair(7)
    pair.alice_sends()
    pair.run(1)
    (initiation,) = pair.world.sent(MessageType.INITIATION)
    pair.bob.device.bring_down(pair.bob.now)
    pair.bob.turn()
    pair.bob.device.bring_up(pair.bob.now)
    pair.bob.turn()
    pair.bob.receive(initiation.datagram, ATTACKER)
    assert pair.bob.drops == {DropReason.STALE_TIMESTAMP: 1}


def test_the_greatest_timestamp_outlives_other_changes_of_the_peer() -> None:
    pair = Pair(7)
    pair.alice_sends()
    pair.run(1)
    (initiation,) = pair.world.sent(MessageType.INITIATION)
    pair.bob.device.set_preshared_key(pair.alice.public, None)
    pair.bob.device.set_endpoint(pair.alice.public, pair.alice.outer, pair.bob.now)
    pair.run(600)  # the keys are erased meanwhile
    pair.bob.receive(initiation.datagram, ATTACKER)
    assert pair.bob.drops == {DropReason.STALE_TIMESTAMP: 1}


def test_a_cookie_from_anywhere_moves_no_endpoint_and_sends_nothing() -> None:
    pair = Pair(7)
    pair.bob.core._admission._loaded_until = pair.world.time + 3 * SECOND
    pair.alice_sends()
    held = pair.world.hold_next(MessageType.COOKIE_REPLY)
    pair.run(0.1)
    (reply,) = held
    before, sent = remote_of(pair), len(pair.world.flights)
    pair.alice.receive(reply.datagram, ATTACKER)
    pair.run(4.9)
    assert not pair.alice.drops, "it was good"
    assert remote_of(pair) == before
    assert len(pair.world.flights) == sent, "the cookie waits for the next try"


def test_a_genuine_response_through_an_attacker_moves_the_endpoint_until_bob_is_heard() -> None:
    pair = Pair(7)
    pair.alice_sends()
    held = pair.world.hold_next(MessageType.RESPONSE)
    pair.run(0.1)
    pair.alice.receive(held[0].datagram, ATTACKER)
    assert remote_of(pair) == ATTACKER.remote, "as of any authentic message"
    pair.bob.receive(pair.world.flights[-1].datagram, pair.alice.outer)
    pair.bob_sends()
    pair.run(0.1)
    assert remote_of(pair) == pair.bob.outer.remote


def test_repeated_data_moves_no_endpoint_and_is_delivered_once() -> None:
    pair = Pair(7)
    pair.connect()
    packet = pair.bob_sends()
    pair.run(0.1)
    delivered, before = list(pair.alice.delivered), remote_of(pair)
    data = pair.world.sent(MessageType.TRANSPORT, "bob")[-1]
    for _ in range(10):
        pair.alice.receive(data.datagram, ATTACKER)
    assert pair.alice.delivered == delivered
    assert delivered.count(packet) == 1
    assert pair.alice.drops == {DropReason.REPLAYED: 10}
    assert remote_of(pair) == before


@pytest.mark.parametrize("index", [0, 1, 0xFFFFFFFF])
def test_a_flood_of_cookie_replies_does_not_keep_a_handshake_waiting(index: int) -> None:
    pair = Pair(7)
    for _ in range(3000):
        pair.bob.core.receive(
            CookieReply(index, bytes(24), bytes(32)).pack(), ATTACKER, pair.world.time
        )
    packet = pair.alice_sends()
    pair.run(0.5)
    assert pair.bob.delivered == [packet]
    assert not pair.world.sent(MessageType.COOKIE_REPLY), "nobody had to prove anything"
