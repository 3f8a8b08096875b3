"""Which handshake messages are worth a Diffie-Hellman: macs, cookies and the limiter.

Knows no peers. Its state is three keys, the instant until which we count as loaded, and
two bounded tables of sources; its inputs are the datagram, where it came from, how much
work is queued, the time and randomness. A datapath in another language repeats it from
this file and the same vectors.

Load is judged by queued work and by nothing else: a count per source would let a flood
from many addresses through, a count of all messages would put every honest
peer into cookie mode.

Source: WireGuard paper, sections 5.3, 5.4.4 and 5.4.7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Union

from nvpn.errors import DropReason
from nvpn.model.endpoint import Endpoint
from nvpn.wire.constants import (
    COOKIE_NONCE_SIZE,
    COOKIE_REPLY_BURST,
    COOKIE_REPLY_INTERVAL,
    LIMITED_BURST,
    LIMITED_INTERVAL,
    LIMITER_SWEEP_INTERVAL,
    MAC_SIZE,
    MAX_LIMITED_SOURCES,
    UNDER_LOAD_QUEUED,
    UNDER_LOAD_TIME,
    ZERO_MAC,
)
from nvpn.wire.crypto import cookie_for, equal, mac, xchacha_seal
from nvpn.wire.messages import (
    CookieReply,
    MessageType,
    before_mac1,
    before_mac2,
    message_type,
)
from nvpn.wire.token_bucket import TokenBucket


@dataclass(frozen=True, slots=True)
class Accepted:
    """Queue the message for the protocol."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Forget the message, and count it. Nobody gets an answer."""

    reason: DropReason


@dataclass(frozen=True, slots=True)
class Answered:
    """Forget the message, count it as COOKIE_REQUIRED, and send these 64 bytes back.

    When there are too many to answer, a message that needs a cookie is merely dropped, for
    the same reason.
    """

    cookie_reply: bytes = field(repr=False)


Verdict = Union[Accepted, Dropped, Answered]  # noqa: UP007 - a runtime value

_ACCEPTED: Final = Accepted()
_LIMITED: Final = TokenBucket(LIMITED_INTERVAL, LIMITED_BURST)
_REPLIES: Final = TokenBucket(COOKIE_REPLY_INTERVAL, COOKIE_REPLY_BURST)
_HALF_OF_THE_REPLIES: Final = TokenBucket(COOKIE_REPLY_INTERVAL, COOKIE_REPLY_BURST // 2)


class Admission:
    """Judges each datagram of type 1, 2 or 3. Until it is configured it drops them all."""

    __slots__ = ("_cookie_key", "_limiter", "_loaded_until", "_mac1_key", "_ration", "_secret")

    def __init__(self) -> None:
        self._mac1_key: bytes | None = None
        self._cookie_key: bytes | None = None
        self._secret: bytes | None = None
        self._loaded_until = 0
        self._limiter = SourceLimiter()
        self._ration = ReplyRation()

    def configure(
        self, mac1_key: bytes | None, cookie_key: bytes | None, secret: bytes | None
    ) -> None:
        """Take the keys that follow from our public key, and the secret of our cookies.

        All None when we have no private key.
        """
        self._mac1_key = mac1_key
        self._cookie_key = cookie_key
        self._secret = secret

    def under_load(self, queued: int, now: int) -> bool:
        """Whether senders must prove their address: the queue is an eighth full, or was
        within the last second."""
        if queued >= UNDER_LOAD_QUEUED:
            self._loaded_until = now + UNDER_LOAD_TIME
            return True
        return now < self._loaded_until

    def judge(
        self,
        datagram: bytes | memoryview,
        endpoint: Endpoint,
        *,
        queued: int,
        now: int,
        random: Callable[[int], bytes],
    ) -> Verdict:
        """What to do with a handshake message, whatever bytes it is made of.

        Args:
            endpoint: where it came from.
            queued: handshake messages that wait already.
            now: boot-clock nanoseconds.
            random: gives that many random bytes; asked only for a cookie reply's nonce.
        """
        kind = message_type(datagram)
        if kind is None or kind is MessageType.TRANSPORT:
            return Dropped(DropReason.MALFORMED)
        mac1_key, cookie_key, secret = self._mac1_key, self._cookie_key, self._secret
        if mac1_key is None or cookie_key is None or secret is None:
            return Dropped(DropReason.NOT_EXPECTED)
        if kind is MessageType.COOKIE_REPLY:
            # Carries no macs, and opening one costs no Diffie-Hellman. The caller has made
            # sure that it answers a message of ours.
            return _ACCEPTED

        mac1 = datagram[-2 * MAC_SIZE : -MAC_SIZE]
        if not equal(mac(mac1_key, before_mac1(datagram)), mac1):
            return Dropped(DropReason.BAD_MAC1)
        if not self.under_load(queued, now):
            return _ACCEPTED  # mac2 may hold anything

        mac2 = datagram[-MAC_SIZE:]
        has_cookie = mac2 != ZERO_MAC and equal(
            mac(cookie_for(secret, endpoint), before_mac2(datagram)), mac2
        )
        if not has_cookie:
            if not self._ration.admit(endpoint, now):
                return Dropped(DropReason.COOKIE_REQUIRED)
            cookie = cookie_for(secret, endpoint)
            return _ask_for_cookie(cookie_key, cookie, datagram, random)
        if not self._limiter.admit(endpoint, now):
            return Dropped(DropReason.RATE_LIMITED)
        return _ACCEPTED


class SourceLimiter:
    """So many messages a second from one source, in a table of bounded size.

    A source is an IPv4 address, or an IPv6 /64, on one path. For each the table holds the
    instant at which its bucket is full again, until that has passed.
    """

    __slots__ = ("_full_again", "_next_sweep")

    def __init__(self) -> None:
        self._full_again: dict[tuple[int, bytes], int] = {}
        self._next_sweep = 0

    def __len__(self) -> int:
        return len(self._full_again)

    def admit(self, endpoint: Endpoint, now: int) -> bool:
        """Whether one more message from there is within its rate; if so it is counted.

        When the table is full, sources that are not in it are refused.
        """
        if now >= self._next_sweep:
            self._sweep(now)
        source = endpoint.path, endpoint.address[:8]
        known = self._full_again.get(source)
        full_again = _LIMITED.take(known or 0, now)
        if full_again is None or (known is None and len(self) >= MAX_LIMITED_SOURCES):
            return False
        self._full_again[source] = full_again
        return True

    def _sweep(self, now: int) -> None:
        self._next_sweep = now + LIMITER_SWEEP_INTERVAL
        self._full_again = {
            source: instant for source, instant in self._full_again.items() if instant > now
        }


class ReplyRation:
    """How many cookie replies we make, first of all for sources that ask moderately.

    A source has the same allowance as a sender with a cookie. Beyond it, it is served as
    long as more than half of the ration is left: anybody can ask in anybody's name here,
    and must not be able to use up a victim's share by asking a little more than it.
    """

    __slots__ = ("_full_again", "_sources")

    def __init__(self) -> None:
        self._sources = SourceLimiter()
        self._full_again = 0

    def admit(self, endpoint: Endpoint, now: int) -> bool:
        """Whether one more reply there is within the ration; if so it is counted."""
        bucket = _REPLIES if self._sources.admit(endpoint, now) else _HALF_OF_THE_REPLIES
        full_again = bucket.take(self._full_again, now)
        if full_again is None:
            return False
        self._full_again = full_again
        return True


def _ask_for_cookie(
    cookie_key: bytes,
    cookie: bytes,
    datagram: bytes | memoryview,
    random: Callable[[int], bytes],
) -> Verdict:
    try:
        nonce = random(COOKIE_NONCE_SIZE)
    except OSError:
        # No randomness (yet): the sender tries again, and so do we.
        return Dropped(DropReason.COOKIE_REQUIRED)
    mac1 = bytes(datagram[-2 * MAC_SIZE : -MAC_SIZE])
    sender = int.from_bytes(datagram[4:8], "little")
    sealed = xchacha_seal(cookie_key, nonce, cookie, ad=mac1)
    return Answered(CookieReply(sender, nonce, sealed).pack())
