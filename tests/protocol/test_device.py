"""What the device orders from the datapath, and tells about its peers."""

from __future__ import annotations

import random

import pytest

from nvpn.datapath.api import (
    Activity,
    CreatePeer,
    DataReceived,
    DataSent,
    DeletePrefix,
    DestroyPeer,
    DeviceGone,
    DropStaged,
    EndpointRoamed,
    EraseKeys,
    HandshakeReceived,
    HandshakeWanted,
    InsertPrefix,
    InstallKeypair,
    KeypairConfirmed,
    KeypairGone,
    PeerId,
    Role,
    SendHandshake,
    SendKeepalive,
    SetAdmission,
    SetPeerEndpoint,
    StopSending,
    Touch,
    Watch,
    Why,
)
from nvpn.errors import DropReason
from nvpn.model.clock import MILLISECOND, SECOND, Now
from nvpn.model.endpoint import Endpoint, Source
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import Prefix
from nvpn.protocol.context import Context, Indices
from nvpn.protocol.device import Device
from nvpn.protocol.peer import Peer
from nvpn.protocol.tai64n import TimestampSource
from nvpn.wire.crypto import cookie_key, mac1_key
from tests.support.recorder import Recorder

PREFIX = Prefix.parse("10.0.0.0/24")
THERE = Endpoint.parse("192.0.2.2:2")
T0 = Now(1_000 * SECOND, 1_700_000_000 * SECOND)


def at(seconds: float) -> Now:
    later = round(seconds * SECOND)
    return Now(T0.boot + later, T0.wall + later)


class Bench:
    """A device that is up, and what it says."""

    def __init__(self, seed: int, *, up: bool = True) -> None:
        rng = random.Random(seed)
        self.datapath = Recorder()
        self.key = PrivateKey(rng.randbytes(32))
        self.device = Device(
            datapath=self.datapath,
            random=rng.randbytes,
            timestamps=TimestampSource(),
        )
        self.device.set_private_key(self.key, T0)
        if up:
            self.device.bring_up(T0)
        self.take()

    @property
    def public(self) -> PublicKey:
        return self.key.public()

    def take(self) -> list[object]:
        return list(self.device.take_commands())

    def know(self, other: Bench, endpoint: Endpoint | None = THERE) -> PeerId:
        self.device.add_peer(other.public)
        if endpoint is not None:
            self.device.set_endpoint(other.public, endpoint, T0)
        self.take()
        return self.device.peer_state(other.public).peer_id

    def hand(self, datagram: bytes, now: Now, endpoint: Endpoint = THERE) -> list[object]:
        self.device.handle_event(HandshakeReceived(datagram, endpoint, now.boot), now)
        return self.take()


def two() -> tuple[Bench, Bench, PeerId, PeerId]:
    alice, bob = Bench(1), Bench(2)
    return alice, bob, alice.know(bob), bob.know(alice)


def only(commands: list[object], kind: type) -> object:
    (found,) = [command for command in commands if isinstance(command, kind)]
    return found


def initiation(bench: Bench, peer: PeerId, now: Now) -> bytes:
    bench.device.handle_event(HandshakeWanted(peer, Why.NO_KEY), now)
    sent = only(bench.take(), SendHandshake)
    assert isinstance(sent, SendHandshake)
    return sent.datagram


def session(alice: Bench, bob: Bench, to_bob: PeerId, to_alice: PeerId, now: Now) -> int:
    """A completed handshake; returns bob's index."""
    answered = bob.hand(initiation(alice, to_bob, now), now)
    response = only(answered, SendHandshake)
    install = only(answered, InstallKeypair)
    assert isinstance(response, SendHandshake) and isinstance(install, InstallKeypair)
    alice.hand(response.datagram, now)
    bob.device.handle_event(KeypairConfirmed(to_alice, install.our_index, now.boot), now)
    return install.our_index


# --- the order of commands ------------------------------------------------------------


def test_a_response_follows_its_keypair_in_one_batch() -> None:
    alice, bob, to_bob, to_alice = two()
    message = initiation(alice, to_bob, T0)
    came_from = THERE._replace(source=Source(b"\xc0\0\2\1", 3))
    endpoint, touch, install, send = bob.hand(message, at(0.1), came_from)

    received_at = at(0.1).boot
    assert endpoint == SetPeerEndpoint(to_alice, came_from._replace(learned_at=received_at))
    assert touch == Touch(to_alice, 148, received_at)
    assert isinstance(install, InstallKeypair) and install.role is Role.RESPONDER
    assert install.born_at == received_at
    assert isinstance(send, SendHandshake) and len(send.datagram) == 92
    assert int.from_bytes(send.datagram[4:8], "little") == install.our_index
    assert not send.forget_source


def test_the_initiator_installs_what_the_responder_answered() -> None:
    alice, bob, to_bob, _ = two()
    answered = bob.hand(initiation(alice, to_bob, T0), at(0.1))
    theirs, response = only(answered, InstallKeypair), only(answered, SendHandshake)
    assert isinstance(theirs, InstallKeypair) and isinstance(response, SendHandshake)
    endpoint, touch, ours = alice.hand(response.datagram, at(0.2))

    assert isinstance(endpoint, SetPeerEndpoint)
    # Before the keypair: what is flushed under it is not answered yet.
    assert touch == Touch(to_bob, 92, at(0.2).boot)
    assert isinstance(ours, InstallKeypair) and ours.role is Role.INITIATOR
    assert ours.born_at == at(0.2).boot
    assert (ours.send_key, ours.receive_key) == (theirs.receive_key, theirs.send_key)
    assert (ours.our_index, ours.their_index) == (theirs.their_index, theirs.our_index)


def test_retries_let_the_kernel_choose_the_source_anew() -> None:
    alice, _, to_bob, _ = two()
    initiation(alice, to_bob, T0)
    forgets = []
    for _ in range(3):
        deadline = alice.device.next_timeout()
        assert deadline is not None
        alice.device.handle_timeout(Now(deadline, T0.wall + deadline - T0.boot))
        sent = only(alice.take(), SendHandshake)
        assert isinstance(sent, SendHandshake)
        forgets.append(sent.forget_source)
    assert forgets == [True] * 3


def test_the_last_handshake_is_when_each_side_knew_by_the_wall_clock() -> None:
    alice, bob, to_bob, to_alice = two()
    assert alice.device.peer_state(bob.public).last_handshake == 0
    answered = bob.hand(initiation(alice, to_bob, T0), at(0.1))
    install, response = only(answered, InstallKeypair), only(answered, SendHandshake)
    assert isinstance(install, InstallKeypair) and isinstance(response, SendHandshake)
    assert bob.device.peer_state(alice.public).last_handshake == 0
    assert bob.device.peer_state(alice.public).session_born_at is None
    assert alice.device.peer_state(bob.public).attempts == 1

    alice.hand(response.datagram, at(0.2))
    state = alice.device.peer_state(bob.public)
    assert state.last_handshake == at(0.2).wall
    assert state.session_born_at == at(0.2).boot
    assert state.attempts == 0

    # The event is late; the instant in it counts.
    confirmed = KeypairConfirmed(to_alice, install.our_index, at(0.3).boot)
    bob.device.handle_event(confirmed, at(0.9))
    state = bob.device.peer_state(alice.public)
    assert state.last_handshake == at(0.3).wall
    assert state.session_born_at == at(0.1).boot
    (notice,) = bob.device.take_notices()
    assert notice.kind is NoticeKind.HANDSHAKE_COMPLETED and notice.wall == at(0.3).wall


# --- wishes of the datapath -----------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "age", "heard"),
    [
        (Why.NO_KEY, 178.9, False),
        (Why.NO_KEY, 179.9, True),  # the datapath's clock was read after ours
        (Why.OLD_SENDING, 118.9, False),
        (Why.OLD_SENDING, 119.9, True),
        (Why.OLD_RECEIVING, 163.9, False),
        (Why.OLD_RECEIVING, 164.9, True),
        (Why.MANY_MESSAGES, 10, True),
    ],
)
def test_a_wish_about_the_session_before_is_not_heard(why: Why, age: float, heard: bool) -> None:
    alice, bob, to_bob, to_alice = two()
    session(alice, bob, to_bob, to_alice, T0)
    alice.device.handle_event(HandshakeWanted(to_bob, why), at(age))
    assert any(isinstance(c, SendHandshake) for c in alice.take()) is heard


def test_a_wish_right_after_a_message_waits_for_its_five_seconds() -> None:
    alice, bob, to_bob, to_alice = two()
    bob.hand(initiation(alice, to_bob, T0), T0)  # bob answered now
    bob.device.handle_event(HandshakeWanted(to_alice, Why.NO_KEY), at(1))
    assert bob.take() == []
    assert bob.device.next_timeout() == at(5).boot
    bob.device.handle_timeout(at(5))
    assert isinstance(only(bob.take(), SendHandshake), SendHandshake)


def test_a_confirmed_session_ends_the_wish_for_one() -> None:
    alice, bob, to_bob, to_alice = two()
    answered = bob.hand(initiation(alice, to_bob, T0), T0)
    install = only(answered, InstallKeypair)
    assert isinstance(install, InstallKeypair)
    bob.device.handle_event(HandshakeWanted(to_alice, Why.NO_KEY), at(1))
    bob.device.handle_event(KeypairConfirmed(to_alice, install.our_index, at(2).boot), at(2))
    bob.device.handle_timeout(at(10))
    assert bob.take() == []


def test_a_confirmation_under_way_does_not_revive_a_session_of_another_identity() -> None:
    alice, bob, to_bob, to_alice = two()
    answered = bob.hand(initiation(alice, to_bob, T0), T0)
    install = only(answered, InstallKeypair)
    assert isinstance(install, InstallKeypair)
    bob.device.set_private_key(PrivateKey(b"n" * 32), at(1))
    bob.take()
    late = KeypairConfirmed(to_alice, install.our_index, at(0.9).boot)
    bob.device.handle_event(late, at(1))
    assert bob.device.peer_state(alice.public).session_born_at is None
    # So the datapath, which may not send under it, is heard.
    bob.device.handle_event(HandshakeWanted(to_alice, Why.NO_KEY), at(1))
    assert isinstance(only(bob.take(), SendHandshake), SendHandshake)


@pytest.mark.parametrize("obstacle", ["no endpoint", "no key", "down"])
def test_a_wish_that_cannot_be_served_lets_the_datapath_ask_again(obstacle: str) -> None:
    alice, bob = Bench(1), Bench(2)
    to_bob = alice.know(bob, None if obstacle == "no endpoint" else THERE)
    if obstacle == "no key":
        alice.device.set_private_key(None, T0)
    elif obstacle == "down":
        alice.device.bring_down(T0)
    alice.take()
    alice.device.handle_event(HandshakeWanted(to_bob, Why.NO_KEY), T0)
    assert alice.take() == [DropStaged(to_bob)]


# --- instants and watches -------------------------------------------------------------


def test_watches_follow_their_timers() -> None:
    alice, bob, to_bob, to_alice = two()
    session(alice, bob, to_bob, to_alice, T0)
    path = alice.datapath
    path.activities[to_bob] = Activity(data_sent_at=at(1).boot, last_sent_at=at(1).boot)
    alice.device.handle_event(DataSent(to_bob), at(1))
    assert path.watched == {(to_bob, Watch.DATA_SENT)}
    deadline = alice.device.next_timeout()
    assert deadline is not None and at(16).boot <= deadline <= at(16.334).boot

    # Answered meanwhile, and sent again: the timer goes on from there.
    path.activities[to_bob] = Activity(data_sent_at=at(9).boot)
    alice.device.handle_timeout(at(16.4))
    assert alice.take() == []
    assert path.watched == {(to_bob, Watch.DATA_SENT)}
    deadline = alice.device.next_timeout()
    assert deadline is not None and at(24).boot <= deadline <= at(24.334).boot

    # Answered, and silent.
    path.activities[to_bob] = Activity()
    alice.device.handle_timeout(at(24.4))
    assert alice.take() == []
    assert path.watched == set()


def test_data_that_was_answered_before_the_event_came_is_watched_once_all_the_same() -> None:
    alice, _, to_bob, _ = two()
    alice.device.handle_event(DataReceived(to_bob), at(1))
    assert alice.datapath.watched == {(to_bob, Watch.DATA_RECEIVED)}
    assert alice.device.next_timeout() == at(11).boot
    alice.device.handle_timeout(at(11))
    assert alice.take() == []
    assert alice.datapath.watched == set()


def test_a_handshake_message_answers_data_even_if_the_datapath_is_behind() -> None:
    alice, bob, to_bob, to_alice = two()
    session(alice, bob, to_bob, to_alice, at(0))
    # The datapath has not yet applied the Touch.
    alice.datapath.activities[to_bob] = Activity(data_sent_at=at(-20).boot)
    alice.device.handle_event(DataSent(to_bob), at(0))
    alice.device.handle_timeout(at(15.4))
    assert alice.take() == []


def test_erased_keys_free_their_names() -> None:
    alice, bob, to_bob, to_alice = two()
    index = session(alice, bob, to_bob, to_alice, T0)
    bob.device.handle_timeout(at(540))
    assert bob.take() == [EraseKeys(to_alice)]
    assert bob.device.peer_state(alice.public).session_born_at is None
    assert bob.device._context.indices.owner(index) is not None
    bob.device.handle_event(KeypairGone(to_alice, index), at(540))
    assert bob.device._context.indices.owner(index) is None


# --- configuration --------------------------------------------------------------------


def test_a_peer_is_created_configured_and_destroyed_by_deltas() -> None:
    alice, bob = Bench(1), Bench(2)
    device = alice.device
    device.add_peer(bob.public)
    device.add_peer(bob.public)
    (create,) = alice.take()
    assert create == CreatePeer(PeerId(1))
    device.add_allowed_ip(bob.public, PREFIX)
    device.add_allowed_ip(bob.public, PREFIX)
    assert alice.take() == [InsertPrefix(PeerId(1), PREFIX)]
    assert device.allowed_ips(bob.public) == (PREFIX,)
    device.remove_allowed_ip(bob.public, PREFIX)
    device.remove_allowed_ip(bob.public, PREFIX)
    assert alice.take() == [DeletePrefix(PeerId(1), PREFIX)]
    device.remove_peer(bob.public, T0)
    assert alice.take() == [DestroyPeer(PeerId(1))]
    assert device.peers() == [] and not device.has_peer(bob.public)
    device.add_peer(bob.public)
    assert alice.take() == [CreatePeer(PeerId(2))]  # an id is never used again


def test_what_names_an_unknown_peer_is_ignored() -> None:
    alice, bob = Bench(1), Bench(2)
    device = alice.device
    device.remove_peer(bob.public, T0)
    device.set_preshared_key(bob.public, PresharedKey(bytes(32)))
    device.set_endpoint(bob.public, THERE, T0)
    device.set_persistent_keepalive(bob.public, 5, T0)
    device.add_allowed_ip(bob.public, PREFIX)
    device.remove_allowed_ip(bob.public, PREFIX)
    device.initiate(bob.public, T0)
    for event in (
        HandshakeWanted(PeerId(7), Why.NO_KEY),
        KeypairConfirmed(PeerId(7), 1, 1),
        KeypairGone(PeerId(7), 1),
        EndpointRoamed(PeerId(7), THERE),
        DataSent(PeerId(7)),
        DataReceived(PeerId(7)),
        DeviceGone(77),
    ):
        device.handle_event(event, T0)
    assert alice.take() == []
    assert device.next_timeout() is None


def test_we_are_no_peer_of_ourselves() -> None:
    alice, bob = Bench(1), Bench(2)
    alice.device.add_peer(alice.public)
    assert alice.take() == []
    to_bob = alice.know(bob)
    alice.device.set_private_key(bob.key, T0)
    assert DestroyPeer(to_bob) in alice.take()
    assert alice.device.peers() == []


def test_the_same_private_key_again_changes_nothing() -> None:
    alice, bob, to_bob, to_alice = two()
    session(alice, bob, to_bob, to_alice, T0)
    alice.device.set_private_key(PrivateKey(alice.key.reveal()), T0)
    assert alice.take() == []


def test_another_private_key_stops_sessions_and_changes_admission() -> None:
    alice, bob, to_bob, to_alice = two()
    session(alice, bob, to_bob, to_alice, T0)
    new = PrivateKey(b"n" * 32)
    alice.device.set_private_key(new, T0)
    stop, admission = alice.take()
    assert stop == StopSending(to_bob)
    assert isinstance(admission, SetAdmission)
    assert admission.mac1_key == mac1_key(new.public())
    assert admission.cookie_key == cookie_key(new.public())
    assert admission.secret is not None and len(admission.secret) == 32
    alice.device.set_private_key(None, T0)
    assert alice.take()[-1] == SetAdmission(None, None, None)
    assert alice.device.public_key is None and alice.device.private_key is None


def test_keys_are_copied_so_that_the_callers_may_be_wiped() -> None:
    alice, bob = Bench(1), Bench(2)
    alice.know(bob)
    preshared = PresharedKey(b"p" * 32)
    alice.device.set_preshared_key(bob.public, preshared)
    preshared.wipe()
    kept = alice.device.peer_state(bob.public).preshared_key
    assert kept is not None and kept.reveal() == b"p" * 32
    alice.device.set_preshared_key(bob.public, PresharedKey(bytes(32)))
    assert alice.device.peer_state(bob.public).preshared_key is None
    assert not any(kept.reveal())  # ours was wiped


def test_closing_wipes_our_keys() -> None:
    alice, bob = Bench(1), Bench(2)
    alice.know(bob)
    alice.device.set_preshared_key(bob.public, PresharedKey(b"p" * 32))
    private = alice.device.private_key
    preshared = alice.device.peer_state(bob.public).preshared_key
    alice.device.close()
    assert private is not None and not any(private.reveal())
    assert preshared is not None and not any(preshared.reveal())


def test_turning_the_persistent_keepalive_on_sends_one_at_once() -> None:
    alice, bob = Bench(1), Bench(2)
    to_bob = alice.know(bob)
    alice.device.set_persistent_keepalive(bob.public, 25, T0)
    assert alice.take() == [SendKeepalive(to_bob)]
    assert alice.device.next_timeout() == at(25).boot
    alice.device.set_persistent_keepalive(bob.public, 25, at(1))
    assert alice.take() == []
    alice.datapath.activities[to_bob] = Activity(last_sent_at=T0.boot)
    alice.device.set_persistent_keepalive(bob.public, 10, at(1))
    assert alice.take() == []
    assert alice.device.next_timeout() == at(10).boot
    alice.device.set_persistent_keepalive(bob.public, 0, at(2))
    assert alice.device.next_timeout() is None


def test_going_up_calls_peers_with_a_persistent_keepalive() -> None:
    alice, bob = Bench(1, up=False), Bench(2)
    to_bob = alice.know(bob)
    alice.device.set_persistent_keepalive(bob.public, 25, T0)
    assert alice.take() == []
    assert alice.device.next_timeout() is None
    alice.device.bring_up(T0)
    assert alice.take() == [SendKeepalive(to_bob)]


def test_an_endpoint_that_becomes_known_late_is_called_at_once() -> None:
    alice, bob = Bench(1), Bench(2)
    to_bob = alice.know(bob, None)
    alice.device.set_persistent_keepalive(bob.public, 25, T0)
    alice.take()
    alice.device.set_endpoint(bob.public, THERE, at(3))
    endpoint, keepalive = alice.take()
    assert endpoint == SetPeerEndpoint(to_bob, THERE._replace(learned_at=at(3).boot))
    assert keepalive == SendKeepalive(to_bob)


def test_going_down_ends_sessions_timers_and_handshakes() -> None:
    alice, bob, to_bob, to_alice = two()
    session(alice, bob, to_bob, to_alice, T0)
    alice.device.set_persistent_keepalive(bob.public, 25, T0)
    alice.device.handle_event(HandshakeWanted(to_bob, Why.OLD_SENDING), at(121))
    alice.device.handle_event(DataSent(to_bob), at(121))
    alice.take()
    alice.device.bring_down(at(122))
    assert alice.take() == [EraseKeys(to_bob), DropStaged(to_bob)]
    assert alice.device.next_timeout() is None
    assert alice.datapath.watched == set()

    alice.device.bring_up(at(123))
    alice.take()
    alice.device.handle_event(HandshakeWanted(to_bob, Why.NO_KEY), at(123))
    assert isinstance(only(alice.take(), SendHandshake), SendHandshake)  # at once


def test_while_it_is_down_nothing_is_answered() -> None:
    alice, bob, to_bob, _ = two()
    message = initiation(alice, to_bob, T0)
    bob.device.bring_down(T0)
    bob.take()
    assert bob.hand(message, T0) == []


def test_a_late_roam_does_not_undo_a_configured_endpoint() -> None:
    alice, bob, to_bob, _ = two()
    elsewhere = Endpoint.parse("198.51.100.1:1")
    alice.device.set_endpoint(bob.public, THERE, at(2))
    late = EndpointRoamed(to_bob, elsewhere._replace(learned_at=at(1).boot))
    alice.device.handle_event(late, at(3))
    state = alice.device.peer_state(bob.public)
    assert state.endpoint is not None and state.endpoint.remote == THERE.remote
    assert alice.device.take_notices() == []
    newer = elsewhere._replace(learned_at=at(4).boot)
    alice.device.handle_event(EndpointRoamed(to_bob, newer), at(4))
    assert alice.device.peer_state(bob.public).endpoint == newer
    assert alice.device.take_notices() == [
        Notice(NoticeKind.ROAMED, bob.public, at(4).wall, newer)
    ]


def test_nothing_secret_shows_in_a_repr() -> None:
    alice, bob, _, _ = two()
    alice.device.set_preshared_key(bob.public, PresharedKey(b"p" * 32))
    text = repr(alice.device.peer_state(bob.public)) + repr(alice.device.private_key)
    assert "pppp" not in text and "70707070" not in text


# --- indices --------------------------------------------------------------------------


def test_an_index_in_use_is_not_given_out_again() -> None:
    numbers = iter([b"\1\0\0\0", b"\1\0\0\0", b"\2\0\0\0", b"\1\0\0\0"])
    indices: Indices[str] = Indices(lambda size: next(numbers))
    assert indices.reserve("alice") == 1
    assert indices.reserve("bob") == 2
    indices.release(1)
    assert indices.owner(1) is None
    assert indices.reserve("carol") == 1


def test_randomness_that_repeats_itself_is_taken_for_none() -> None:
    indices: Indices[str] = Indices(bytes)
    indices.reserve("alice")
    with pytest.raises(OSError, match="repeat"):
        indices.reserve("bob")


def test_a_timer_without_randomness_has_no_jitter() -> None:
    def broken(size: int) -> bytes:
        raise OSError

    context: Context[Peer] = Context(Recorder(), broken, TimestampSource())
    assert context._jitter(333 * MILLISECOND) == 0


def test_drops_are_counted_by_reason() -> None:
    alice, bob, to_bob, _ = two()
    message = initiation(alice, to_bob, T0)
    bob.hand(message[:-40] + bytes(40), T0)
    bob.hand(message[:100], T0)
    assert bob.device.drops() == {DropReason.BAD_TAG: 1, DropReason.MALFORMED: 1}
