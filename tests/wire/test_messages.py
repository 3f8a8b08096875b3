from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.wire.messages import (
    CookieReply,
    Initiation,
    MessageType,
    Response,
    before_mac1,
    before_mac2,
    message_type,
    parse_handshake,
)
from tests.support.vectors import unhex, vectors

_SIZES = {1: 148, 2: 92, 3: 64}


@pytest.mark.parametrize("vector", vectors()["handshakes"], ids=lambda vector: vector["name"])
def test_messages_of_a_handshake_are_taken_apart_and_put_together(vector: dict[str, Any]) -> None:
    raw_initiation, raw_response = unhex(vector, "initiation", "response")

    initiation = parse_handshake(raw_initiation)
    assert isinstance(initiation, Initiation)
    assert initiation.sender == vector["initiator_index"]
    assert initiation.ephemeral.hex() == vector["initiator_ephemeral_public"]
    assert initiation.noise_message == raw_initiation[8:116]
    assert initiation.mac1 == raw_initiation[116:132]
    assert initiation.mac2 == raw_initiation[132:]
    assert initiation.pack() == raw_initiation

    response = parse_handshake(raw_response)
    assert isinstance(response, Response)
    assert response.sender == vector["responder_index"]
    assert response.receiver == vector["initiator_index"]
    assert response.ephemeral.hex() == vector["responder_ephemeral_public"]
    assert response.noise_message == raw_response[12:60]
    assert response.mac1 == raw_response[60:76]
    assert response.pack() == raw_response


@pytest.mark.parametrize("vector", vectors()["cookies"], ids=lambda vector: vector["source"])
def test_a_cookie_reply_is_taken_apart_and_put_together(vector: dict[str, Any]) -> None:
    (raw,) = unhex(vector, "reply")

    reply = parse_handshake(raw)

    assert isinstance(reply, CookieReply)
    assert reply.nonce.hex() == vector["nonce"]
    assert reply.receiver == int.from_bytes(raw[4:8], "little")
    assert reply.pack() == raw


def test_macs_cover_everything_before_them() -> None:
    (raw,) = unhex(vectors()["handshakes"][0], "initiation")
    assert before_mac1(raw) == raw[:116]
    assert before_mac2(raw) == raw[:132]


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_only_the_exact_length_is_accepted(kind: int) -> None:
    header = kind.to_bytes(4, "little")
    for size in range(4, 400):
        datagram = header + bytes(size - 4)
        if size == _SIZES[kind]:
            assert message_type(datagram) is MessageType(kind)
            assert parse_handshake(datagram).pack() == datagram
        else:
            assert message_type(datagram) is None


def test_transport_is_recognised_from_32_bytes_on_but_is_no_handshake() -> None:
    assert message_type(b"\4\0\0\0" + bytes(27)) is None
    assert message_type(b"\4\0\0\0" + bytes(28)) is MessageType.TRANSPORT
    assert message_type(b"\4\0\0\0" + bytes(65503)) is MessageType.TRANSPORT
    with pytest.raises(ProtocolViolation) as caught:
        parse_handshake(b"\4\0\0\0" + bytes(28))
    assert caught.value.reason is DropReason.MALFORMED


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("reserved", [1, 2, 3])
def test_a_reserved_byte_that_is_not_zero_makes_it_malformed(kind: int, reserved: int) -> None:
    datagram = bytearray(_SIZES[kind])
    datagram[0] = kind
    for bit in range(8):
        datagram[reserved] = 1 << bit
        assert message_type(datagram) is None


@pytest.mark.parametrize(
    "vector",
    [
        v
        for v in vectors()["must_drop"]
        if "mac1" not in v["what"] and "transport, " not in v["what"]
    ]
    + [v for v in vectors()["must_drop"] if "reserved" in v["what"]],
    ids=lambda vector: vector["what"],
)
def test_wrong_shapes_of_the_vectors_are_malformed(vector: dict[str, str]) -> None:
    (packet,) = unhex(vector, "packet")

    assert message_type(packet) is None
    with pytest.raises(ProtocolViolation) as caught:
        parse_handshake(packet)
    assert caught.value.reason is DropReason.MALFORMED


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda kind, body: bytes([kind, 0, 0, 0]) + body,
        st.integers(0, 5),
        st.binary(max_size=200),
    )
)
def test_whatever_bytes_come_parsing_raises_nothing_but_a_violation(datagram: bytes) -> None:
    with contextlib.suppress(ProtocolViolation):
        assert parse_handshake(memoryview(datagram)).pack() == datagram


def test_keys_and_ciphertexts_stay_out_of_repr() -> None:
    (raw,) = unhex(vectors()["handshakes"][0], "initiation")
    assert "encrypted" not in repr(parse_handshake(raw))
