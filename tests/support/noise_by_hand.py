"""A second, minimal implementation of the handshake, to hold the real one against.

Written from the WireGuard paper, section 5.4, on hashlib, libsodium's scalar
multiplication and its ChaCha20-Poly1305: it shares neither library nor code with the
real one's Noise steps and AEAD. Macs stay zero.
"""

from __future__ import annotations

import hashlib

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)

_NONCE = bytes(12)


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def hmac(key: bytes, data: bytes) -> bytes:
    padded = key.ljust(64, b"\0")
    inner = _hash(bytes(byte ^ 0x36 for byte in padded), data)
    return _hash(bytes(byte ^ 0x5C for byte in padded), inner)


def kdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    secret = hmac(chaining_key, material)
    result = [hmac(secret, b"\1")]
    while len(result) < outputs:
        result.append(hmac(secret, result[-1] + bytes([len(result) + 1])))
    return result


class _Side:
    def __init__(self, static_private: bytes, ephemeral_private: bytes) -> None:
        self.static_private = static_private
        self.static = crypto_scalarmult_base(static_private)
        self.ephemeral_private = ephemeral_private
        self.ephemeral = crypto_scalarmult_base(ephemeral_private)
        self.ck = _hash(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        self.h = _hash(self.ck, b"WireGuard v1 zx2c4 Jason@zx2c4.com")
        self.k = b""

    def mix_hash(self, data: bytes) -> None:
        self.h = _hash(self.h, data)

    def mix_ephemeral(self, public: bytes) -> None:
        (self.ck,) = kdf(self.ck, public, 1)
        self.mix_hash(public)

    def mix_dh(self, private: bytes, public: bytes) -> None:
        self.ck, self.k = kdf(self.ck, crypto_scalarmult(private, public), 2)

    def mix_psk(self, psk: bytes) -> None:
        self.ck, t, self.k = kdf(self.ck, psk, 3)
        self.mix_hash(t)

    def seal(self, plaintext: bytes) -> bytes:
        sealed = crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, self.h, _NONCE, self.k)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        plaintext = crypto_aead_chacha20poly1305_ietf_decrypt(sealed, self.h, _NONCE, self.k)
        self.mix_hash(sealed)
        return plaintext

    def keys(self) -> tuple[bytes, bytes]:
        """The transport keys: initiator to responder, responder to initiator."""
        first, second = kdf(self.ck, b"", 2)
        return first, second


class Initiator(_Side):
    def __init__(
        self, static_private: bytes, ephemeral_private: bytes, their_static: bytes
    ) -> None:
        super().__init__(static_private, ephemeral_private)
        self.their_static = their_static
        self.mix_hash(their_static)

    def initiation(
        self, index: int, timestamp: bytes, *, claimed_static: bytes | None = None
    ) -> bytes:
        """148 bytes. ``claimed_static`` lies about who we are."""
        static = claimed_static or self.static
        self.mix_ephemeral(self.ephemeral)
        self.mix_dh(self.ephemeral_private, self.their_static)
        sealed_static = self.seal(static)
        if claimed_static is None:
            self.mix_dh(self.static_private, self.their_static)
        sealed_timestamp = self.seal(timestamp)
        return (
            b"\1\0\0\0"
            + index.to_bytes(4, "little")
            + self.ephemeral
            + sealed_static
            + sealed_timestamp
            + bytes(32)
        )

    def consume(self, response: bytes, psk: bytes) -> None:
        ephemeral = response[12:44]
        self.mix_ephemeral(ephemeral)
        self.mix_dh(self.ephemeral_private, ephemeral)
        self.mix_dh(self.static_private, ephemeral)
        self.mix_psk(psk)
        assert self.open(response[44:60]) == b""


class Responder(_Side):
    def __init__(self, static_private: bytes, ephemeral_private: bytes, psk: bytes) -> None:
        super().__init__(static_private, ephemeral_private)
        self.psk = psk
        self.mix_hash(self.static)

    def consume(self, initiation: bytes) -> tuple[bytes, bytes]:
        """(initiator's static public key, timestamp)."""
        self.their_index = initiation[4:8]
        self.their_ephemeral = initiation[8:40]
        self.mix_ephemeral(self.their_ephemeral)
        self.mix_dh(self.static_private, self.their_ephemeral)
        self.their_static = self.open(initiation[40:88])
        self.mix_dh(self.static_private, self.their_static)
        return self.their_static, self.open(initiation[88:116])

    def response(self, index: int) -> bytes:
        """92 bytes."""
        self.mix_ephemeral(self.ephemeral)
        self.mix_dh(self.ephemeral_private, self.their_ephemeral)
        self.mix_dh(self.ephemeral_private, self.their_static)
        self.mix_psk(self.psk)
        sealed = self.seal(b"")
        head = b"\2\0\0\0" + index.to_bytes(4, "little") + self.their_index
        return head + self.ephemeral + sealed + bytes(32)
