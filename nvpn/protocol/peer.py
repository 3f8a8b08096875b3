"""One peer: its handshakes, its sessions' names, and what its timers do.

Sans-IO: what arrives comes in with the time, what follows goes into the context as
commands and notices. The keys of a session are made here and leave at once for the
datapath; of each keypair only the index and the birth are kept.

Initiator and responder handshakes have a slot each, which the paper leaves open: the
Linux kernel has one for both, so that initiations which cross destroy each other there.
A responder's handshake is answered as it arrives, so that its slot is the keypair
``next`` in the datapath; the initiator's is ``_pending`` here.

Source: WireGuard paper, sections 5.4 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nvpn.datapath.api import (
    CreatePeer,
    DestroyPeer,
    DropStaged,
    EraseKeys,
    HandshakeReceived,
    InstallKeypair,
    KeypairConfirmed,
    KeypairGone,
    PeerId,
    Role,
    SendHandshake,
    SendKeepalive,
    SetPeerEndpoint,
    StopSending,
    Touch,
    Watch,
    Why,
)
from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.clock import SECOND, Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PublicKey
from nvpn.protocol.context import Context
from nvpn.protocol.cookies import MacStamper
from nvpn.protocol.handshake import InitiatorHandshake, ReceivedInitiation, SessionKeys
from nvpn.protocol.notices import HandshakeCompleted, HandshakeGivenUp, Roamed, SessionExpired
from nvpn.protocol.timers import (
    CROSSING_TIMEOUT,
    NEW_HANDSHAKE_TIMEOUT,
    Moment,
    PeerTimers,
    Timer,
)
from nvpn.wire.constants import (
    KEEPALIVE_TIMEOUT,
    MAX_HANDSHAKE_ATTEMPTS,
    MIN_INITIATION_INTERVAL,
    REJECT_AFTER_TIME,
    REKEY_AFTER_TIME,
    REKEY_AFTER_TIME_RECEIVING,
    REKEY_TIMEOUT,
)
from nvpn.wire.messages import CookieReply, Response

# A wish for a handshake may have been on its way up while new keys went down. One about
# a session younger than this was about the session before it.
_AGE_TO_WANT: Final[Mapping[Why, int]] = {
    Why.NO_KEY: REJECT_AFTER_TIME,
    Why.OLD_SENDING: REKEY_AFTER_TIME,
    Why.OLD_RECEIVING: REKEY_AFTER_TIME_RECEIVING,
    Why.MANY_MESSAGES: 0,
}

# A keepalive that we order is in the air by then.
_SENDING_DELAY: Final = 1 * SECOND


class Peer:
    """A peer of the device, from its creation in the datapath to :meth:`remove`.

    ``last_handshake`` is Unix time in nanoseconds, 0 for never; ``attempts`` how many
    initiations went unanswered so far; ``endpoint`` the latest we know, with the source
    that it was learned with.
    """

    __slots__ = (
        "_context",
        "_crossing",
        "_current",
        "_forget_source",
        "_greatest_timestamp",
        "_handshake_sent_at",
        "_initiation_received_at",
        "_keepalive_at",
        "_keypairs",
        "_pending",
        "_pending_sent_at",
        "_settled_at",
        "_stamper",
        "_timers",
        "_wanted",
        "_weak",
        "attempts",
        "endpoint",
        "id",
        "last_handshake",
        "persistent_keepalive",
        "preshared_key",
        "public_key",
    )

    def __init__(self, context: Context[Peer], peer_id: PeerId, public_key: PublicKey) -> None:
        self.id: Final = peer_id
        self.public_key: Final = public_key
        self.preshared_key: PresharedKey | None = None
        self.endpoint: Endpoint | None = None
        self.persistent_keepalive = 0
        self.last_handshake = 0
        self.attempts = 0
        self._context: Final = context
        self._timers: Final = PeerTimers(self)
        self._stamper: Final = MacStamper(public_key)
        # The handshake that we want, if any, and the initiation that is out for it.
        self._wanted = False
        self._forget_source = False
        self._weak = False  # no secret can be shared with this key
        self._pending: InitiatorHandshake | None = None
        self._pending_sent_at = 0
        self._handshake_sent_at: int | None = None  # initiation or response
        # What the peer initiated.
        self._greatest_timestamp = b""
        self._initiation_received_at: int | None = None
        self._crossing: ReceivedInitiation | None = None
        # Births of the keypairs that the datapath has, by our index.
        self._keypairs: dict[int, int] = {}
        self._current: int | None = None
        # Data sent until then needs no answer any more, whatever the datapath says yet.
        self._settled_at = 0
        self._keepalive_at = 0  # a passive keepalive that is to be repeated
        context.commands.append(CreatePeer(peer_id))

    def __repr__(self) -> str:
        return f"Peer({self.public_key.short}…)"

    @property
    def session_born_at(self) -> int | None:
        """When the session that we send in was derived; None when there is none."""
        return None if self._current is None else self._keypairs.get(self._current)

    # --- configuration ----------------------------------------------------------------

    def set_preshared_key(self, key: PresharedKey | None) -> None:
        """Use it from the next handshake on. The key is copied."""
        if self.preshared_key is not None:
            self.preshared_key.wipe()
        none = key is None or key.is_zero
        self.preshared_key = None if none or key is None else PresharedKey(key.reveal())

    def set_endpoint(self, endpoint: Endpoint | None, now: Now) -> None:
        """Send there, until an authentic packet comes from elsewhere."""
        appeared = self.endpoint is None and endpoint is not None
        if endpoint is not None and not endpoint.learned_at:
            endpoint = endpoint._replace(learned_at=now.boot)
        self.endpoint = endpoint
        self._context.commands.append(SetPeerEndpoint(self.id, endpoint))
        if appeared and self.persistent_keepalive and self._context.up:
            self._send_persistent_keepalive(now)

    def set_persistent_keepalive(self, seconds: int, now: Now) -> None:
        """Send a keepalive after so many seconds of silence; 0 for never.

        Turned on while the interface is up, it sends one at once.
        """
        before, self.persistent_keepalive = self.persistent_keepalive, seconds
        if not self._context.up or seconds == before:
            return
        if not seconds:
            self._note(Moment.PERSISTENT_KEEPALIVE_OFF, now.boot)
        elif not before:
            self._send_persistent_keepalive(now)
        else:
            self._await_silence(self._last_traversal(), seconds)

    def start(self, now: Now) -> None:
        """The interface went up."""
        if self.persistent_keepalive:
            self._send_persistent_keepalive(now)

    def stop(self, now: Now) -> None:
        """The interface went down: no timers, no keys, nothing staged."""
        self._forget_handshakes(now)
        self._handshake_sent_at = None
        self._current = None
        self._note(Moment.STOPPED, now.boot)
        self._watch(Watch.DATA_SENT, False)
        self._watch(Watch.DATA_RECEIVED, False)
        if self._keypairs:
            self._context.commands.append(EraseKeys(self.id))
        self._context.commands.append(DropStaged(self.id))

    def change_identity(self, now: Now) -> None:
        """Our private key is another: sessions stop sending, handshakes begin anew."""
        wanted = self._wanted
        self._forget_handshakes(now)
        self._handshake_sent_at = None
        self._current = None
        self._weak = False
        if self._keypairs:
            self._context.commands.append(StopSending(self.id))
        if wanted and self._context.static is not None:
            self._wanted = True
            self._note(Moment.INITIATION_DUE, now.boot)
        elif wanted:
            self._context.commands.append(DropStaged(self.id))

    def remove(self, now: Now) -> None:
        """Forget the peer here and in the datapath."""
        self._forget_handshakes(now)
        self._note(Moment.STOPPED, now.boot)
        # INVARIANT: the FIFO lets the datapath destroy these before it could install
        # their numbers again.
        for index in self._keypairs:
            self._context.indices.release(index)
        self._keypairs.clear()
        self.set_preshared_key(None)
        self._context.commands.append(DestroyPeer(self.id))

    def wipe(self) -> None:
        """Zero what secrets there are: the device closes."""
        self._drop_pending()
        if self._crossing is not None:
            self._crossing.wipe()
        self.set_preshared_key(None)

    # --- handshake messages -----------------------------------------------------------

    def receive_initiation(
        self, received: ReceivedInitiation, event: HandshakeReceived, now: Now
    ) -> None:
        """Answer an initiation that this peer made, unless it is old or too soon.

        Departs from the paper where it crosses ours. Answered on both sides, crossing
        initiations end in two sessions, each side sending in the one it began; the next
        handshake then drops the session that the other side still sends in. So the
        side with the greater public key holds its answer back: normally its own
        initiation is answered within the round trip, which settles both. If not, the
        answer goes out CROSSING_TIMEOUT after our initiation. The other side answers at
        once, since a peer with a single slot has given up its own initiation for ours.

        Raises:
            ProtocolViolation: STALE_TIMESTAMP, TOO_SOON, WEAK_KEY.
        """
        at = event.received_at
        if received.timestamp <= self._greatest_timestamp:
            received.wipe()
            raise ProtocolViolation(DropReason.STALE_TIMESTAMP)
        before = self._initiation_received_at
        if before is not None and at < before + MIN_INITIATION_INTERVAL:
            received.wipe()
            raise ProtocolViolation(DropReason.TOO_SOON)
        self._greatest_timestamp = received.timestamp
        self._initiation_received_at = at
        self._hear(event, now)
        if self._prevails(now):
            self._settle_crossing(now)
            self._crossing = received
            self._note(Moment.INITIATION_CROSSED, self._pending_sent_at)
        else:
            self._respond(received, now)

    def receive_response(self, response: Response, event: HandshakeReceived, now: Now) -> None:
        """Finish the handshake that we began.

        Raises:
            ProtocolViolation: NOT_EXPECTED, BAD_TAG, WEAK_KEY; nothing is changed then.
        """
        pending = self._pending
        if pending is None or pending.our_index != response.receiver:
            raise ProtocolViolation(DropReason.NOT_EXPECTED)
        keys = pending.consume_response(response, preshared=self.preshared_key)
        self._pending = None
        self._hear(event, now)
        self._install(Role.INITIATOR, keys, now)
        self._current = keys.our_index
        self._complete(now, now.wall)

    def receive_cookie(self, reply: CookieReply, now: Now) -> None:
        """Keep the cookie for the next message; nothing else changes, no timer and no endpoint.

        Raises:
            ProtocolViolation: NOT_EXPECTED, BAD_TAG.
        """
        self._stamper.consume_reply(reply, now.boot)

    # --- what the datapath tells ------------------------------------------------------

    def want_handshake(self, why: Why, now: Now) -> None:
        """The datapath needs a new session."""
        born_at = self.session_born_at
        if born_at is not None and now.boot - born_at < _AGE_TO_WANT[why]:
            return
        self.initiate(now)

    def initiate(self, now: Now, *, forget_source: bool = False) -> None:
        """Seek a session until there is one, or until the attempts are used up.

        INVARIANT: the datapath asks once. Whatever ends the search without a session
        has to send DropStaged, or it would never ask again.
        """
        context = self._context
        if self._wanted:
            return
        if not context.up or context.static is None or self.endpoint is None or self._weak:
            context.commands.append(DropStaged(self.id))
            return
        self._wanted = True
        self._forget_source = forget_source
        if not self._wait_after_handshake(now):
            self._send_initiation(now)

    def confirm(self, event: KeypairConfirmed, now: Now) -> None:
        """The peer used the session that it began: both have the keys."""
        if event.our_index in self._keypairs:
            self._current = event.our_index
            self._complete(now, now.wall - (now.boot - event.at))

    def lose(self, event: KeypairGone) -> None:
        """The datapath has dropped a keypair."""
        if self._keypairs.pop(event.our_index, None) is not None:
            self._context.indices.release(event.our_index)
            if self._current == event.our_index:
                self._current = None

    def roam(self, endpoint: Endpoint, now: Now) -> None:
        """An authentic packet came from elsewhere; the datapath sends there already."""
        known = self.endpoint
        if known is not None and endpoint.learned_at < known.learned_at:
            return
        self.endpoint = endpoint
        if known is not None and known.remote != endpoint.remote:
            self._context.notices.append(Roamed(self.public_key, now.wall, endpoint))

    def note_data_sent(self, now: Now) -> None:
        """Nobody watches whether our data is answered: watch.

        Also if it has been by now: somebody who is answered at once would otherwise
        cost an event for every packet.
        """
        if self._context.up:
            self._note(Moment.DATA_SENT, self._unanswered_data() or now.boot)
            self._watch(Watch.DATA_SENT, True)

    def note_data_received(self, now: Now) -> None:
        """Nobody watches whether we answer the peer's data: watch, as for what we sent."""
        if self._context.up:
            instant = self._context.datapath.activity(self.id).data_received_at
            self._note(Moment.DATA_RECEIVED, instant or now.boot)
            self._watch(Watch.DATA_RECEIVED, True)

    # --- timers -----------------------------------------------------------------------

    def handle_timer(self, timer: Timer, now: Now) -> None:
        """A timer fired.

        Raises:
            ProtocolViolation: from a handshake message that was answered late.
        """
        if timer is Timer.RETRY_HANDSHAKE:
            self._retry_handshake(now)
        elif timer is Timer.ANSWER_CROSSING:
            self._answer_crossing(now)
        elif timer is Timer.NEW_HANDSHAKE:
            self._check_answered(now)
        elif timer is Timer.SEND_KEEPALIVE:
            self._check_acknowledged(now)
        elif timer is Timer.PERSISTENT_KEEPALIVE:
            self._check_silence(now)
        else:
            self._erase_keys(now)

    def _retry_handshake(self, now: Now) -> None:
        if not self._wanted:
            return
        if self.attempts >= MAX_HANDSHAKE_ATTEMPTS:
            self._context.notices.append(
                HandshakeGivenUp(self.public_key, now.wall, self.endpoint)
            )
            self._abandon(now)
        elif not self._wait_after_handshake(now):
            self._send_initiation(now)

    def _answer_crossing(self, now: Now) -> None:
        received, self._crossing = self._crossing, None
        if received is not None:
            self._respond(received, now)

    def _check_answered(self, now: Now) -> None:
        self._watch(Watch.DATA_SENT, False)
        instant = self._unanswered_data()
        if not instant:
            return
        if now.boot < instant + NEW_HANDSHAKE_TIMEOUT:
            self._note(Moment.DATA_SENT, instant)
        else:
            self.initiate(now, forget_source=True)
            self._note(Moment.DATA_SENT, now.boot)
        self._watch(Watch.DATA_SENT, True)

    def _check_acknowledged(self, now: Now) -> None:
        self._watch(Watch.DATA_RECEIVED, False)
        activity = self._context.datapath.activity(self.id)
        instant = activity.data_received_at
        repeated, self._keepalive_at = self._keepalive_at, 0
        if not instant:
            return
        # Ten seconds from the first data, or from our last keepalive if it was followed
        # by data and by nothing else of ours: a mute receiver of steady data is heard
        # every ten seconds, not every ten and a bit.
        since_keepalive = repeated and activity.last_sent_at < repeated + _SENDING_DELAY
        due = (repeated if since_keepalive else instant) + KEEPALIVE_TIMEOUT
        if now.boot < due:
            self._note(Moment.DATA_RECEIVED, due - KEEPALIVE_TIMEOUT)
            self._watch(Watch.DATA_RECEIVED, True)
            return
        self._context.commands.append(SendKeepalive(self.id))
        if activity.last_data_received_at > instant:
            self._keepalive_at = now.boot
            self._note(Moment.KEEPALIVE_REPEATED, now.boot)
            self._watch(Watch.DATA_RECEIVED, True)

    def _check_silence(self, now: Now) -> None:
        latest = self._last_traversal()
        if now.boot < latest + self.persistent_keepalive * SECOND:
            self._await_silence(latest, self.persistent_keepalive)
        else:
            self._send_persistent_keepalive(now)

    def _erase_keys(self, now: Now) -> None:
        # A pending initiation is not touched: none outlives its retry.
        self._note(Moment.KEYS_ERASED, now.boot)
        self._current = None
        if self._keypairs:
            self._context.commands.append(EraseKeys(self.id))
            self._context.notices.append(SessionExpired(self.public_key, now.wall, self.endpoint))

    # --- handshakes -------------------------------------------------------------------

    def _send_initiation(self, now: Now) -> None:
        context = self._context
        static = context.static
        if static is None:
            return
        self._drop_pending()
        self.attempts += 1
        # Also when none can be made: without randomness the next try may do better.
        self._note(Moment.INITIATION_SENT, now.boot)
        try:
            index = context.indices.reserve(self)
        except OSError:
            context.drops[DropReason.HANDSHAKE_FAILED] += 1
            return
        try:
            self._pending = InitiatorHandshake.begin(
                static=static,
                their_static=self.public_key,
                preshared=self.preshared_key,
                our_index=index,
                timestamp=context.timestamps.next(now.wall),
                ephemeral=context.random(32),
            )
        except OSError:
            context.indices.release(index)
            context.drops[DropReason.HANDSHAKE_FAILED] += 1
            return
        except ProtocolViolation as violation:
            context.indices.release(index)
            context.drops[violation.reason] += 1
            self._weak = True
            self._abandon(now)
            return
        self._pending_sent_at = now.boot
        self._send(self._pending.message, now, self._forget_source or self.attempts > 1)

    def _respond(self, received: ReceivedInitiation, now: Now) -> None:
        context = self._context
        self._settle_crossing(now)
        try:
            index = context.indices.reserve(self)
        except OSError:
            received.wipe()
            context.drops[DropReason.HANDSHAKE_FAILED] += 1
            return
        try:
            message, keys = received.respond(
                preshared=self.preshared_key, our_index=index, ephemeral=context.random(32)
            )
        except OSError:
            received.wipe()
            context.indices.release(index)
            context.drops[DropReason.HANDSHAKE_FAILED] += 1
            return
        except ProtocolViolation:
            context.indices.release(index)
            raise
        # INVARIANT: the keypair is in place before the peer can use it.
        self._install(Role.RESPONDER, keys, now)
        self._send(message, now, False)

    def _send(self, message: bytes, now: Now, forget_source: bool) -> None:
        self._handshake_sent_at = now.boot
        stamped = self._stamper.stamp(message, now.boot)
        self._context.commands.append(SendHandshake(self.id, stamped, forget_source))

    def _install(self, role: Role, keys: SessionKeys, now: Now) -> None:
        self._keypairs[keys.our_index] = now.boot
        self._context.commands.append(
            InstallKeypair(
                self.id,
                role,
                keys.our_index,
                keys.their_index,
                keys.send,
                keys.receive,
                now.boot,
            )
        )
        self._note(Moment.SESSION_DERIVED, now.boot)

    def _hear(self, event: HandshakeReceived, now: Now) -> None:
        """An authentic handshake message came."""
        at = event.received_at
        self._settled_at = max(self._settled_at, at)
        endpoint = event.endpoint._replace(learned_at=at)
        if self.endpoint is None or at >= self.endpoint.learned_at:
            self.roam(endpoint, now)
            self._context.commands.append(SetPeerEndpoint(self.id, endpoint))
        # Before the keypair: what is flushed under that has no answer yet.
        self._context.commands.append(Touch(self.id, len(event.datagram), at))

    def _complete(self, now: Now, wall: int) -> None:
        # An initiation that is still out is dropped: whoever confirmed a session does
        # not need another.
        self._forget_handshakes(now)
        self.last_handshake = wall
        self._context.notices.append(HandshakeCompleted(self.public_key, wall, self.endpoint))

    def _abandon(self, now: Now) -> None:
        """Seek no session any more, until there is data again."""
        self._forget_handshakes(now)
        self._settled_at = now.boot
        self._note(Moment.HANDSHAKE_GIVEN_UP, now.boot)
        self._watch(Watch.DATA_RECEIVED, False)
        self._context.commands.append(DropStaged(self.id))

    def _forget_handshakes(self, now: Now) -> None:
        self._wanted = False
        self.attempts = 0
        self._drop_pending()
        self._settle_crossing(now)
        self._note(Moment.HANDSHAKE_OVER, now.boot)

    def _drop_pending(self) -> None:
        if self._pending is not None:
            self._context.indices.release(self._pending.our_index)
            self._pending.wipe()
            self._pending = None

    def _settle_crossing(self, now: Now) -> None:
        if self._crossing is not None:
            self._crossing.wipe()
            self._crossing = None
            self._note(Moment.CROSSING_SETTLED, now.boot)

    def _prevails(self, now: Now) -> bool:
        """Whether our initiation is the one of two crossing ones that should be answered."""
        public = self._context.public
        return (
            self._pending is not None
            and now.boot < self._pending_sent_at + CROSSING_TIMEOUT
            and public is not None
            and self.public_key < public
        )

    def _wait_after_handshake(self, now: Now) -> bool:
        """Whether the last message is so recent that the initiation has to wait."""
        sent_at = self._handshake_sent_at
        if sent_at is None or now.boot >= sent_at + REKEY_TIMEOUT:
            return False
        self._note(Moment.INITIATION_DUE_LATER, sent_at)
        return True

    # --- instants ---------------------------------------------------------------------

    def _unanswered_data(self) -> int:
        """When data was first sent that nothing came after; 0 for never."""
        instant = self._context.datapath.activity(self.id).data_sent_at
        return instant if instant > self._settled_at else 0

    def _last_traversal(self) -> int:
        activity = self._context.datapath.activity(self.id)
        return max(activity.last_sent_at, activity.last_received_at)

    def _send_persistent_keepalive(self, now: Now) -> None:
        self._context.commands.append(SendKeepalive(self.id))
        self._await_silence(now.boot, self.persistent_keepalive)

    def _await_silence(self, since: int, seconds: int) -> None:
        self._context.timers.note(
            self._timers, Moment.PERSISTENT_KEEPALIVE_SENT, since, seconds * SECOND
        )

    def _note(self, moment: Moment, at: int) -> None:
        self._context.timers.note(self._timers, moment, at)

    def _watch(self, what: Watch, watched: bool) -> None:
        self._context.datapath.watch(self.id, what, watched)
