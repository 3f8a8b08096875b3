"""What changes of the configuration do to peers, sessions, handshakes and timers."""

from __future__ import annotations

from nvpn.datapath.api import Activity
from nvpn.datapath.commands import (
    CreatePeer,
    DeletePrefix,
    DestroyPeer,
    DropStaged,
    EraseKeys,
    InsertPrefix,
    PeerId,
    SendHandshake,
    SendKeepalive,
    SetAdmission,
    SetPeerEndpoint,
    StopSending,
)
from nvpn.datapath.events import (
    DataReceived,
    DataSent,
    DeviceGone,
    EndpointRoamed,
    HandshakeWanted,
    KeypairConfirmed,
    KeypairGone,
    Why,
)
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.wire.crypto import cookie_key, mac1_key
from tests.support.bench import (
    PREFIX,
    T0,
    THERE,
    Bench,
    at,
    initiation,
    only,
    session,
    two,
)


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
