"""White-box: the library's steps against the vectors, and what is left after a wipe.

That these tests reach into private state is their purpose.
"""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from noise import state as library
from noise.functions.hash import hkdf

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.protocol import noise
from nvpn.protocol.handshake import InitiatorHandshake, ReceivedInitiation
from nvpn.protocol.noise import NoiseHandshake
from nvpn.wire.messages import Initiation, Response, parse_handshake
from tests.support.vectors import handshake_vector, unhex, vectors

VECTOR = handshake_vector("psk set")


def initiator_of(vector: dict[str, Any]) -> NoiseHandshake:
    return NoiseHandshake.initiator(
        static=PrivateKey.from_hex(vector["initiator_static_private"]),
        their_static=PublicKey.from_hex(vector["responder_static_public"]),
        ephemeral=bytes.fromhex(vector["initiator_ephemeral_private"]),
    )


def responder_of(vector: dict[str, Any]) -> NoiseHandshake:
    return NoiseHandshake.responder(static=PrivateKey.from_hex(vector["responder_static_private"]))


def messages_of(vector: dict[str, Any]) -> tuple[Initiation, Response]:
    initiation, response = map(parse_handshake, unhex(vector, "initiation", "response"))
    assert isinstance(initiation, Initiation)
    assert isinstance(response, Response)
    return initiation, response


# --- primitives -----------------------------------------------------------------------


def test_x25519_is_that_of_rfc_7748() -> None:
    scalar, point, product = map(bytes.fromhex, vectors()["reference"]["rfc7748"])
    assert noise._X25519().dh(bytearray(scalar), point) == product


@pytest.mark.parametrize("point", vectors()["low_order_points"])
def test_x25519_refuses_low_order_points(point: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        noise._X25519().dh(bytearray(b"k" * 32), bytes.fromhex(point))
    assert caught.value.reason is DropReason.WEAK_KEY


def test_the_aead_under_the_handshake_is_that_of_rfc_8439() -> None:
    vector = vectors()["reference"]["rfc8439_2_8_2"]
    key, nonce, aad, plaintext, sealed = unhex(
        vector, "key", "nonce", "aad", "plaintext", "sealed"
    )
    cipher = noise._BACKEND.ciphers["ChaChaPoly"]()
    cipher.initialize(key)
    assert isinstance(cipher.cipher, ChaCha20Poly1305)
    assert cipher.cipher.encrypt(nonce, plaintext, aad) == sealed
    assert cipher.format_nonce(0) == bytes(12)


@pytest.mark.parametrize("vector", vectors()["reference"]["kdf"], ids=["zero", "made up"])
@pytest.mark.parametrize("outputs", [2, 3])
def test_keys_are_derived_as_the_paper_says(vector: dict[str, Any], outputs: int) -> None:
    key, material = unhex(vector, "key", "input")

    def hmac(one: bytes, other: bytes) -> bytes:
        return noise._hmac(one, other, noise._Blake2s.fn)

    assert noise._BACKEND.hkdf is hkdf
    derived = hkdf(key, material, outputs, hmac)
    assert [part.hex() for part in derived] == vector["t1_t2_t3"][:outputs]


def test_the_library_cannot_make_a_key_of_its_own() -> None:
    responder = responder_of(VECTOR)
    initiation, _ = messages_of(VECTOR)
    responder.read(initiation.noise_message)
    with pytest.raises(AttributeError):
        responder.write(b"")  # nobody gave it an ephemeral key


# --- steps ----------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors()["handshakes"], ids=lambda vector: vector["name"])
def test_every_step_of_both_sides_is_that_of_the_vectors(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple[str, str]] = []
    keys: list[str] = []

    def watch(name: str) -> None:
        step = getattr(library.SymmetricState, name)

        def watched(self: Any, data: bytes) -> None:
            step(self, data)
            states.append((self.ck.hex(), self.h.hex()))
            if self.cipher_state.has_key():
                keys.append(self.cipher_state.k.hex())

        monkeypatch.setattr(library.SymmetricState, name, watched)

    for name in ("mix_key", "mix_hash", "mix_key_and_hash"):
        watch(name)
    psk, timestamp = unhex(vector, "preshared_key", "timestamp")
    initiation, response = messages_of(vector)
    expected = [(step["ck"], step["h"]) for step in vector["steps"].values()]
    seals = ("key_encrypt_static", "key_encrypt_timestamp", "key_encrypt_empty")

    initiator = initiator_of(vector)
    initiator.set_preshared(PresharedKey(psk))
    assert initiator.write(timestamp) == initiation.noise_message
    assert initiator.read(response.noise_message) == b""
    assert [state for state in expected if state not in states] == []
    assert {vector[name] for name in seals} <= set(keys)

    states.clear()
    keys.clear()
    responder = responder_of(vector)
    assert responder.read(initiation.noise_message) == timestamp
    responder.set_preshared(PresharedKey(psk))
    responder.set_ephemeral(bytes.fromhex(vector["responder_ephemeral_private"]))
    assert responder.write(b"") == response.noise_message
    assert [state for state in expected if state not in states] == []
    assert {vector[name] for name in seals} <= set(keys)

    for side in (initiator, responder):
        assert side._connection.get_handshake_hash().hex() == vector["final_hash"]


# --- a failed read --------------------------------------------------------------------


def everything_in(handshake: NoiseHandshake) -> dict[str, Any]:
    state, protocol = handshake._state, handshake._connection.noise_protocol
    symmetric = state.symmetric_state
    return {
        "ck": symmetric.ck,
        "h": symmetric.h,
        "k": symmetric.cipher_state.k,
        "n": symmetric.cipher_state.n,
        "s": state.s,
        "e": state.e,
        "rs": state.rs,
        "re": state.re,
        "patterns": list(state.message_patterns),
        "psks": list(protocol.psks),
        "next": handshake._connection._next_fn,
        "finished": handshake._connection.handshake_finished,
        "encrypt": protocol.cipher_state_encrypt,
        "decrypt": protocol.cipher_state_decrypt,
        "opens": symmetric.cipher_state.has_key()
        and symmetric.cipher_state.cipher.cipher.encrypt(bytes(12), b"probe", b""),
    }


@pytest.mark.parametrize("position", [0, 31, 32, 47])
def test_a_failed_read_puts_every_field_back(position: int) -> None:
    _, response = messages_of(VECTOR)
    initiator = initiator_of(VECTOR)
    initiator.write(bytes(12))
    before = everything_in(initiator)
    forged = bytearray(response.noise_message)
    forged[position] ^= 1

    for junk in (bytes(forged), bytes(48)):
        with pytest.raises(ProtocolViolation):
            initiator.read(junk)
        assert everything_in(initiator) == before


@pytest.mark.parametrize("position", [0, 40, 100])
def test_a_responder_reads_the_genuine_message_after_a_forged_one(position: int) -> None:
    initiation, _ = messages_of(VECTOR)
    responder = responder_of(VECTOR)
    before = everything_in(responder)
    forged = bytearray(initiation.noise_message)
    forged[position] ^= 1

    with pytest.raises(ProtocolViolation):
        responder.read(bytes(forged))
    assert everything_in(responder) == before
    assert responder.read(initiation.noise_message).hex() == VECTOR["timestamp"]


# --- wiping ---------------------------------------------------------------------------


def reachable_bytes(root: object) -> set[bytes]:
    """Every bytes and bytearray that can be reached from an object of ours."""
    seen: set[int] = set()
    found: set[bytes] = set()
    stack: list[object] = [root]
    while stack:
        item = stack.pop()
        # Code leads to modules, and from there to every other test's constants.
        if id(item) in seen or isinstance(item, type | ModuleType | FunctionType):
            continue
        seen.add(id(item))
        if isinstance(item, bytes | bytearray):
            found.add(bytes(item))
        stack.extend(gc.get_referents(item))
        if isinstance(item, InitiatorHandshake | ReceivedInitiation | NoiseHandshake):
            slots = type(item).__slots__
            stack.extend(getattr(item, name) for name in slots if hasattr(item, name))
    return found


def secrets_of(vector: dict[str, Any]) -> set[bytes]:
    """What must be gone after a handshake: chaining keys, AEAD keys, private keys."""
    names = [name for name in vector if name.endswith("private") or name.startswith("key_")]
    found = {step["ck"] for step in list(vector["steps"].values())[2:]}
    found |= {vector[name] for name in names}
    found |= {vector[name] for name in vector if name.startswith("transport_key_")}
    return {bytes.fromhex(text) for text in found}


def test_the_search_finds_secrets_while_they_are_in_use() -> None:
    assert secrets_of(VECTOR) & reachable_bytes(initiator_of(VECTOR)) != set()


def test_wiping_zeroes_private_keys_and_lets_go_of_all_else() -> None:
    initiator = initiator_of(VECTOR)
    initiator.write(bytes.fromhex(VECTOR["timestamp"]))
    state, connection = initiator._state, initiator._connection
    buffers = [state.s.private, state.e.private]
    assert all(any(buffer) for buffer in buffers)

    initiator.wipe()

    assert buffers == [bytes(32)] * 2
    for leftover in (initiator, state, connection):
        assert secrets_of(VECTOR) & reachable_bytes(leftover) == set()


def test_both_ends_hold_no_secret_but_the_session_keys_afterwards() -> None:
    (psk,) = unhex(VECTOR, "preshared_key")
    initiation, response = messages_of(VECTOR)
    initiator = InitiatorHandshake.begin(
        static=PrivateKey.from_hex(VECTOR["initiator_static_private"]),
        their_static=PublicKey.from_hex(VECTOR["responder_static_public"]),
        our_index=initiation.sender,
        timestamp=bytes.fromhex(VECTOR["timestamp"]),
        ephemeral=bytes.fromhex(VECTOR["initiator_ephemeral_private"]),
    )
    received = ReceivedInitiation.open(
        initiation, static=PrivateKey.from_hex(VECTOR["responder_static_private"])
    )
    parts: list[Any] = []
    for side in (initiator, received):
        assert side._noise is not None
        state = side._noise._state
        parts += [state, state.symmetric_state, state.noise_protocol, state.s.private]

    _, theirs = received.respond(
        preshared=PresharedKey(psk),
        our_index=response.sender,
        ephemeral=bytes.fromhex(VECTOR["responder_ephemeral_private"]),
    )
    ours = initiator.consume_response(response, preshared=PresharedKey(psk))

    for leftover in (initiator, received, *parts):
        assert secrets_of(VECTOR) & reachable_bytes(leftover) == set()
    assert {bytes(ours.send), bytes(theirs.send)} < secrets_of(VECTOR)


def test_a_wiped_handshake_leaves_nothing_for_the_garbage_collector() -> None:
    initiation, _ = messages_of(VECTOR)
    forged = Initiation(1, initiation.ephemeral, bytes(48), bytes(28))
    static = PrivateKey.from_hex(VECTOR["responder_static_private"])
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            with pytest.raises(ProtocolViolation):
                ReceivedInitiation.open(forged, static=static)
        # By type: other tests leave objects behind that answer questions strangely.
        held = [one for one in gc.get_objects() if issubclass(type(one), library.HandshakeState)]
    finally:
        gc.enable()
    assert held == []
