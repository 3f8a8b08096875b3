"""What the device orders from the datapath, and tells about its peers."""

from __future__ import annotations

import pytest

from nvpn.datapath.api import Activity, Watch
from nvpn.datapath.commands import (
    DropStaged,
    EraseKeys,
    InstallKeypair,
    Role,
    SendHandshake,
    SetPeerEndpoint,
    Touch,
)
from nvpn.datapath.events import (
    DataReceived,
    DataSent,
    HandshakeWanted,
    KeypairConfirmed,
    KeypairGone,
    Why,
)
from nvpn.errors import DropReason
from nvpn.model.clock import MILLISECOND, Now
from nvpn.model.endpoint import Source
from nvpn.model.keys import PrivateKey
from nvpn.model.notices import NoticeKind
from nvpn.protocol.context import Context, Indices
from nvpn.protocol.peer import Peer
from nvpn.protocol.tai64n import TimestampSource
from tests.support.bench import (
    T0,
    THERE,
    Bench,
    at,
    initiation,
    only,
    session,
    two,
)
from tests.support.recorder import Recorder

# --- the order of commands -------------------------------------------------------------


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


# --- wishes of the datapath ------------------------------------------------------------


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


# --- instants and watches --------------------------------------------------------------


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


# --- indices ---------------------------------------------------------------------------


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
