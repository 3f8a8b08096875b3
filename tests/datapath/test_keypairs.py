"""Session keys: limits, renewal, and the three slots."""

from __future__ import annotations

import gc
import types
from itertools import count

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from nvpn.datapath.commands import InstallKeypair, PeerId, Role
from nvpn.datapath.events import Why
from nvpn.datapath.keypairs import EXHAUSTED, Keypair, KeypairSlots
from nvpn.model.clock import SECOND
from nvpn.wire.constants import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
)
from tests.support.vectors import unhex, vectors

BORN = 1_000 * SECOND
INDEX = count(1)
INITIATOR, RESPONDER = Role.INITIATOR, Role.RESPONDER


def keypair(
    role: Role = INITIATOR, *, send: bytes = bytes(32), receive: bytes = bytes(32)
) -> Keypair:
    index = next(INDEX)
    install = InstallKeypair(
        PeerId(1), role, index, index + 1000, bytearray(send), bytearray(receive), BORN
    )
    return Keypair(install)


# --- one keypair ----------------------------------------------------------------------


def test_counters_are_handed_out_once_and_in_order() -> None:
    key = keypair()
    assert [key.reserve(n, BORN) for n in (1, 45, 1)] == [0, 1, 46]


def test_a_reservation_is_all_or_nothing_at_the_limit() -> None:
    key = keypair()
    key.next_counter = REJECT_AFTER_MESSAGES - 2
    assert key.reserve(3, BORN) == EXHAUSTED
    assert key.reserve(2, BORN) == REJECT_AFTER_MESSAGES - 2
    assert key.reserve(1, BORN) == EXHAUSTED
    assert not key.may_send_at(BORN)


@pytest.mark.parametrize("age", [0, REJECT_AFTER_TIME - 1])
def test_a_young_key_sends_and_receives(age: int) -> None:
    key = keypair()
    assert key.may_send_at(BORN + age)
    assert key.may_receive_at(BORN + age)


def test_at_180_seconds_a_key_neither_sends_nor_receives() -> None:
    key = keypair()
    assert not key.may_send_at(BORN + REJECT_AFTER_TIME)
    assert not key.may_receive_at(BORN + REJECT_AFTER_TIME)
    assert key.reserve(1, BORN + REJECT_AFTER_TIME) == EXHAUSTED


def test_an_initiator_renews_once_at_120_seconds_after_sending() -> None:
    key = keypair(INITIATOR)
    assert key.wants_after_sending(BORN + REKEY_AFTER_TIME - 1) is None
    assert key.wants_after_sending(BORN + REKEY_AFTER_TIME) is Why.OLD_SENDING
    assert key.wants_after_sending(BORN + REKEY_AFTER_TIME + 1) is None


def test_an_initiator_renews_once_at_165_seconds_after_receiving() -> None:
    key = keypair(INITIATOR)
    assert key.wants_after_receiving(BORN + 165 * SECOND - 1) is None
    assert key.wants_after_receiving(BORN + 165 * SECOND) is Why.OLD_RECEIVING
    assert key.wants_after_receiving(BORN + 166 * SECOND) is None


def test_a_stopped_key_is_not_renewed_for_what_is_received() -> None:
    key = keypair(INITIATOR)
    key.may_send = False
    assert key.wants_after_receiving(BORN + 170 * SECOND) is None


def test_a_responder_never_renews_for_age() -> None:
    key = keypair(RESPONDER)
    for age in (120, 165, 179):
        assert key.wants_after_sending(BORN + age * SECOND) is None
        assert key.wants_after_receiving(BORN + age * SECOND) is None


@pytest.mark.parametrize("role", Role)
def test_either_side_renews_once_after_many_messages(role: Role) -> None:
    key = keypair(role)
    key.next_counter = REKEY_AFTER_MESSAGES
    assert key.wants_after_sending(BORN) is None
    key.reserve(1, BORN)
    assert key.wants_after_sending(BORN) is Why.MANY_MESSAGES
    assert key.wants_after_sending(BORN) is None


def test_a_wiped_keypair_is_zeroed_and_useless() -> None:
    send, receive = bytearray(b"s" * 32), bytearray(b"r" * 32)
    key = Keypair(InstallKeypair(PeerId(1), INITIATOR, 1, 2, send, receive, BORN))
    key.wipe()
    assert send == receive == bytes(32)
    assert not key.may_send_at(BORN)
    assert key.reserve(1, BORN) == EXHAUSTED
    for cipher in (key.seal, key.open):
        with pytest.raises(InvalidTag):
            cipher(bytes(12), bytes(16), None, bytearray(32))


def test_wiping_lets_go_of_the_ciphers() -> None:
    key = keypair()
    before = _ciphers()
    key.wipe()
    assert _ciphers() == before - 2


def _ciphers() -> int:
    """How many cipher objects are alive; they are not tracked, their methods are."""
    gc.collect()
    return sum(
        isinstance(getattr(thing, "__self__", None), ChaCha20Poly1305)
        for thing in gc.get_objects()
        if isinstance(thing, types.BuiltinFunctionType)
    )


def test_no_key_shows_in_a_repr() -> None:
    install = InstallKeypair(
        PeerId(1), INITIATOR, 1, 2, bytearray(b"S" * 32), bytearray(b"R" * 32), 0
    )
    for text in (repr(install), repr(Keypair(install))):
        assert "SSS" not in text
        assert "RRR" not in text
        assert (b"S" * 3).hex() not in text


@pytest.mark.parametrize("vector", vectors()["transport"], ids=lambda v: v["what"])
def test_each_transport_vector_seals_and_opens(vector: dict[str, object]) -> None:
    session = vectors()["handshakes"][1]
    ours, theirs = unhex(
        session, "transport_key_initiator_to_responder", "transport_key_responder_to_initiator"
    )
    if vector["direction"] == "r->i":
        ours, theirs = theirs, ours
    sender, receiver = keypair(send=ours, receive=theirs), keypair(send=theirs, receive=ours)
    plain, message = unhex(vector, "padded_plaintext", "message")
    nonce = bytes(4) + message[8:16]

    sealed = bytearray(len(plain) + 16)
    sender.seal(nonce, plain, None, sealed)
    assert message[16:] == sealed

    opened = bytearray(len(plain))
    receiver.open(nonce, message[16:], None, opened)
    assert opened == plain


# --- the slots ------------------------------------------------------------------------


class Slots:
    """Slots whose keypairs have names: 'p', 'c', 'n' for those that are there at first."""

    def __init__(self, at_first: str) -> None:
        self.slots = KeypairSlots()
        self.named = {name: keypair() for name in "pcn"} | {
            "i": keypair(INITIATOR),
            "r": keypair(RESPONDER),
        }
        for name, slot in (("p", "previous"), ("c", "current"), ("n", "next")):
            if name in at_first:
                setattr(self.slots, slot, self.named[name])

    def name(self, key: Keypair | None) -> str:
        return next((name for name, known in self.named.items() if known is key), "-")

    def state(self) -> str:
        slots = self.slots
        return "".join(map(self.name, (slots.previous, slots.current, slots.next)))

    def names(self, keys: list[Keypair]) -> str:
        return "".join(sorted(map(self.name, keys)))


# previous, current and next: before, after, and what is gone for good.
INITIATOR_INSTALLS = [
    ("", "-i-", ""),
    ("c", "ci-", ""),
    ("pc", "ci-", "p"),
    ("n", "ni-", ""),
    ("cn", "ni-", "c"),
    ("pcn", "ni-", "cp"),
]
RESPONDER_INSTALLS = [
    ("", "--r", ""),
    ("c", "-cr", ""),
    ("pc", "-cr", "p"),
    ("n", "--r", "n"),
    ("cn", "-cr", "n"),
    ("pcn", "-cr", "np"),
]
CONFIRMS = [("n", "-n-", ""), ("cn", "cn-", ""), ("pcn", "cn-", "p")]


@pytest.mark.parametrize(("before", "after", "gone"), INITIATOR_INSTALLS)
def test_a_keypair_that_we_initiated_becomes_current(before: str, after: str, gone: str) -> None:
    slots = Slots(before)
    assert slots.names(slots.slots.install(slots.named["i"])) == gone
    assert slots.state() == after


@pytest.mark.parametrize(("before", "after", "gone"), RESPONDER_INSTALLS)
def test_a_keypair_that_we_answered_becomes_next(before: str, after: str, gone: str) -> None:
    slots = Slots(before)
    assert slots.names(slots.slots.install(slots.named["r"])) == gone
    assert slots.state() == after


@pytest.mark.parametrize(("before", "after", "gone"), CONFIRMS)
def test_confirming_promotes_next(before: str, after: str, gone: str) -> None:
    slots = Slots(before)
    assert slots.names(slots.slots.confirm()) == gone
    assert slots.state() == after


def test_stopping_keeps_current_for_receiving_and_forgets_next() -> None:
    slots = Slots("pcn")
    assert slots.names(slots.slots.stop_sending()) == "n"
    assert slots.state() == "pc-"
    assert not slots.named["c"].may_send_at(BORN)
    assert slots.named["c"].may_receive_at(BORN)


def test_clearing_forgets_all_three() -> None:
    slots = Slots("pcn")
    assert slots.names(slots.slots.clear()) == "cnp"
    assert slots.state() == "---"
