from __future__ import annotations

from typing import Any

import pytest

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.protocol.cookies import CookieSecret, MacStamper
from nvpn.wire.constants import COOKIE_LIFETIME
from nvpn.wire.messages import CookieReply, parse_handshake
from tests.support.vectors import unhex, vectors

NOW = 500 * SECOND
HANDSHAKES = vectors()["handshakes"]
COOKIES = vectors()["cookies"]
RETRIES = [vector for vector in COOKIES if "retry" in vector]


def reply_of(vector: dict[str, Any]) -> CookieReply:
    reply = parse_handshake(bytes.fromhex(vector["reply"]))
    assert isinstance(reply, CookieReply)
    return reply


def bare(message: bytes) -> bytes:
    return message[:-32] + bytes(32)


def answered_message(vector: dict[str, Any]) -> tuple[bytes, PublicKey]:
    """The message that a cookie reply of the vectors answers, and to whom it went."""
    kind, to = ("response", "initiator") if "note" in vector else ("initiation", "responder")
    for handshake in HANDSHAKES:
        (message,) = unhex(handshake, kind)
        if message[-32:-16].hex() == vector["aad_mac1"]:
            return message, PublicKey.from_hex(handshake[f"{to}_static_public"])
    raise AssertionError("the vectors lack the message")


@pytest.mark.parametrize("vector", HANDSHAKES, ids=lambda vector: vector["name"])
def test_macs_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    initiation, response = unhex(vector, "initiation", "response")
    to_responder = MacStamper(PublicKey.from_hex(vector["responder_static_public"]))
    to_initiator = MacStamper(PublicKey.from_hex(vector["initiator_static_public"]))

    assert to_responder.stamp(bare(initiation), NOW) == initiation
    assert to_initiator.stamp(bare(response), NOW) == response


@pytest.mark.parametrize("vector", RETRIES, ids=lambda vector: vector["source"])
def test_the_retry_after_a_cookie_carries_it(vector: dict[str, Any]) -> None:
    message, public = answered_message(vector)
    (retry,) = unhex(vector["retry"], "initiation")
    stamper = MacStamper(public)
    stamper.stamp(bare(message), NOW)

    stamper.consume_reply(reply_of(vector), NOW)

    assert stamper.stamp(bare(retry), NOW + 5 * SECOND) == retry


def test_a_cookie_for_a_response_is_taken_too() -> None:
    vector = next(vector for vector in COOKIES if "note" in vector)
    message, public = answered_message(vector)
    stamper = MacStamper(public)
    stamper.stamp(bare(message), NOW)
    stamper.consume_reply(reply_of(vector), NOW)
    assert stamper.stamp(bare(message), NOW)[-16:] != bytes(16)


def stamper_with_cookie() -> tuple[MacStamper, bytes]:
    message, public = answered_message(COOKIES[0])
    stamper = MacStamper(public)
    stamper.stamp(bare(message), NOW)
    stamper.consume_reply(reply_of(COOKIES[0]), NOW)
    return stamper, bare(message)


def test_a_cookie_serves_until_it_is_old() -> None:
    stamper, message = stamper_with_cookie()
    assert stamper.stamp(message, NOW + COOKIE_LIFETIME - 1)[-16:] != bytes(16)
    assert stamper.stamp(message, NOW + COOKIE_LIFETIME)[-16:] == bytes(16)
    assert COOKIE_LIFETIME <= 120 * SECOND


def test_a_reply_that_nothing_was_sent_for_is_not_expected() -> None:
    _, public = answered_message(COOKIES[0])
    with pytest.raises(ProtocolViolation) as caught:
        MacStamper(public).consume_reply(reply_of(COOKIES[0]), NOW)
    assert caught.value.reason is DropReason.NOT_EXPECTED


def test_a_second_reply_to_the_same_message_is_not_expected() -> None:
    stamper, message = stamper_with_cookie()
    with pytest.raises(ProtocolViolation) as caught:
        stamper.consume_reply(reply_of(COOKIES[0]), NOW)
    assert caught.value.reason is DropReason.NOT_EXPECTED
    assert stamper.stamp(message, NOW)[-16:] != bytes(16)


def test_a_forged_reply_changes_nothing() -> None:
    message, public = answered_message(COOKIES[0])
    stamper = MacStamper(public)
    stamper.stamp(bare(message), NOW)
    genuine = reply_of(COOKIES[0])
    for position in range(8, 64):
        raw = bytearray(genuine.pack())
        raw[position] ^= 1
        forged = parse_handshake(bytes(raw))
        assert isinstance(forged, CookieReply)
        with pytest.raises(ProtocolViolation) as caught:
            stamper.consume_reply(forged, NOW)
        assert caught.value.reason is DropReason.BAD_TAG

    stamper.consume_reply(genuine, NOW)
    assert stamper.stamp(bare(message), NOW)[-16:] != bytes(16)


def test_a_reply_to_an_earlier_message_is_refused() -> None:
    message, public = answered_message(COOKIES[0])
    stamper = MacStamper(public)
    stamper.stamp(bare(message), NOW)
    stamper.stamp(message[:8] + b"\1" * 108 + bytes(32), NOW)
    with pytest.raises(ProtocolViolation) as caught:
        stamper.consume_reply(reply_of(COOKIES[0]), NOW)
    assert caught.value.reason is DropReason.BAD_TAG


def test_a_cookie_secret_is_renewed_when_it_is_120_seconds_old() -> None:
    randomness = iter([b"1" * 32, b"2" * 32])
    secret = CookieSecret(lambda size: next(randomness), NOW)

    assert not secret.renew(NOW + 120 * SECOND - 1)
    assert secret.value == b"1" * 32
    assert secret.renew(NOW + 120 * SECOND)
    assert secret.value == b"2" * 32
    assert not secret.renew(NOW + 239 * SECOND)


def test_failing_randomness_leaves_the_old_secret() -> None:
    randomness = iter([b"1" * 32])

    def random(size: int) -> bytes:
        try:
            return next(randomness)
        except StopIteration:
            raise OSError("entropy") from None

    secret = CookieSecret(random, NOW)
    with pytest.raises(OSError, match="entropy"):
        secret.renew(NOW + 200 * SECOND)
    assert secret.value == b"1" * 32
