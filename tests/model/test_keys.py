"""Keys cannot be printed by accident, and are read strictly."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey

RAW = bytes(range(32))
keys = st.binary(min_size=32, max_size=32)


@given(keys)
def test_a_public_key_survives_both_spellings(raw: bytes) -> None:
    key = PublicKey(raw)
    assert PublicKey.from_base64(key.base64) == key
    assert PublicKey.from_hex(key.hex) == key
    assert PublicKey.from_hex(key.hex.upper()) == key


@given(keys)
def test_a_private_key_is_clamped_as_it_is_made(raw: bytes) -> None:
    key = PrivateKey(raw)
    scalar = int.from_bytes(raw, "little")
    expected = scalar & ~7 & ~(1 << 255) | 1 << 254  # RFC 7748, section 5
    assert key.reveal() == expected.to_bytes(32, "little")
    assert key == PrivateKey.from_base64(key.reveal_base64())


def test_the_public_key_is_the_one_that_three_implementations_derive() -> None:
    vectors = json.loads(
        (Path(__file__).parents[1] / "vectors/wireguard-vectors.json").read_text()
    )
    for handshake in vectors["handshakes"]:
        for whose in ("initiator", "responder"):
            private = PrivateKey.from_hex(handshake[f"{whose}_static_private"])
            assert private.public().hex == handshake[f"{whose}_static_public"]


@pytest.mark.parametrize("kind", [PrivateKey, PresharedKey])
@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r:>80}".format, "%s".__mod__])
def test_a_secret_shows_nothing_of_itself(kind: type[PrivateKey], show: object) -> None:
    key = kind(RAW)
    shown = show(key)  # type: ignore[operator]
    assert "hidden" in shown
    assert key.reveal_base64() not in shown
    assert key.reveal_hex() not in shown


@pytest.mark.parametrize("kind", [PrivateKey, PresharedKey])
def test_a_secret_is_neither_copied_nor_pickled_nor_hashed(kind: type[PrivateKey]) -> None:
    key = kind(RAW)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            leak(key)


def test_a_wiped_secret_is_zero() -> None:
    key = PresharedKey(RAW)
    assert not key.is_zero
    key.wipe()
    assert key.is_zero
    assert key.reveal() == bytes(32)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A" * 43,
        "A" * 44,
        "A" * 43 + "=\n",
        " " + "A" * 43 + "=",
        "A" * 42 + "B=",  # the last character carries two bits too many
        "é" * 44,
        "A" * 40 + "_-A=",
    ],
)
def test_base64_is_canonical_or_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="44 characters of base64") as caught:
        PrivateKey.from_base64(text)
    assert not text.strip() or text not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "g" * 64, "0 " * 32, "é" * 64])
def test_hex_is_64_digits_or_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        PublicKey.from_hex(text)


def test_keys_of_different_kinds_are_never_equal() -> None:
    assert PresharedKey(PrivateKey(RAW).reveal()) != PrivateKey(RAW)
    assert PublicKey(RAW) != RAW


def test_hex_is_written_in_place_and_nowhere_else() -> None:
    key = PresharedKey(bytes(range(32)))
    into = bytearray(b"<" * 70)
    key.write_hex(into, 3)
    assert into == b"<<<" + key.reveal_hex().encode() + b"<<<"


@pytest.mark.parametrize("kind", [PrivateKey, PresharedKey])
def test_a_copy_is_wiped_by_itself(kind: type[PrivateKey] | type[PresharedKey]) -> None:
    key = kind(bytes(range(32)))
    other, buffer = key.copy(), key.reveal_buffer()
    assert other == key
    assert type(other) is kind
    assert buffer == key.reveal()
    before = key.reveal()
    other.wipe()
    buffer[:] = bytes(32)
    assert other.is_zero
    assert key.reveal() == before
