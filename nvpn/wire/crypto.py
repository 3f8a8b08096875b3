"""The hashes and macs around the handshake, and the AEAD that cookies travel in.

Noise itself is not here, and neither are data packets.

Source: WireGuard paper, section 5.4; draft-irtf-cfrg-xchacha-03.
"""

from __future__ import annotations

import hashlib
import hmac

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.wire.constants import LABEL_COOKIE, LABEL_MAC1, MAC_SIZE


def hash_(data: bytes) -> bytes:
    """The paper's HASH: BLAKE2s, 32 bytes."""
    return hashlib.blake2s(data).digest()


def mac(key: bytes, data: bytes | memoryview) -> bytes:
    """The paper's MAC: keyed BLAKE2s, 16 bytes. The key is 16 or 32 bytes."""
    return hashlib.blake2s(data, digest_size=MAC_SIZE, key=key).digest()


def equal(one: bytes | memoryview, other: bytes | memoryview) -> bool:
    """Whether two macs are the same, in a time that does not depend on where they differ."""
    return hmac.compare_digest(one, other)


def mac1_key(public: PublicKey) -> bytes:
    """The key of mac1 on messages *to* this public key."""
    return hash_(LABEL_MAC1 + bytes(public))


def cookie_key(public: PublicKey) -> bytes:
    """The key that seals cookie replies *from* this public key."""
    return hash_(LABEL_COOKIE + bytes(public))


def cookie_for(secret: bytes, source: Endpoint) -> bytes:
    """The 16 bytes that whoever receives at ``source`` can show us.

    Bound to the port as well as to the address: behind one NAT live many.
    """
    return mac(secret, source.address + source.port.to_bytes(2, "big"))


def xchacha_seal(key: bytes, nonce: bytes, plaintext: bytes, *, ad: bytes) -> bytes:
    """XChaCha20-Poly1305 under a random 24-byte nonce: ciphertext ‖ 16-byte tag."""
    return bytes(crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, ad, nonce, key))


def xchacha_open(key: bytes, nonce: bytes, sealed: bytes, *, ad: bytes) -> bytes:
    """What :func:`xchacha_seal` was given.

    Raises:
        ProtocolViolation: BAD_TAG.
    """
    try:
        return bytes(crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, ad, nonce, key))
    except CryptoError:
        raise ProtocolViolation(DropReason.BAD_TAG) from None
