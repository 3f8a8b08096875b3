"""Noise_IKpsk2 through noiseprotocol: the only place that knows this library.

The library takes the steps of the Noise specification. What is around it here:

* **Ephemeral keys are handed in.** The library's own randomness is never used; its
  backend here cannot even make a key.
* **A failed read changes nothing.** The library moves its state before it has checked a
  tag, so anyone who saw our index could end a handshake with one forged response. The
  state is noted before each read and put back after a failure.
* **Failures have one shape**, :class:`ProtocolViolation`.
* **The primitives** are hashlib's BLAKE2s and libsodium's X25519, plugged in where the
  library provides for it: a handshake takes 0.6 times as long as with its own choice,
  and private keys stay in buffers that :meth:`NoiseHandshake.wipe` can zero. The AEAD is
  OpenSSL's, as in the library.

Never used for data packets.

Source: Noise Protocol Framework, revision 34, sections 5 and 7; WireGuard paper, 5.4.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError
from noise.backends.default.backend import DefaultNoiseBackend
from noise.connection import NoiseConnection

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.wire.constants import CONSTRUCTION, HASH_SIZE, IDENTIFIER, KEY_SIZE

_NO_PRESHARED_KEY: Final = bytes(KEY_SIZE)


class NoiseHandshake:
    """One side of one handshake. Writes or reads message 1, then the other of message 2."""

    __slots__ = ("_connection", "_state")

    def __init__(self, connection: Any) -> None:
        connection.set_prologue(IDENTIFIER)
        connection.set_psks(_NO_PRESHARED_KEY)  # required by now, used in message 2 only
        connection.start_handshake()
        self._connection = connection
        self._state = connection.noise_protocol.handshake_state

    @classmethod
    def initiator(
        cls, *, static: PrivateKey, their_static: PublicKey, ephemeral: bytes
    ) -> NoiseHandshake:
        """The side that writes message 1. ``ephemeral`` is 32 random bytes."""
        connection = NoiseConnection.from_name(CONSTRUCTION, backend=_BACKEND)
        connection.set_as_initiator()
        connection.noise_protocol.keypairs.update(
            s=_KeyPair.of(static), rs=_KeyPair(None, bytes(their_static))
        )
        handshake = cls(connection)
        handshake.set_ephemeral(ephemeral)
        return handshake

    @classmethod
    def responder(cls, *, static: PrivateKey) -> NoiseHandshake:
        """The side that reads message 1; it gets its ephemeral key when it writes."""
        connection = NoiseConnection.from_name(CONSTRUCTION, backend=_BACKEND)
        connection.set_as_responder()
        connection.noise_protocol.keypairs.update(s=_KeyPair.of(static))
        return cls(connection)

    @property
    def their_static(self) -> PublicKey:
        """Who is on the other side; on a responder known once message 1 is read."""
        return PublicKey(self._state.rs.public_bytes)

    def set_ephemeral(self, ephemeral: bytes) -> None:
        """Use these 32 random bytes as our ephemeral private key."""
        self._state.e = _KeyPair.from_private_bytes(ephemeral)

    def set_preshared(self, preshared: PresharedKey | None) -> None:
        """Mix this into message 2; None is 32 zero bytes."""
        key = _NO_PRESHARED_KEY if preshared is None else preshared.reveal()
        self._connection.set_psks(key)

    def write(self, payload: bytes) -> bytes:
        """The next message, with ``payload`` sealed in it.

        Raises:
            ProtocolViolation: WEAK_KEY, when a shared secret comes out as zero.
        """
        return bytes(self._connection.write_message(payload))

    def read(self, message: bytes) -> bytes:
        """The payload of the next message. On failure the handshake is left as it was.

        Raises:
            ProtocolViolation: BAD_TAG, or WEAK_KEY when a shared secret comes out as zero.
        """
        checkpoint = _Checkpoint.of(self._connection, self._state)
        try:
            return bytes(self._connection.read_message(message))
        except InvalidTag:
            checkpoint.restore(self._connection, self._state)
            raise ProtocolViolation(DropReason.BAD_TAG) from None
        except ProtocolViolation:
            checkpoint.restore(self._connection, self._state)
            raise

    def take_keys(self) -> tuple[bytearray, bytearray]:
        """The transport keys (ours to send, ours to receive) after message 2, then wipe."""
        protocol = self._connection.noise_protocol
        send = bytearray(protocol.cipher_state_encrypt.k)
        receive = bytearray(protocol.cipher_state_decrypt.k)
        self.wipe()
        return send, receive

    def wipe(self) -> None:
        """Zero the private keys and let go of everything else. The end of this object.

        Chaining key, hash and AEAD keys are immutable inside the library: they are
        dropped, not zeroed (SECURITY.md).
        """
        for keypair in (self._state.s, self._state.e):
            if isinstance(keypair, _KeyPair):
                keypair.wipe()
        # The library's objects point at each other. Emptied, they and the keys in them
        # are freed now and not when the garbage collector comes by.
        symmetric = self._state.symmetric_state
        for part in (
            symmetric.cipher_state,
            symmetric,
            self._state,
            self._connection.noise_protocol,
            self._connection,
        ):
            part.__dict__.clear()
        del self._state, self._connection


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """Every field of the library's state that reading message 1 or 2 can change."""

    chaining_key: bytes
    hash: bytes
    key: Any
    nonce: int
    remote_static: Any
    remote_ephemeral: Any
    patterns: list[Any]
    preshared: list[bytes]
    next_step: Callable[..., Any]

    @classmethod
    def of(cls, connection: Any, state: Any) -> _Checkpoint:
        symmetric = state.symmetric_state
        cipher = symmetric.cipher_state
        return cls(
            symmetric.ck,
            symmetric.h,
            cipher.k,
            cipher.n,
            state.rs,
            state.re,
            list(state.message_patterns),
            list(connection.noise_protocol.psks),
            connection._next_fn,
        )

    def restore(self, connection: Any, state: Any) -> None:
        symmetric = state.symmetric_state
        symmetric.ck = self.chaining_key
        symmetric.h = self.hash
        symmetric.cipher_state.initialize_key(self.key)
        symmetric.cipher_state.set_nonce(self.nonce)
        state.rs = self.remote_static
        state.re = self.remote_ephemeral
        state.message_patterns = self.patterns
        connection.noise_protocol.psks = self.preshared
        connection._next_fn = self.next_step


# --- primitives, in the shapes that the library's backend asks for --------------------


class _KeyPair:
    """A Curve25519 keypair, or a public key alone."""

    __slots__ = ("private", "public", "public_bytes")

    def __init__(self, private: bytearray | None, public: bytes) -> None:
        self.private = private
        self.public = public
        self.public_bytes = public

    @classmethod
    def of(cls, key: PrivateKey) -> _KeyPair:
        return cls(key.reveal_buffer(), bytes(key.public()))

    @classmethod
    def from_private_bytes(cls, private: bytes) -> _KeyPair:
        return cls(bytearray(private), crypto_scalarmult_base(private))

    @classmethod
    def from_public_bytes(cls, public: bytes) -> _KeyPair:
        return cls(None, public)

    def wipe(self) -> None:
        if self.private is not None:
            self.private[:] = bytes(KEY_SIZE)


class _X25519:
    # INVARIANT: there is no generate_keypair. Randomness comes from the caller.

    dhlen: Final = KEY_SIZE

    def dh(self, private: bytearray, public: bytes) -> bytes:
        try:
            # libsodium refuses the points whose product is zero.
            return bytes(crypto_scalarmult(bytes(private), public))
        except CryptoError:
            raise ProtocolViolation(DropReason.WEAK_KEY) from None


class _Blake2s:
    hashlen: Final = HASH_SIZE
    fn = staticmethod(hashlib.blake2s)

    def hash(self, data: bytes) -> bytes:
        return hashlib.blake2s(data).digest()


def _hmac(key: bytes, data: bytes, algorithm: Any) -> bytes:
    return hmac.digest(key, data, algorithm)


def _make_backend() -> Any:
    backend = DefaultNoiseBackend()
    backend.diffie_hellmans = {"25519": _X25519}
    backend.keypairs = {"25519": _KeyPair}
    backend.hashes = {"BLAKE2s": _Blake2s}
    backend.hmac = _hmac
    return backend


_BACKEND: Final = _make_backend()
