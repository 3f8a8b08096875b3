"""Session keys and the three slots that a peer keeps them in.

A keypair knows its counter, its replay window and how long it may be used; the slots
know which keypair sends, which still receives, and which waits for its first packet.

Source: WireGuard paper, sections 5.4.6 and 6; slots as in the Linux kernel module.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.commands import InstallKeypair, Role
from nvpn.datapath.events import Why
from nvpn.datapath.replay import ReplayWindow
from nvpn.wire.constants import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REKEY_AFTER_TIME_RECEIVING,
)
from nvpn.wire.messages import MessageType

EXHAUSTED: Final = -1
"""What ``reserve`` returns when the key may send no more."""

Cipher = Callable[[Bytes, Bytes, None, Bytes], int]
"""``(nonce, input, None, output)``: bytes written."""

_HEADER: Final = struct.Struct("<II")


class Keypair:
    """One session: a key to send with, one to receive with, and their limits.

    ``seal`` and ``open`` are :class:`ChaCha20Poly1305`'s ``encrypt_into`` and
    ``decrypt_into``: ``seal(nonce, plaintext, None, buffer)`` and ``open(nonce,
    ciphertext_and_tag, None, buffer)``, the latter raising ``InvalidTag``. Input and
    buffer may be the same memory.

    Counters are handed out by ``reserve`` only, and each is handed out once: nothing
    else stands between two packets and one nonce.
    """

    __slots__ = (
        "_asked",
        "_receive_key",
        "_send_key",
        "born_at",
        "header",
        "may_send",
        "next_counter",
        "open",
        "our_index",
        "role",
        "seal",
        "their_index",
        "window",
    )

    def __init__(self, install: InstallKeypair) -> None:
        self.role: Final = install.role
        self.our_index: Final = install.our_index
        self.their_index: Final = install.their_index
        self.born_at: Final = install.born_at
        self.header: Final = _HEADER.pack(MessageType.TRANSPORT, install.their_index)
        """The first eight bytes of every packet that we send under it."""
        self.next_counter = 0
        self.may_send = True
        self.window: Final = ReplayWindow()
        self._send_key = install.send_key
        self._receive_key = install.receive_key
        self.seal: Cipher = ChaCha20Poly1305(install.send_key).encrypt_into
        self.open: Cipher = ChaCha20Poly1305(install.receive_key).decrypt_into
        self._asked: set[Why] = set()

    def __repr__(self) -> str:
        return f"Keypair({self.role.value}, our_index={self.our_index:#010x})"

    def may_send_at(self, now: int) -> bool:
        """Whether a packet may be sealed: age, counter, and not stopped."""
        return (
            self.may_send
            and self.next_counter < REJECT_AFTER_MESSAGES
            and now - self.born_at < REJECT_AFTER_TIME
        )

    def may_receive_at(self, now: int) -> bool:
        """Whether a packet may be opened: age only."""
        return now - self.born_at < REJECT_AFTER_TIME

    def reserve(self, count: int, now: int) -> int:
        """Hand out ``count`` consecutive counters, all or none.

        Returns:
            the first of them; EXHAUSTED when the key is too old, stopped, or has fewer
            than ``count`` left. They are gone even if nothing is sent with them.
        """
        first = self.next_counter
        if (
            not self.may_send
            or now - self.born_at >= REJECT_AFTER_TIME
            or first + count > REJECT_AFTER_MESSAGES
        ):
            return EXHAUSTED
        self.next_counter = first + count
        return first

    def wants_after_sending(self, now: int) -> Why | None:
        """Why this key should be renewed, having just sent; each reason is given once."""
        if self.role is Role.INITIATOR and now - self.born_at >= REKEY_AFTER_TIME:
            return self._ask(Why.OLD_SENDING)
        if self.next_counter > REKEY_AFTER_MESSAGES:
            return self._ask(Why.MANY_MESSAGES)
        return None

    def wants_after_receiving(self, now: int) -> Why | None:
        """Why this key should be renewed, having just received; given once.

        Not one that was stopped: what replaces it depends on who we are now.
        """
        if (
            self.role is Role.INITIATOR
            and now - self.born_at >= REKEY_AFTER_TIME_RECEIVING
            and self.may_send
        ):
            return self._ask(Why.OLD_RECEIVING)
        return None

    def wipe(self) -> None:
        """Zero our copies of the keys and let go of the ciphers.

        Whoever still holds the keypair finds that it neither seals nor opens.
        """
        self.may_send = False
        self.seal = self.open = _wiped
        zero(self._send_key, self._receive_key)

    def _ask(self, why: Why) -> Why | None:
        if why in self._asked:
            return None
        self._asked.add(why)
        return why


def zero(*keys: bytearray) -> None:
    """Overwrite keys in place."""
    for key in keys:
        key[:] = bytes(len(key))


def _wiped(*_: object) -> NoReturn:
    raise InvalidTag


class KeypairSlots:
    """``previous``, ``current`` and ``next`` of one peer (protocol rules 15 and 16).

    Each change returns the keypairs that left their last slot; the caller wipes them.

    INVARIANT: ``next`` only receives. The first packet under it proves that the
    initiator holds the key, and ``confirm`` promotes it.
    """

    __slots__ = ("current", "next", "previous")

    def __init__(self) -> None:
        self.previous: Keypair | None = None
        self.current: Keypair | None = None
        self.next: Keypair | None = None

    def __iter__(self) -> Iterator[Keypair]:
        for keypair in (self.previous, self.current, self.next):
            if keypair is not None:
                yield keypair

    def install(self, new: Keypair) -> list[Keypair]:
        """Take a keypair that a handshake gave, into the slot that its role says."""
        if new.role is Role.RESPONDER:
            gone = [self.previous, self.next]
            self.previous, self.next = None, new
        elif self.next is not None:
            gone = [self.previous, self.current]
            self.previous, self.current, self.next = self.next, new, None
        else:
            gone = [self.previous]
            self.previous, self.current = self.current, new
        return [keypair for keypair in gone if keypair is not None]

    def confirm(self) -> list[Keypair]:
        """Promote ``next``: its first authentic packet has come."""
        gone = self.previous
        self.previous, self.current, self.next = self.current, self.next, None
        return [] if gone is None else [gone]

    def stop_sending(self) -> list[Keypair]:
        """Send nothing more under ``current``, forget ``next``."""
        if self.current is not None:
            self.current.may_send = False
        gone, self.next = self.next, None
        return [] if gone is None else [gone]

    def clear(self) -> list[Keypair]:
        """Forget all three."""
        gone = list(self)
        self.previous = self.current = self.next = None
        return gone
