from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.channel.messages import Goodbye, GoodbyeReason
from nvpn.daemon.connections import Connections
from nvpn.daemon.events import (
    Event,
    EventBus,
    Leased,
    PeerConnected,
    PeerDisconnected,
    Roamed,
)
from nvpn.daemon.presence import SESSION_NS, Presence
from nvpn.model.changes import Owner
from nvpn.model.clock import SECOND, Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot
from tests.support.scenarios import A, B, C

BEGIN = 1_700_000_000
HERE, THERE = Endpoint.parse("192.0.2.1:51820"), Endpoint.parse("198.51.100.2:4711")
PREFIXES = (Prefix.parse("10.8.0.2/32"),)


def at(second: float) -> Now:
    return Now(int(second * SECOND), int((BEGIN + second) * SECOND))


# --- presence ---------------------------------------------------------------------------


def test_a_peer_is_connected_until_its_last_session_is_dead() -> None:
    presence = Presence()
    assert presence.next_timeout() is None
    assert presence.shook_hands(A, at(0).wall, at(0))
    assert not presence.shook_hands(A, at(120).wall, at(120))
    assert presence.expire(at(180)) == []
    assert A in presence
    assert presence.next_timeout() == at(300).boot
    assert presence.expire(at(299.9)) == []
    assert presence.expire(at(300)) == [A]
    assert (A in presence, len(presence), presence.next_timeout()) == (False, 0, None)
    assert presence.shook_hands(A, at(400).wall, at(400))


def test_a_session_that_was_there_before_us_lives_for_the_rest_of_its_time() -> None:
    presence = Presence()
    assert presence.shook_hands(A, at(0).wall, at(0))
    assert presence.shook_hands(B, at(-170).wall, at(0))
    assert not presence.shook_hands(C, at(-180).wall, at(0))
    assert presence.next_timeout() == at(10).boot
    assert presence.expire(at(10)) == [B]
    assert C not in presence


def test_a_clock_that_was_set_back_makes_no_session_longer() -> None:
    presence = Presence()
    presence.shook_hands(A, at(5000).wall, at(0))
    assert presence.expire(at(180)) == [A]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B, C]), st.integers(0, 200), st.integers(0, 300), st.booleans()
        ),
        max_size=40,
    )
)
def test_at_every_instant_those_are_connected_whose_session_lives(
    steps: list[tuple[PublicKey, int, int, bool]],
) -> None:
    presence = Presence()
    until: dict[PublicKey, int] = {}
    second = 0
    for peer, pause, age, leaves in steps:
        second += pause
        now = at(second)
        gone = {one for one, end in until.items() if end <= now.boot}
        assert set(presence.expire(now)) == gone
        for one in gone:
            del until[one]
        if leaves:
            assert presence.leave(peer) is (until.pop(peer, None) is not None)
        elif age * SECOND < SESSION_NS:
            assert presence.shook_hands(peer, at(second - age).wall, now) is (peer not in until)
            until[peer] = max(until.get(peer, 0), now.boot - age * SECOND + SESSION_NS)
        assert set(presence) == set(until)
        earliest = presence.next_timeout()
        assert not until or (earliest is not None and earliest <= min(until.values()))


# --- events -----------------------------------------------------------------------------


class Scene:
    """Connections over peers that a test invents, and a clock that it sets."""

    def __init__(self) -> None:
        self.now = at(0)
        self.known = {A: PeerSnapshot(A, name="laptop", endpoint=HERE, allowed_ips=PREFIXES)}
        self.events: list[Event] = []
        self.alarm_at: int | None = None
        self.bus = EventBus()
        # For the alarm, which is ours.
        loop = asyncio.new_event_loop()
        loop.close()
        self.connections = Connections(
            self,
            self.bus,
            loop,
            clocks=lambda: self.now,
            alarm=lambda loop, fire: self._take(fire),
        )
        self.bus.listen(self.events.append)

    def _take(self, fire: Callable[[], None]) -> Scene:
        self.fire = fire
        return self

    # Peers
    def peer(self, peer: PublicKey) -> PeerSnapshot | None:
        return self.known.get(peer)

    def subscribe(self, listener: Callable[[Notice], None]) -> None:
        self.tell = listener

    # Alarm
    def set(self, at: int | None) -> None:
        self.alarm_at = at

    def close(self) -> None:
        self.alarm_at = None

    def notice(self, kind: NoticeKind, second: float, endpoint: Endpoint | None = HERE) -> None:
        self.now = at(second)
        self.tell(Notice(kind, A, self.now.wall, endpoint))

    def wait_until(self, second: float) -> None:
        self.now = at(second)
        while self.alarm_at is not None and self.alarm_at <= self.now.boot:
            self.fire()

    def told(self) -> list[Event]:
        events = list(self.events)
        self.events.clear()
        return events


COMPLETED = NoticeKind.HANDSHAKE_COMPLETED


def gone(why: str, endpoint: Endpoint = HERE) -> PeerDisconnected:
    return PeerDisconnected(A, "laptop", endpoint, PREFIXES, why)


def test_a_peer_comes_with_its_first_handshake_and_goes_when_it_is_silent() -> None:
    scene = Scene()
    scene.notice(COMPLETED, 0)
    assert scene.told() == [PeerConnected(A, "laptop", HERE, PREFIXES)]
    scene.notice(COMPLETED, 120)
    scene.wait_until(299)
    assert scene.told() == []
    scene.wait_until(300)
    assert scene.told() == [gone("silent")]
    scene.notice(COMPLETED, 1000)
    assert scene.told() == [PeerConnected(A, "laptop", HERE, PREFIXES)]


def test_only_a_connected_peer_roams() -> None:
    scene = Scene()
    scene.notice(NoticeKind.ROAMED, 0, THERE)
    assert scene.told() == []
    scene.notice(COMPLETED, 0)
    scene.notice(NoticeKind.ROAMED, 5, THERE)
    assert scene.told()[1:] == [Roamed(A, "laptop", THERE)]


def test_who_roams_with_every_packet_crowds_out_nobody_and_is_told_of_in_the_end() -> None:
    scene = Scene()
    scene.notice(COMPLETED, 0)
    scene.told()
    for number in range(1000):
        scene.notice(NoticeKind.ROAMED, number / 1000, (THERE, HERE)[number % 2])
    assert len(scene.told()) == 10
    scene.notice(NoticeKind.ROAMED, 1, THERE)
    scene.notice(COMPLETED, 100, HERE)
    scene.notice(COMPLETED, 101, THERE)
    scene.notice(COMPLETED, 102, THERE)
    assert scene.told() == [Roamed(A, "laptop", THERE)]


@pytest.mark.parametrize(
    ("kind", "why"),
    [(NoticeKind.HANDSHAKE_GIVEN_UP, "unanswered"), (NoticeKind.SESSION_ENDED, "link down")],
)
def test_what_ends_a_session_ends_the_connection(kind: NoticeKind, why: str) -> None:
    scene = Scene()
    scene.notice(kind, 0)
    assert scene.told() == []
    scene.notice(COMPLETED, 0)
    scene.notice(NoticeKind.HANDSHAKE_UNANSWERED, 50)
    scene.notice(kind, 90)
    scene.notice(kind, 91)
    scene.wait_until(1000)
    assert scene.told()[1:] == [gone(why)]


def test_a_peer_that_was_removed_is_told_of_as_it_was() -> None:
    scene = Scene()
    scene.notice(COMPLETED, 0)
    scene.notice(NoticeKind.ROAMED, 5, THERE)
    del scene.known[A]
    scene.notice(NoticeKind.SESSION_ENDED, 10)
    assert scene.told()[2:] == [gone("removed", THERE)]


def test_addresses_that_a_peer_got_later_are_told_when_it_goes() -> None:
    scene = Scene()
    scene.known[A] = replace(scene.known[A], allowed_ips=())
    scene.notice(COMPLETED, 0)
    scene.known[A] = replace(scene.known[A], allowed_ips=PREFIXES)
    scene.connections.goodbye(A)
    scene.connections.goodbye(A)
    assert scene.told()[1:] == [gone("goodbye")]


def test_a_client_is_connected_when_it_has_its_lease_and_a_guest_never_is() -> None:
    scene = Scene()
    leased = scene.known[A]
    scene.known[A] = replace(leased, owner=Owner.LEASE, allowed_ips=())
    scene.notice(COMPLETED, 0)
    assert (scene.told(), len(scene.connections), A in scene.connections) == ([], 0, False)
    scene.bus.publish(Leased(A, "laptop", PREFIXES))
    assert scene.told() == [
        PeerConnected(A, "laptop", HERE, PREFIXES),
        Leased(A, "laptop", PREFIXES),
    ]
    assert A in scene.connections
    # Its lease has ended by the time it goes.
    scene.connections.goodbye(A)
    assert scene.told() == [gone("goodbye")]
    scene.notice(COMPLETED, 1)
    scene.connections.goodbye(A)
    scene.bus.publish(Leased(A, "laptop", PREFIXES))
    assert scene.told() == [Leased(A, "laptop", PREFIXES)]


def test_a_client_that_has_its_lease_still_is_connected_by_its_handshake() -> None:
    scene = Scene()
    scene.known[A] = replace(scene.known[A], owner=Owner.LEASE)
    scene.notice(COMPLETED, 0)
    assert scene.told() == [PeerConnected(A, "laptop", HERE, PREFIXES)]
    other = (Prefix.parse("10.8.0.3/32"),)
    scene.bus.publish(Leased(A, "laptop", other))
    scene.known[A] = replace(scene.known[A], allowed_ips=())
    scene.connections.goodbye(A)
    assert scene.told()[1:] == [PeerDisconnected(A, "laptop", HERE, other, "goodbye")]


def test_a_server_that_ends_a_lease_stays_and_one_that_stops_goes() -> None:
    scene = Scene()
    scene.notice(COMPLETED, 0)
    scene.connections.hear_goodbye(A, Goodbye(GoodbyeReason.LEASE_ENDED.value))
    scene.connections.hear_goodbye(A, Goodbye("a reason of a later version"))
    assert A in scene.connections
    scene.connections.hear_goodbye(A, Goodbye(GoodbyeReason.STOPPING.value))
    assert scene.told()[1:] == [gone("goodbye")]


def test_at_the_end_everybody_goes_and_nobody_comes() -> None:
    scene = Scene()
    scene.notice(COMPLETED, 0)
    assert (len(scene.connections), A in scene.connections) == (1, True)
    scene.connections.end()
    scene.connections.end()
    scene.notice(COMPLETED, 1)
    assert scene.told()[1:] == [gone("stopping")]
    assert scene.alarm_at is None


def test_handshakes_are_counted_by_what_became_of_them() -> None:
    scene = Scene()
    assert scene.connections.handshakes == {"completed": 0, "unanswered": 0, "given-up": 0}
    scene.notice(COMPLETED, 0)
    scene.notice(NoticeKind.HANDSHAKE_UNANSWERED, 10)
    scene.notice(NoticeKind.HANDSHAKE_GIVEN_UP, 90)
    scene.notice(COMPLETED, 100)
    assert scene.connections.handshakes == {"completed": 2, "unanswered": 1, "given-up": 1}
