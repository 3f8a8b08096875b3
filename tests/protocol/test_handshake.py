"""The handshake against vectors, against an independent implementation, and against forgers."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.protocol.handshake import InitiatorHandshake, ReceivedInitiation, SessionKeys
from nvpn.wire.messages import Initiation, Response, parse_handshake
from tests.support import noise_by_hand as by_hand
from tests.support.vectors import handshake_vector, unhex, vectors

ALICE = PrivateKey(b"alice" + bytes(27))
BOB = PrivateKey(b"bob" + bytes(29))
PSK = PresharedKey(b"psk" + bytes(29))
TIMESTAMP = bytes.fromhex("400000006553f10a07000000")


def all_handshakes() -> list[dict[str, Any]]:
    retried = [vector["retry"] for vector in vectors()["cookies"] if "retry" in vector]
    return vectors()["handshakes"] + retried


def as_initiation(message: bytes) -> Initiation:
    parsed = parse_handshake(message)
    assert isinstance(parsed, Initiation)
    return parsed


def as_response(message: bytes) -> Response:
    parsed = parse_handshake(message)
    assert isinstance(parsed, Response)
    return parsed


def begin(*, ephemeral: bytes = b"e" * 32, our_index: int = 7) -> InitiatorHandshake:
    """Alice asks Bob."""
    return InitiatorHandshake.begin(
        static=ALICE,
        their_static=BOB.public(),
        our_index=our_index,
        timestamp=TIMESTAMP,
        ephemeral=ephemeral,
    )


def answer(message: bytes, *, preshared: PresharedKey | None = None) -> tuple[bytes, SessionKeys]:
    """Bob answers Alice."""
    received = ReceivedInitiation.open(as_initiation(message), static=BOB)
    return received.respond(preshared=preshared, our_index=9, ephemeral=b"r" * 32)


def assert_same_session(initiator: SessionKeys, responder: SessionKeys) -> None:
    assert initiator.send == responder.receive
    assert initiator.receive == responder.send
    assert initiator.send != initiator.receive
    assert (initiator.our_index, initiator.their_index) == (
        responder.their_index,
        responder.our_index,
    )


# --- vectors --------------------------------------------------------------------------


@pytest.mark.parametrize("vector", all_handshakes(), ids=lambda vector: vector["name"])
def test_both_messages_and_the_keys_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    initiation, response, psk = unhex(vector, "initiation", "response", "preshared_key")
    timestamp, their_ephemeral = unhex(vector, "timestamp", "responder_ephemeral_private")
    preshared = PresharedKey(psk)
    initiator = InitiatorHandshake.begin(
        static=PrivateKey.from_hex(vector["initiator_static_private"]),
        their_static=PublicKey.from_hex(vector["responder_static_public"]),
        our_index=vector["initiator_index"],
        timestamp=timestamp,
        ephemeral=bytes.fromhex(vector["initiator_ephemeral_private"]),
    )
    received = ReceivedInitiation.open(
        as_initiation(initiation), static=PrivateKey.from_hex(vector["responder_static_private"])
    )
    answered, responder_keys = received.respond(
        preshared=preshared, our_index=vector["responder_index"], ephemeral=their_ephemeral
    )
    initiator_keys = initiator.consume_response(as_response(response), preshared=preshared)

    assert initiator.message[:116] == initiation[:116]
    assert initiator.message[116:] == bytes(32)
    assert received.their_static.hex == vector["initiator_static_public"]
    assert received.timestamp == timestamp
    assert received.their_index == vector["initiator_index"]
    assert answered[:60] == response[:60]
    assert answered[60:] == bytes(32)
    assert initiator_keys.send.hex() == vector["transport_key_initiator_to_responder"]
    assert initiator_keys.receive.hex() == vector["transport_key_responder_to_initiator"]
    assert_same_session(initiator_keys, responder_keys)


def test_no_preshared_key_is_the_same_as_32_zero_bytes() -> None:
    initiator = begin()
    response, responder_keys = answer(initiator.message, preshared=PresharedKey(bytes(32)))
    assert_same_session(
        initiator.consume_response(as_response(response), preshared=None), responder_keys
    )


@pytest.mark.parametrize("point", vectors()["low_order_points"])
def test_no_initiation_is_written_to_a_low_order_key(point: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        InitiatorHandshake.begin(
            static=ALICE,
            their_static=PublicKey.from_hex(point),
            our_index=1,
            timestamp=TIMESTAMP,
            ephemeral=b"e" * 32,
        )
    assert caught.value.reason is DropReason.WEAK_KEY


@pytest.mark.parametrize("point", vectors()["low_order_points"])
def test_a_low_order_ephemeral_is_refused_by_both_sides(point: str) -> None:
    initiator = begin()
    genuine, _ = answer(initiator.message)
    weak_initiation = initiator.message[:8] + bytes.fromhex(point) + initiator.message[40:]
    weak_response = genuine[:12] + bytes.fromhex(point) + genuine[44:]

    with pytest.raises(ProtocolViolation) as at_responder:
        ReceivedInitiation.open(as_initiation(weak_initiation), static=BOB)
    with pytest.raises(ProtocolViolation) as at_initiator:
        initiator.consume_response(as_response(weak_response), preshared=None)

    assert at_responder.value.reason is DropReason.WEAK_KEY
    assert at_initiator.value.reason is DropReason.WEAK_KEY
    initiator.consume_response(as_response(genuine), preshared=None)


@pytest.mark.parametrize("point", vectors()["low_order_points"])
def test_a_low_order_static_inside_a_valid_seal_is_refused(point: str) -> None:
    peer = by_hand.Initiator(
        static_private=ALICE.reveal(),
        ephemeral_private=b"e" * 32,
        their_static=bytes(BOB.public()),
    )
    message = peer.initiation(7, TIMESTAMP, claimed_static=bytes.fromhex(point))

    with pytest.raises(ProtocolViolation) as caught:
        ReceivedInitiation.open(as_initiation(message), static=BOB)
    assert caught.value.reason is DropReason.WEAK_KEY


_MAC1_VALID = [v for v in vectors()["must_drop"] if "mac1 made valid" in v["what"]]


@pytest.mark.parametrize("vector", _MAC1_VALID, ids=lambda vector: vector["what"])
def test_flipped_initiations_with_a_valid_mac1_do_not_open(vector: dict[str, str]) -> None:
    static = PrivateKey.from_hex(handshake_vector("psk zero")["responder_static_private"])
    (packet,) = unhex(vector, "packet")

    with pytest.raises(ProtocolViolation) as caught:
        ReceivedInitiation.open(as_initiation(packet), static=static)
    assert caught.value.reason is DropReason.BAD_TAG


def test_the_flipped_response_of_the_vectors_leaves_the_handshake_waiting() -> None:
    vector = handshake_vector("psk zero")
    dropped = {v["what"]: bytes.fromhex(v["packet"]) for v in vectors()["must_drop"]}
    (genuine,) = unhex(vector, "response")
    initiator = InitiatorHandshake.begin(
        static=PrivateKey.from_hex(vector["initiator_static_private"]),
        their_static=PublicKey.from_hex(vector["responder_static_public"]),
        our_index=vector["initiator_index"],
        timestamp=bytes.fromhex(vector["timestamp"]),
        ephemeral=bytes.fromhex(vector["initiator_ephemeral_private"]),
    )

    with pytest.raises(ProtocolViolation) as caught:
        forged = as_response(dropped["response, empty tag flipped, mac1 valid"])
        initiator.consume_response(forged, preshared=None)
    assert caught.value.reason is DropReason.BAD_TAG
    keys = initiator.consume_response(as_response(genuine), preshared=None)
    assert keys.send.hex() == vector["transport_key_initiator_to_responder"]


def test_the_low_order_initiation_of_the_vectors_is_refused() -> None:
    static = PrivateKey.from_hex(handshake_vector("psk zero")["responder_static_private"])
    (packet,) = (v["packet"] for v in vectors()["must_drop"] if "low-order" in v["what"])

    with pytest.raises(ProtocolViolation) as caught:
        ReceivedInitiation.open(as_initiation(bytes.fromhex(packet)), static=static)
    assert caught.value.reason is DropReason.WEAK_KEY


# --- forgeries ------------------------------------------------------------------------


def test_a_response_forged_in_any_byte_leaves_the_handshake_able_to_finish() -> None:
    initiator = begin()
    genuine, responder_keys = answer(initiator.message, preshared=PSK)
    for position in range(12, 60):
        forged = bytearray(genuine)
        forged[position] ^= 0x40
        with pytest.raises(ProtocolViolation) as caught:
            initiator.consume_response(as_response(bytes(forged)), preshared=PSK)
        assert caught.value.reason in (DropReason.BAD_TAG, DropReason.WEAK_KEY)

    keys = initiator.consume_response(as_response(genuine), preshared=PSK)
    assert_same_session(keys, responder_keys)


def test_a_wrong_preshared_key_fails_and_the_right_one_still_finishes() -> None:
    initiator = begin()
    genuine, responder_keys = answer(initiator.message, preshared=PSK)
    for wrong in (None, PresharedKey(b"x" * 32)):
        with pytest.raises(ProtocolViolation) as caught:
            initiator.consume_response(as_response(genuine), preshared=wrong)
        assert caught.value.reason is DropReason.BAD_TAG

    keys = initiator.consume_response(as_response(genuine), preshared=PSK)
    assert_same_session(keys, responder_keys)


def test_an_initiation_forged_in_any_byte_does_not_open() -> None:
    message = begin().message
    for position in range(8, 116):
        forged = bytearray(message)
        forged[position] ^= 1
        with pytest.raises(ProtocolViolation):
            ReceivedInitiation.open(as_initiation(bytes(forged)), static=BOB)


def test_an_initiation_to_somebody_else_does_not_open() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        ReceivedInitiation.open(as_initiation(begin().message), static=ALICE)
    assert caught.value.reason is DropReason.BAD_TAG


def test_the_response_to_an_earlier_attempt_does_not_finish_a_later_one() -> None:
    first, second = begin(ephemeral=b"1" * 32), begin(ephemeral=b"2" * 32)
    late, _ = answer(first.message)
    genuine, responder_keys = answer(second.message)

    with pytest.raises(ProtocolViolation):
        second.consume_response(as_response(late), preshared=None)
    keys = second.consume_response(as_response(genuine), preshared=None)
    assert_same_session(keys, responder_keys)


@settings(max_examples=60, deadline=None)
@given(body=st.binary(min_size=108, max_size=108), index=st.integers(0, 2**32 - 1))
def test_no_initiation_raises_anything_but_a_violation(body: bytes, index: int) -> None:
    message = Initiation(index, body[:32], body[32:80], body[80:])
    with contextlib.suppress(ProtocolViolation):
        ReceivedInitiation.open(message, static=BOB)


@settings(max_examples=60, deadline=None)
@given(bodies=st.lists(st.binary(min_size=48, max_size=48), min_size=1, max_size=5))
def test_no_responses_raise_anything_but_violations_or_end_a_handshake(
    bodies: list[bytes],
) -> None:
    initiator = begin()
    genuine, responder_keys = answer(initiator.message)
    for body in bodies:
        with pytest.raises(ProtocolViolation):
            initiator.consume_response(Response(1, 7, body[:32], body[32:]), preshared=None)
    keys = initiator.consume_response(as_response(genuine), preshared=None)
    assert_same_session(keys, responder_keys)


# --- an independent implementation ----------------------------------------------------


def test_two_hundred_handshakes_agree_with_an_independent_implementation() -> None:
    rng = random.Random(20261)
    for number in range(200):
        ours, theirs = PrivateKey(rng.randbytes(32)), PrivateKey(rng.randbytes(32))
        psk = PresharedKey(rng.randbytes(32)) if number % 3 else None
        raw_psk = psk.reveal() if psk else bytes(32)
        our_index, their_index = rng.getrandbits(32), rng.getrandbits(32)
        ephemerals = rng.randbytes(32), rng.randbytes(32)
        timestamp = rng.randbytes(12)
        if number % 2:
            initiator = InitiatorHandshake.begin(
                static=ours,
                their_static=theirs.public(),
                our_index=our_index,
                timestamp=timestamp,
                ephemeral=ephemerals[0],
            )
            responder = by_hand.Responder(theirs.reveal(), ephemerals[1], raw_psk)
            who, when = responder.consume(initiator.message)
            response = responder.response(their_index)
            keys = initiator.consume_response(as_response(response), preshared=psk)
            assert (keys.send, keys.receive) == responder.keys()
        else:
            peer = by_hand.Initiator(theirs.reveal(), ephemerals[0], bytes(ours.public()))
            received = ReceivedInitiation.open(
                as_initiation(peer.initiation(their_index, timestamp)), static=ours
            )
            who, when = bytes(received.their_static), received.timestamp
            response, keys = received.respond(
                preshared=psk, our_index=our_index, ephemeral=ephemerals[1]
            )
            peer.consume(response, raw_psk)
            assert (keys.send, keys.receive) == peer.keys()[::-1]
        initiator_key = ours if number % 2 else theirs
        assert (who, when) == (bytes(initiator_key.public()), timestamp)
        assert (keys.our_index, keys.their_index) == (our_index, their_index)


# --- the end of a handshake -----------------------------------------------------------


def test_a_finished_handshake_expects_nothing_more() -> None:
    initiator = begin()
    genuine, _ = answer(initiator.message)
    initiator.consume_response(as_response(genuine), preshared=None)

    with pytest.raises(ProtocolViolation) as caught:
        initiator.consume_response(as_response(genuine), preshared=None)
    assert caught.value.reason is DropReason.NOT_EXPECTED
    initiator.wipe()


def test_a_refused_initiation_cannot_be_answered() -> None:
    received = ReceivedInitiation.open(as_initiation(begin().message), static=BOB)
    received.wipe()
    received.wipe()

    with pytest.raises(ProtocolViolation) as caught:
        received.respond(preshared=None, our_index=1, ephemeral=b"r" * 32)
    assert caught.value.reason is DropReason.NOT_EXPECTED


def test_wiped_session_keys_are_zero_and_never_printed() -> None:
    _, keys = answer(begin().message)
    secret = keys.send.hex()
    assert secret not in repr(keys)
    assert repr(bytes(keys.send)) not in repr(keys)

    send, receive = keys.send, keys.receive
    keys.wipe()
    assert send == receive == bytes(32)
