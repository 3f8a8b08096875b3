"""The three handshake messages as values, and the one parser for what a socket delivered.

All integers are little-endian. Byte 0 is the type, bytes 1 to 3 are zero; the four are
compared as one number. Every byte of a message lands in a field, so ``pack`` gives back
exactly what was parsed.

Source: WireGuard paper, sections 5.4.2, 5.4.3 and 5.4.7.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final, Union

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.wire.constants import (
    COOKIE_REPLY_SIZE,
    INITIATION_SIZE,
    MAC_SIZE,
    MIN_TRANSPORT_SIZE,
    RESPONSE_SIZE,
    ZERO_MAC,
)

_INITIATION: Final = struct.Struct("<II32s48s28s16s16s")
_RESPONSE: Final = struct.Struct("<III32s16s16s16s")
_COOKIE_REPLY: Final = struct.Struct("<II24s32s")


class MessageType(enum.IntEnum):
    """The first four bytes of a datagram, as a little-endian number."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3
    TRANSPORT = 4


@dataclass(frozen=True, slots=True)
class Initiation:
    """Type 1, 148 bytes: the initiator asks for a session.

    ``sender`` is the index by which the initiator wants to be answered.
    """

    sender: int
    ephemeral: bytes
    encrypted_static: bytes = field(repr=False)
    encrypted_timestamp: bytes = field(repr=False)
    mac1: bytes = ZERO_MAC
    mac2: bytes = ZERO_MAC

    @property
    def noise_message(self) -> bytes:
        """The 108 bytes that belong to Noise: ``e, es, s, ss`` and the timestamp."""
        return self.ephemeral + self.encrypted_static + self.encrypted_timestamp

    def pack(self) -> bytes:
        """The 148 bytes for the wire."""
        return _INITIATION.pack(
            MessageType.INITIATION,
            self.sender,
            self.ephemeral,
            self.encrypted_static,
            self.encrypted_timestamp,
            self.mac1,
            self.mac2,
        )


@dataclass(frozen=True, slots=True)
class Response:
    """Type 2, 92 bytes: the responder answers an initiation.

    ``receiver`` is the initiation's ``sender``; ``sender`` the responder's own index.
    """

    sender: int
    receiver: int
    ephemeral: bytes
    encrypted_empty: bytes = field(repr=False)
    mac1: bytes = ZERO_MAC
    mac2: bytes = ZERO_MAC

    @property
    def noise_message(self) -> bytes:
        """The 48 bytes that belong to Noise: ``e, ee, se, psk`` and an empty payload."""
        return self.ephemeral + self.encrypted_empty

    def pack(self) -> bytes:
        """The 92 bytes for the wire."""
        return _RESPONSE.pack(
            MessageType.RESPONSE,
            self.sender,
            self.receiver,
            self.ephemeral,
            self.encrypted_empty,
            self.mac1,
            self.mac2,
        )


@dataclass(frozen=True, slots=True)
class CookieReply:
    """Type 3, 64 bytes: a responder under load asks for proof of the source address.

    ``receiver`` is the ``sender`` of the message that it answers. It carries no macs.
    """

    receiver: int
    nonce: bytes
    encrypted_cookie: bytes

    def pack(self) -> bytes:
        """The 64 bytes for the wire."""
        return _COOKIE_REPLY.pack(
            MessageType.COOKIE_REPLY, self.receiver, self.nonce, self.encrypted_cookie
        )


Handshake = Union[Initiation, Response, CookieReply]  # noqa: UP007 - a runtime value


def message_type(datagram: bytes | memoryview) -> MessageType | None:
    """What the datagram claims to be, if its length fits the claim; else None.

    Types 1 to 3 have one length each, type 4 is at least 32 bytes long.
    """
    # A non-zero reserved byte makes the number larger than any type.
    kind = int.from_bytes(datagram[:4], "little")
    size = len(datagram)
    if kind == MessageType.TRANSPORT:
        return MessageType.TRANSPORT if size >= MIN_TRANSPORT_SIZE else None
    if kind == MessageType.INITIATION:
        return MessageType.INITIATION if size == INITIATION_SIZE else None
    if kind == MessageType.RESPONSE:
        return MessageType.RESPONSE if size == RESPONSE_SIZE else None
    if kind == MessageType.COOKIE_REPLY:
        return MessageType.COOKIE_REPLY if size == COOKIE_REPLY_SIZE else None
    return None


def parse_handshake(datagram: bytes | memoryview) -> Handshake:
    """The message in a datagram of type 1, 2 or 3. Checks lengths, and no mac.

    Raises:
        ProtocolViolation: MALFORMED for anything else, transport messages included.
    """
    kind = message_type(datagram)
    if kind is MessageType.INITIATION:
        return Initiation(*_INITIATION.unpack(datagram)[1:])
    if kind is MessageType.RESPONSE:
        return Response(*_RESPONSE.unpack(datagram)[1:])
    if kind is MessageType.COOKIE_REPLY:
        return CookieReply(*_COOKIE_REPLY.unpack(datagram)[1:])
    raise ProtocolViolation(DropReason.MALFORMED)


def sender_of(handshake: bytes | memoryview) -> int:
    """The index that an initiation or response wants to be answered by."""
    return int.from_bytes(handshake[4:8], "little")


def receiver_of(datagram: bytes | memoryview) -> int | None:
    """Which message of ours a response or cookie reply answers; None for anything else."""
    kind = message_type(datagram)
    if kind is MessageType.RESPONSE:
        return int.from_bytes(datagram[8:12], "little")
    if kind is MessageType.COOKIE_REPLY:
        return int.from_bytes(datagram[4:8], "little")
    return None


def before_mac1(message: bytes | memoryview) -> bytes | memoryview:
    """What mac1 of an initiation or response covers."""
    return message[: -2 * MAC_SIZE]


def before_mac2(message: bytes | memoryview) -> bytes | memoryview:
    """What mac2 of an initiation or response covers: mac1 included."""
    return message[:-MAC_SIZE]
