"""Macs on what we send, the cookie we were given, and the secret behind those we give.

Judging what *arrives* by its macs is :mod:`nvpn.wire.admission`'s part.

Source: WireGuard paper, sections 5.4.4 and 5.4.7.
"""

from __future__ import annotations

from collections.abc import Callable

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.keys import PublicKey
from nvpn.wire.constants import (
    COOKIE_LIFETIME,
    COOKIE_SECRET_LIFETIME,
    KEY_SIZE,
    ZERO_MAC,
)
from nvpn.wire.crypto import cookie_key, mac, mac1_key, xchacha_open
from nvpn.wire.messages import CookieReply, before_mac1


class MacStamper:
    """Puts mac1 and mac2 on the handshake messages for one peer."""

    __slots__ = ("_cookie", "_cookie_at", "_cookie_key", "_last_mac1", "_mac1_key")

    def __init__(self, their_static: PublicKey) -> None:
        self._mac1_key = mac1_key(their_static)
        self._cookie_key = cookie_key(their_static)
        self._last_mac1: bytes | None = None
        self._cookie: bytes | None = None
        self._cookie_at = 0

    def stamp(self, message: bytes, now: int) -> bytes:
        """The initiation or response with its macs, ready to be sent.

        mac2 stays zero unless the peer gave us a cookie that is still good.

        Args:
            now: boot-clock nanoseconds.
        """
        body = before_mac1(message)
        mac1 = mac(self._mac1_key, body)
        self._last_mac1 = mac1
        stamped = bytes(body) + mac1
        if self._cookie is not None and now - self._cookie_at >= COOKIE_LIFETIME:
            self._cookie = None
        if self._cookie is None:
            return stamped + ZERO_MAC
        return stamped + mac(self._cookie, stamped)

    def consume_reply(self, reply: CookieReply, now: int) -> None:
        """Keep the cookie for the next message. Nothing is sent for it.

        A reply answers one message, the last one stamped; a second reply to it is not
        expected. On failure nothing is forgotten.

        Raises:
            ProtocolViolation: NOT_EXPECTED, or BAD_TAG.
        """
        if self._last_mac1 is None:
            raise ProtocolViolation(DropReason.NOT_EXPECTED)
        self._cookie = xchacha_open(
            self._cookie_key, reply.nonce, reply.encrypted_cookie, ad=self._last_mac1
        )
        self._cookie_at = now
        self._last_mac1 = None


class CookieSecret:
    """The 32 bytes that our cookies are made from. The datapath gets them by SetAdmission.

    Nobody needs to wake up for it: asking :meth:`renew` whenever a handshake message
    arrives is often enough, since no cookie is made while none does.
    """

    __slots__ = ("_born_at", "_random", "value")

    def __init__(self, random: Callable[[int], bytes], now: int) -> None:
        self._random = random
        self._born_at = now
        self.value = random(KEY_SIZE)

    def renew(self, now: int) -> bool:
        """Whether :attr:`value` changed, which it does when it is 120 s old.

        A failing ``random`` raises through, and leaves the old secret in place.
        """
        if now - self._born_at < COOKIE_SECRET_LIFETIME:
            return False
        self.value = self._random(KEY_SIZE)
        self._born_at = now
        return True
