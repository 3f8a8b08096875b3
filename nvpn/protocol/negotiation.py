"""One peer's handshakes: the one that we seek, and those that the peer begins.

Messages and keys come out as values; what they mean for endpoints, sessions and the
datapath is :mod:`nvpn.protocol.peer`'s part.

Initiator and responder handshakes have a slot each, which the paper leaves open: the
Linux kernel has one for both, so that initiations which cross destroy each other there.
A peer's initiation is answered as it arrives, so that its slot is the keypair ``next``
in the datapath; ours waits here for its response.

Source: WireGuard paper, sections 5.1, 5.4 and 6.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.clock import Now
from nvpn.model.keys import PresharedKey, PublicKey
from nvpn.protocol.context import Context
from nvpn.protocol.cookies import MacStamper
from nvpn.protocol.handshake import InitiatorHandshake, ReceivedInitiation, SessionKeys
from nvpn.protocol.timers import CROSSING_TIMEOUT, Moment, PeerTimers
from nvpn.wire.constants import (
    KEY_SIZE,
    MAX_HANDSHAKE_ATTEMPTS,
    MIN_INITIATION_INTERVAL,
    REKEY_TIMEOUT,
)
from nvpn.wire.messages import CookieReply, Response

P = TypeVar("P")

_SPACING: Final = 5 * MIN_INITIATION_INTERVAL
"""Between two initiations at least, also over a network that holds the first up. The second one
takes the first one's place here, and would be too soon for the peer."""


class Negotiation(Generic[P]):
    """The state between "a session is wanted" and "there are keys".

    ``wanted``: a session is sought; ``attempts``: initiations made for it so far;
    ``doubted``: somebody was told that they are not answered;
    ``weak``: no secret can be shared with the peer's key, so that none is ever made.
    """

    __slots__ = (
        "_context",
        "_forget_source",
        "_greatest_timestamp",
        "_held",
        "_hurries_again_at",
        "_initiation_received_at",
        "_pending",
        "_pending_sent_at",
        "_public_key",
        "_sent_at",
        "_stamper",
        "_timers",
        "attempts",
        "doubted",
        "preshared_key",
        "wanted",
        "weak",
    )

    def __init__(self, context: Context[P], timers: PeerTimers[P], public_key: PublicKey) -> None:
        self.preshared_key: PresharedKey | None = None
        self.wanted = False
        self.weak = False
        self.attempts = 0
        self.doubted = False
        self._context: Final = context
        self._timers: Final = timers
        self._public_key: Final = public_key
        self._stamper: Final = MacStamper(public_key)
        self._forget_source = False
        self._pending: InitiatorHandshake | None = None
        self._pending_sent_at = 0
        self._sent_at: int | None = None  # the latest initiation or response
        self._greatest_timestamp = b""
        self._initiation_received_at: int | None = None
        self._held: ReceivedInitiation | None = None
        self._hurries_again_at = 0

    def set_preshared_key(self, key: PresharedKey | None) -> None:
        """Use a copy of it from the next handshake on; None or zeros for none."""
        if self.preshared_key is not None:
            self.preshared_key.wipe()
        self.preshared_key = None
        if key is not None and not key.is_zero:
            self.preshared_key = key.copy()

    # --- as initiator -----------------------------------------------------------------

    def seek(self, *, forget_source: bool) -> None:
        """A session is wanted from now on."""
        self.wanted = True
        self._forget_source = forget_source

    @property
    def exhausted(self) -> bool:
        """Whether there is no attempt left."""
        return self.attempts >= MAX_HANDSHAKE_ATTEMPTS

    @property
    def forgets_source(self) -> bool:
        """Whether the initiation just made should leave from whatever address the kernel
        chooses: the one used so far may be the trouble."""
        return self._forget_source or self.attempts > 1

    def must_wait(self, now: Now) -> bool:
        """Whether the last message is so recent that an initiation has to wait; it then
        becomes due by itself."""
        if self._sent_at is None or now.boot >= self._sent_at + REKEY_TIMEOUT:
            return False
        self._note(Moment.INITIATION_DUE_LATER, self._sent_at)
        return True

    def make_initiation(self, now: Now) -> bytes | None:
        """The next attempt: index, timestamp and ephemeral are new. It replaces the last.

        Returns:
            148 bytes; None when we have no private key, or no randomness. The next
            attempt is then due as if this one had been sent.

        Raises:
            ProtocolViolation: WEAK_KEY.
        """
        context = self._context
        static = context.static
        if static is None:
            return None
        self._drop_pending()
        self.attempts += 1
        self._note(Moment.INITIATION_SENT, now.boot)
        drawn = self._draw()
        if drawn is None:
            return None
        our_index, ephemeral = drawn
        try:
            self._pending = InitiatorHandshake.begin(
                static=static,
                their_static=self._public_key,
                our_index=our_index,
                timestamp=context.timestamps.next(now.wall),
                ephemeral=ephemeral,
            )
        except ProtocolViolation:
            context.indices.release(our_index)
            self.weak = True
            raise
        self._pending_sent_at = now.boot
        return self._stamp(self._pending.message, now)

    def consume_response(self, response: Response) -> SessionKeys:
        """Finish the handshake that we began. Its index lives on in the session.

        Raises:
            ProtocolViolation: NOT_EXPECTED, BAD_TAG, WEAK_KEY; it is left as it was then.
        """
        pending = self._pending
        if pending is None or pending.our_index != response.receiver:
            raise ProtocolViolation(DropReason.NOT_EXPECTED)
        keys = pending.consume_response(response, preshared=self.preshared_key)
        self._pending = None
        return keys

    def consume_cookie(self, reply: CookieReply, now: Now) -> None:
        """Keep the cookie for the next message.

        Raises:
            ProtocolViolation: NOT_EXPECTED, BAD_TAG.
        """
        self._stamper.consume_reply(reply, now.boot)

    # --- as responder -----------------------------------------------------------------

    def accept(self, received: ReceivedInitiation, received_at: int) -> None:
        """Take note of an initiation, unless it is old or too soon.

        Raises:
            ProtocolViolation: STALE_TIMESTAMP, TOO_SOON; nothing is changed then.
        """
        before = self._initiation_received_at
        reason = None
        if received.timestamp <= self._greatest_timestamp:
            reason = DropReason.STALE_TIMESTAMP
        elif before is not None and received_at < before + MIN_INITIATION_INTERVAL:
            reason = DropReason.TOO_SOON
        if reason is not None:
            received.wipe()
            raise ProtocolViolation(reason)
        self._greatest_timestamp = received.timestamp
        self._initiation_received_at = received_at

    def hold_back(self, received: ReceivedInitiation, now: Now) -> bool:
        """Keep an initiation unanswered that crosses our own, if it is ours that should win.

        Answered on both sides, crossing initiations end in two sessions, each side
        sending in the one it began; the next handshake then makes one side drop the
        session that the other still sends in. So the side with the greater public key
        holds its answer back: normally its own initiation is answered within the round
        trip, which settles both. If not, the answer is due CROSSING_TIMEOUT after our
        initiation. The other side always answers at once, since a peer with a single
        slot has given up its own initiation for ours.

        Departs from the paper, which does not say; see the module.
        """
        public = self._context.public
        if (
            self._pending is None
            or now.boot >= self._pending_sent_at + CROSSING_TIMEOUT
            or public is None
            or public < self._public_key
        ):
            return False
        self._drop_held(now)
        self._held = received
        self._note(Moment.INITIATION_CROSSED, self._pending_sent_at)
        return True

    def take_held(self) -> ReceivedInitiation | None:
        """The initiation that was held back, to be answered now."""
        held, self._held = self._held, None
        return held

    def answer(self, received: ReceivedInitiation, now: Now) -> tuple[bytes, SessionKeys] | None:
        """Answer an initiation; one that was held back is answered by that, too.

        Returns:
            92 bytes, and the keys of the session; None without randomness.

        Raises:
            ProtocolViolation: WEAK_KEY.
        """
        self._drop_held(now)
        drawn = self._draw()
        if drawn is None:
            received.wipe()
            return None
        our_index, ephemeral = drawn
        try:
            message, keys = received.respond(
                preshared=self.preshared_key, our_index=our_index, ephemeral=ephemeral
            )
        except ProtocolViolation:
            self._context.indices.release(our_index)
            raise
        return self._stamp(message, now), keys

    # --- ends -------------------------------------------------------------------------

    def end(self, now: Now) -> None:
        """No session is sought any more; what is under way is forgotten.

        A pending initiation goes with it when a session was confirmed: whoever has one
        does not need another.
        """
        self.wanted = False
        self.attempts = 0
        self.doubted = False
        self._drop_pending()
        self._drop_held(now)
        self._note(Moment.HANDSHAKE_OVER, now.boot)

    def allow_at_once(self) -> None:
        """The next initiation need not wait for the last message's five seconds."""
        self._sent_at = None

    def hurry(self, now: Now) -> None:
        """The network changed: the next initiation need hardly wait, if that was not said often.

        Twice in a row, since an old network goes before a new one comes, and every five
        seconds in the long run: an interface that flaps does not make a flood.
        """
        if now.boot + REKEY_TIMEOUT >= self._hurries_again_at:
            self._hurries_again_at = max(self._hurries_again_at, now.boot) + REKEY_TIMEOUT
            if self._sent_at is not None:
                self._sent_at -= REKEY_TIMEOUT - _SPACING

    def wipe(self) -> None:
        """Zero what secrets there are."""
        self._drop_pending()
        if self._held is not None:
            self._held.wipe()
        self.set_preshared_key(None)

    def _draw(self) -> tuple[int, bytes] | None:
        """A fresh index and 32 random bytes; None, and counted, without randomness."""
        context = self._context
        try:
            ephemeral = context.random(KEY_SIZE)
            return context.indices.reserve(self._timers.owner), ephemeral
        except OSError:
            context.drops[DropReason.HANDSHAKE_FAILED] += 1
            return None

    def _stamp(self, message: bytes, now: Now) -> bytes:
        self._sent_at = now.boot
        return self._stamper.stamp(message, now.boot)

    def _drop_pending(self) -> None:
        if self._pending is not None:
            self._context.indices.release(self._pending.our_index)
            self._pending.wipe()
            self._pending = None

    def _drop_held(self, now: Now) -> None:
        if self._held is not None:
            self._held.wipe()
            self._held = None
            self._note(Moment.CROSSING_SETTLED, now.boot)

    def _note(self, moment: Moment, at: int) -> None:
        self._context.timers.note(self._timers, moment, at)
