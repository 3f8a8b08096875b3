"""Keys, which cannot be printed by accident.

``repr``, ``str`` and format strings of a secret show ``(hidden)``; only ``reveal``
gives the bytes, so that a search for ``reveal`` finds every place that touches one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Any, Final, NoReturn, TypeVar

KEY_LENGTH: Final = 32

_S = TypeVar("_S", bound="_SecretKey")
_DIGITS: Final = tuple(b"%02x" % number for number in range(256))


def decode_base64_key(text: str) -> bytes:
    """The 32 bytes of a key as `wg` writes it: 44 characters of canonical base64.

    Raises:
        ValueError: any other text; the message never repeats it.
    """
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("a key is 44 characters of base64") from None
    if len(raw) != KEY_LENGTH or len(text) != 44 or base64.b64encode(raw) != text.encode():
        raise ValueError("a key is 44 characters of base64")
    return raw


def decode_hex_key(text: str) -> bytearray:
    """The 32 bytes of a key as the UAPI writes it: 64 hexadecimal digits of any case.

    Raises:
        ValueError: any other text; the message never repeats it.
    """
    if len(text) != 64 or not text.isascii() or not text.isalnum():
        raise ValueError("a key is 64 hexadecimal digits")
    try:
        return bytearray.fromhex(text)
    except ValueError:
        raise ValueError("a key is 64 hexadecimal digits") from None


class PublicKey:
    """A peer's Curve25519 public key: its identity. Hashable, ordered by bytes."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes | bytearray) -> None:
        if len(raw) != KEY_LENGTH:
            raise ValueError("a public key is 32 bytes")
        self._raw = bytes(raw)

    @classmethod
    def from_base64(cls, text: str) -> PublicKey:
        """Raises ValueError, see :func:`decode_base64_key`."""
        return cls(decode_base64_key(text))

    @classmethod
    def from_hex(cls, text: str) -> PublicKey:
        """Raises ValueError, see :func:`decode_hex_key`."""
        return cls(decode_hex_key(text))

    def __bytes__(self) -> bytes:
        return self._raw

    @property
    def base64(self) -> str:
        """44 characters, as `wg` prints it."""
        return base64.b64encode(self._raw).decode()

    @property
    def hex(self) -> str:
        """64 lower-case digits, as the UAPI carries it."""
        return self._raw.hex()

    @property
    def short(self) -> str:
        """The first 8 characters, for logs."""
        return self.base64[:8]

    def __str__(self) -> str:
        return self.base64

    def __repr__(self) -> str:
        return f"PublicKey({self.short}…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self._raw == other._raw

    def __lt__(self, other: PublicKey) -> bool:
        return self._raw < other._raw

    def __hash__(self) -> int:
        return hash(self._raw)


class _SecretKey:
    """32 secret bytes in a buffer of our own, so that ``wipe`` can zero them."""

    __slots__ = ("_buffer",)

    def __init__(self, raw: bytes | bytearray) -> None:
        if len(raw) != KEY_LENGTH:
            raise ValueError("a key is 32 bytes")
        self._buffer = bytearray(raw)

    @classmethod
    def from_base64(cls: type[_S], text: str) -> _S:
        """Raises ValueError, see :func:`decode_base64_key`."""
        return cls(decode_base64_key(text))

    @classmethod
    def from_hex(cls: type[_S], text: str) -> _S:
        """Raises ValueError, see :func:`decode_hex_key`."""
        raw = decode_hex_key(text)
        try:
            return cls(raw)
        finally:
            raw[:] = bytes(KEY_LENGTH)

    def copy(self: _S) -> _S:
        """One that is wiped by itself. Nothing in between is left behind."""
        return type(self)(self._buffer)

    def reveal_buffer(self) -> bytearray:
        """The 32 bytes, which the caller is to zero."""
        return bytearray(self._buffer)

    def reveal(self) -> bytes:
        """The 32 bytes. The copy is the caller's to forget."""
        return bytes(self._buffer)

    def reveal_base64(self) -> str:
        """44 characters, for a file or pipe that the user asked for."""
        return base64.b64encode(self._buffer).decode()

    def reveal_hex(self) -> str:
        """64 lower-case digits, for the control socket."""
        return self._buffer.hex()

    def write_hex(self, into: bytearray | memoryview, at: int) -> None:
        """What ``reveal_hex`` gives, written to ``into[at : at + 64]`` and nowhere else."""
        for number in self._buffer:
            into[at : at + 2] = _DIGITS[number]
            at += 2

    @property
    def is_zero(self) -> bool:
        """Whether all bytes are zero, which WireGuard reads as "none"."""
        return not any(self._buffer)

    def wipe(self) -> None:
        """Zero our buffer. Copies made by libraries are out of reach (SECURITY.md)."""
        self._buffer[:] = bytes(KEY_LENGTH)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and hmac.compare_digest(self._buffer, other._buffer)

    # Not hashable: a hash of a secret is a leak of it.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key cannot be pickled or copied")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise TypeError("a secret key cannot be pickled or copied")


class PrivateKey(_SecretKey):
    """A Curve25519 private key, clamped when it is made."""

    __slots__ = ("_public",)

    def __init__(self, raw: bytes | bytearray) -> None:
        super().__init__(raw)
        # RFC 7748, section 5. In place: a copy of the key would stay in memory.
        self._buffer[0] &= 248
        self._buffer[31] = (self._buffer[31] & 127) | 64
        self._public: PublicKey | None = None

    def public(self) -> PublicKey:
        """The public key that belongs to it (RFC 7748). Computed once."""
        if self._public is None:
            from nacl.bindings import crypto_scalarmult_base

            self._public = PublicKey(crypto_scalarmult_base(bytes(self._buffer)))
        return self._public


class PresharedKey(_SecretKey):
    """32 bytes mixed into the handshake on both sides. All zero means none."""

    __slots__ = ()
