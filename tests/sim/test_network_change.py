"""A new network, or the end of a sleep: sessions are sought anew at once, and not too often."""

from __future__ import annotations

import pytest

from nvpn.errors import DropReason
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.notices import NoticeKind
from nvpn.wire.messages import MessageType
from tests.support.sim import Host, Pair, Weather

RTT = 40 * MILLISECOND
INITIATION = MessageType.INITIATION


def connected(**options: object) -> Pair:
    pair = Pair(weather=Weather(latency=RTT // 2), **options)  # type: ignore[arg-type]
    pair.connect()
    pair.run(10)
    pair.world.flights.clear()
    pair.alice.notices.clear()
    return pair


def renew(host: Host) -> int:
    """Tell a host that its network changed; how many initiations that made."""
    made = sum(host.device.renew(peer, host.now) for peer in host.device.peers())
    host.turn()
    return made


def place_of(host: Host, other: Host) -> str:
    return str(host.device.peer_state(other.public).endpoint)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_who_has_moved_speaks_first_whoever_began_the_session(who: str) -> None:
    pair = connected()
    mover, other = (pair.alice, pair.bob) if who == "alice" else (pair.bob, pair.alice)
    mover.move("198.51.100.9:9")
    assert renew(mover) == 1
    pair.world.run_until(pair.world.time + RTT)
    assert place_of(other, mover) == "198.51.100.9:9"
    assert [notice.kind for notice in mover.notices][-1] is NoticeKind.HANDSHAKE_COMPLETED
    packet = pair.bob_sends() if who == "alice" else pair.alice_sends()
    pair.run(0.1)
    assert mover.delivered[-1] == packet


def test_a_handshake_a_moment_ago_is_no_reason_to_wait() -> None:
    pair = Pair(weather=Weather(latency=RTT // 2))
    pair.alice_sends()
    pair.run(0.2)
    pair.world.flights.clear()
    assert renew(pair.alice) == 1
    assert len(pair.world.sent(INITIATION)) == 1


def test_a_session_of_this_very_moment_is_good_enough() -> None:
    pair = Pair(weather=Weather(latency=RTT // 2))
    pair.alice_sends()
    pair.run(0.1)
    assert renew(pair.alice) == renew(pair.bob) == 0


def test_who_has_no_session_and_wants_none_is_left_in_peace() -> None:
    pair = Pair()
    assert renew(pair.alice) == renew(pair.bob) == 0
    pair.run(1)
    assert pair.world.flights == []


def test_an_attempt_that_is_under_way_is_made_anew_at_once() -> None:
    pair = Pair(weather=Weather(latency=RTT // 2))
    pair.world.dead.add(pair.bob.outer.remote)
    packet = pair.alice_sends()
    pair.run(1)
    pair.world.dead.clear()
    assert renew(pair.alice) == 1
    pair.run(0.1)
    assert pair.bob.delivered == [packet]


def test_an_initiation_that_has_just_left_gets_a_moment_before_the_next() -> None:
    """Made anew at once it would be too soon for the peer, and the first one's answer in vain."""
    pair = Pair(weather=Weather(latency=RTT // 2))
    packet = pair.alice_sends()
    pair.world.run_until(pair.world.time + 5 * MILLISECOND)
    assert renew(pair.alice) == 0
    pair.run(0.3)
    assert pair.bob.delivered == [packet]

    # If that goes astray, the next comes as soon as it is of use.
    pair = Pair(weather=Weather(latency=RTT // 2))
    pair.world.dead.add(pair.bob.outer.remote)
    packet = pair.alice_sends()
    pair.world.run_until(pair.world.time + 30 * MILLISECOND)
    pair.world.dead.clear()
    assert renew(pair.alice) == 0
    pair.run(0.3)
    assert pair.bob.delivered == [packet]


def test_who_is_to_be_kept_awake_is_sought() -> None:
    pair = Pair(weather=Weather(latency=RTT // 2))
    pair.world.dead.add(pair.bob.outer.remote)
    pair.alice.device.set_persistent_keepalive(pair.bob.public, 25, pair.alice.now)
    pair.alice.turn()
    pair.run(100)  # given up
    while pair.alice.device.peer_state(pair.bob.public).attempts:
        pair.run(1)
    pair.world.dead.clear()
    assert renew(pair.alice) == 1


def test_a_flapping_interface_makes_no_flood() -> None:
    pair = connected()
    pair.world.dead.add(pair.bob.outer.remote)
    for _ in range(60):
        renew(pair.alice)
        pair.run(1)
    sent = [flight.at for flight in pair.world.sent(INITIATION)]
    assert len([at for at in sent if at < sent[0] + SECOND * 5]) <= 3
    # One in five seconds for the changes, beside the one of an attempt that is not answered.
    assert len(sent) <= 2 + 2 * 60 // 5


def test_an_old_network_that_goes_just_before_the_new_one_comes_costs_no_time() -> None:
    pair = connected()
    pair.world.dead.add(pair.bob.outer.remote)
    assert renew(pair.alice) == 1  # into the void
    pair.run(2)
    pair.world.dead.clear()
    pair.alice.move("198.51.100.9:9")
    assert renew(pair.alice) == 1
    pair.world.run_until(pair.world.time + RTT)
    assert place_of(pair.bob, pair.alice) == "198.51.100.9:9"


def test_traffic_goes_on_while_the_session_is_renewed() -> None:
    pair = connected()
    pair.world.every(0.01, pair.alice_sends, until=4)
    pair.world.every(0.01, pair.bob_sends, until=4)
    pair.run(1)
    renew(pair.alice)
    renew(pair.bob)
    pair.run(4)
    assert len(pair.bob.delivered) == len(pair.alice.delivered) == 401


def test_after_a_long_sleep_nothing_is_sent_under_the_old_keys() -> None:
    pair = connected()
    pair.alice.suspend(200)
    pair.run(200)
    packet = pair.alice_sends()
    assert [flight.kind for flight in pair.world.sent(sender="alice")] == [INITIATION]
    pair.run(0.1)
    assert pair.bob.delivered[-1] == packet


def test_a_longer_one_ends_with_the_keys_erased() -> None:
    pair = connected()
    pair.alice.suspend(600)
    pair.run(600)
    assert NoticeKind.SESSION_EXPIRED in [notice.kind for notice in pair.alice.notices]
    assert pair.alice.device.peer_state(pair.bob.public).session_born_at is None
    assert not any(peer.slots.current for peer in pair.alice.core.peers.values())
    assert renew(pair.alice) == 0


def test_a_short_sleep_is_followed_by_a_new_session_at_once() -> None:
    pair = connected()
    pair.alice.suspend(60)
    pair.run(60)
    assert renew(pair.alice) == 1
    pair.world.run_until(pair.world.time + RTT)
    assert [notice.kind for notice in pair.alice.notices] == [NoticeKind.HANDSHAKE_COMPLETED]
    assert DropReason.TOO_SOON not in pair.bob.drops


def test_who_cannot_send_is_not_sought() -> None:
    pair = connected()
    pair.alice.device.set_endpoint(pair.bob.public, None, pair.alice.now)
    assert renew(pair.alice) == 0
    pair.bob.device.bring_down(pair.bob.now)
    assert renew(pair.bob) == 0
