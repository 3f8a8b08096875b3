from __future__ import annotations

import pytest

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.wire import crypto
from tests.support.vectors import unhex, vectors


def test_hash_is_blake2s_of_rfc_7693() -> None:
    assert crypto.hash_(b"abc").hex() == vectors()["reference"]["rfc7693_abc"]


def test_xchacha_seals_as_the_draft_does() -> None:
    vector = vectors()["reference"]["xchacha_draft_A_3_1"]
    key, nonce, aad, plaintext, sealed = unhex(
        vector, "key", "nonce", "aad", "plaintext", "sealed"
    )

    assert crypto.xchacha_seal(key, nonce, plaintext, ad=aad) == sealed
    assert crypto.xchacha_open(key, nonce, sealed, ad=aad) == plaintext


@pytest.mark.parametrize("flipped", [0, 20, -1])
def test_xchacha_refuses_a_changed_byte(flipped: int) -> None:
    vector = vectors()["reference"]["xchacha_draft_A_3_1"]
    key, nonce, aad, sealed = unhex(vector, "key", "nonce", "aad", "sealed")
    forged = bytearray(sealed)
    forged[flipped] ^= 1

    with pytest.raises(ProtocolViolation) as caught:
        crypto.xchacha_open(key, nonce, bytes(forged), ad=aad)
    assert caught.value.reason is DropReason.BAD_TAG


@pytest.mark.parametrize("vector", vectors()["handshakes"], ids=lambda vector: vector["name"])
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_mac_keys_come_from_the_receivers_public_key(vector: dict[str, str], role: str) -> None:
    public = PublicKey.from_hex(vector[f"{role}_static_public"])

    assert crypto.mac1_key(public).hex() == vector[f"mac1_key_of_{role}"]
    assert crypto.cookie_key(public).hex() == vector[f"cookie_key_of_{role}"]


@pytest.mark.parametrize("vector", vectors()["cookies"], ids=lambda vector: vector["source"])
def test_a_cookie_is_bound_to_address_and_port(vector: dict[str, str]) -> None:
    secret, source = unhex(vector, "secret", "source_bytes")
    endpoint = Endpoint(source[:-2], int.from_bytes(source[-2:], "big"))

    assert crypto.cookie_for(secret, endpoint).hex() == vector["cookie"]
    assert crypto.cookie_for(secret, endpoint._replace(port=9)).hex() != vector["cookie"]


def test_equal_compares_whole_values() -> None:
    assert crypto.equal(b"a" * 16, memoryview(b"a" * 16))
    assert not crypto.equal(b"a" * 16, b"a" * 15 + b"b")
    assert not crypto.equal(b"a" * 16, b"a" * 15)
