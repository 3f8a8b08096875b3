"""One peer: what it is configured with, what it tells us, and what its timers do.

Sans-IO: what arrives comes in with the time, what follows goes into the context as
commands and notices. The keys of a session leave for the datapath as soon as they are
made.

Source: WireGuard paper, section 6; where it is silent, the Linux kernel module.
"""

from __future__ import annotations

from typing import Final

from nvpn.datapath.commands import (
    Command,
    CreatePeer,
    DestroyPeer,
    DropStaged,
    EraseKeys,
    PeerId,
    Role,
    SendHandshake,
    SetPeerEndpoint,
    StopSending,
    Touch,
)
from nvpn.datapath.events import HandshakeReceived, KeypairConfirmed, KeypairGone, Why
from nvpn.errors import ProtocolViolation
from nvpn.model.clock import MILLISECOND, Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.protocol.context import Context
from nvpn.protocol.handshake import ReceivedInitiation, SessionKeys
from nvpn.protocol.liveness import Liveness
from nvpn.protocol.negotiation import Negotiation
from nvpn.protocol.sessions import Sessions
from nvpn.protocol.timers import Moment, PeerTimers, Timer
from nvpn.wire.messages import CookieReply, Response

MAX_CANDIDATES: Final = 8
"""Places beside its endpoint where a peer is looked for."""

_ATTEMPTS_TO_DOUBT: Final = 2
"""Initiations that may be lost before somebody should look whether the peer has moved."""

_SETTLED_AFTER: Final = 100 * MILLISECOND
"""A session younger than this was made over the network as it is now: whoever tells of a
change waits as long for what belongs to it. The peer would refuse an initiation this soon."""


class Peer:
    """A peer of the device, from its creation in the datapath to :meth:`remove`.

    ``last_handshake`` is Unix time in nanoseconds, 0 for never; ``endpoint`` the latest
    we know, with our own address that it was learned at.
    """

    __slots__ = (
        "_candidates",
        "_context",
        "_liveness",
        "_negotiation",
        "_sessions",
        "_timers",
        "endpoint",
        "id",
        "last_handshake",
        "public_key",
    )

    def __init__(self, context: Context[Peer], peer_id: PeerId, public_key: PublicKey) -> None:
        self.id: Final = peer_id
        self.public_key: Final = public_key
        self.endpoint: Endpoint | None = None
        self.last_handshake = 0
        self._candidates: tuple[Endpoint, ...] = ()
        self._context: Final = context
        self._timers: Final = PeerTimers(self)
        self._liveness: Final = Liveness(context, self._timers, peer_id)
        self._negotiation: Final = Negotiation(context, self._timers, public_key)
        self._sessions: Final = Sessions(context, peer_id)
        context.commands.append(CreatePeer(peer_id))

    def __repr__(self) -> str:
        return f"Peer({self.public_key.short}…)"

    @property
    def preshared_key(self) -> PresharedKey | None:
        """Mixed into the next handshake."""
        return self._negotiation.preshared_key

    @property
    def persistent_keepalive(self) -> int:
        """In seconds; 0 for off."""
        return self._liveness.persistent_keepalive

    @property
    def attempts(self) -> int:
        """Initiations that went unanswered so far."""
        return self._negotiation.attempts

    @property
    def session_born_at(self) -> int | None:
        """When the session that we send in was derived; None when there is none."""
        return self._sessions.born_at

    # --- configuration ----------------------------------------------------------------

    def set_preshared_key(self, key: PresharedKey | None) -> None:
        """Use it from the next handshake on. The key is copied."""
        self._negotiation.set_preshared_key(key)

    def set_endpoint(self, endpoint: Endpoint | None, now: Now) -> None:
        """Send there, until an authentic packet comes from elsewhere."""
        appeared = self.endpoint is None and endpoint is not None
        if endpoint is not None and not endpoint.learned_at:
            endpoint = endpoint._replace(learned_at=now.boot)
        self.endpoint = endpoint
        self._order(SetPeerEndpoint(self.id, endpoint))
        if appeared:
            self._liveness.send_persistent_keepalive(now)

    def set_candidates(self, endpoints: tuple[Endpoint, ...], now: Now) -> None:
        """Look for it there, too, whenever it is not known to be at its endpoint.

        The first of them becomes the endpoint of a peer that has none.
        """
        places: dict[tuple[bytes, int, int, int], Endpoint] = {}
        for endpoint in endpoints:
            places.setdefault(endpoint.remote, endpoint)
        # One more than are used at once: the endpoint itself may be among them.
        self._candidates = tuple(places.values())[: MAX_CANDIDATES + 1]
        if self.endpoint is None and endpoints:
            self.set_endpoint(endpoints[0], now)

    def set_persistent_keepalive(self, seconds: int, now: Now) -> None:
        """Send a keepalive after so many seconds of silence; 0 for never."""
        self._liveness.set_persistent_keepalive(seconds, now)

    def start(self, now: Now) -> None:
        """The interface went up."""
        self._liveness.send_persistent_keepalive(now)

    def stop(self, now: Now) -> None:
        """The interface went down: no timers, no keys, nothing staged."""
        self._negotiation.end(now)
        self._negotiation.allow_at_once()
        self._note(Moment.STOPPED, now.boot)
        self._liveness.stop()
        if self._sessions:
            self._tell(NoticeKind.SESSION_ENDED, now.wall)
        self._sessions.retire(EraseKeys(self.id))
        self._order(DropStaged(self.id))

    def change_identity(self, now: Now) -> None:
        """Our private key is another: sessions stop sending, handshakes begin anew."""
        negotiation = self._negotiation
        wanted = negotiation.wanted
        negotiation.end(now)
        negotiation.allow_at_once()
        negotiation.weak = False
        self._sessions.retire(StopSending(self.id))
        if wanted and self._context.static is not None:
            negotiation.seek(forget_source=False)
            self._note(Moment.INITIATION_DUE, now.boot)
        elif wanted:
            self._order(DropStaged(self.id))

    def remove(self, now: Now) -> None:
        """Forget the peer here and in the datapath."""
        self._negotiation.end(now)
        self._negotiation.wipe()
        self._note(Moment.STOPPED, now.boot)
        self._context.timers.forget(self._timers)
        if self._sessions:
            self._tell(NoticeKind.SESSION_ENDED, now.wall)
        self._sessions.forget()
        self._order(DestroyPeer(self.id))

    def wipe(self) -> None:
        """Zero what secrets there are: the device closes."""
        self._negotiation.wipe()

    # --- handshake messages -----------------------------------------------------------

    def receive_initiation(
        self, received: ReceivedInitiation, event: HandshakeReceived, now: Now
    ) -> None:
        """Answer an initiation that this peer made, at once or when it is settled that ours,
        which crossed it, gets no answer.

        Raises:
            ProtocolViolation: STALE_TIMESTAMP, TOO_SOON, WEAK_KEY.
        """
        self._negotiation.accept(received, event.received_at)
        self._hear(event, now)
        if not self._negotiation.hold_back(received, now):
            self._answer(received, now)

    def receive_response(self, response: Response, event: HandshakeReceived, now: Now) -> None:
        """Finish the handshake that we began.

        Raises:
            ProtocolViolation: NOT_EXPECTED, BAD_TAG, WEAK_KEY; nothing is changed then.
        """
        keys = self._negotiation.consume_response(response)
        self._hear(event, now)
        self._install(Role.INITIATOR, keys, now)
        self._complete(now, now.wall)

    def receive_cookie(self, reply: CookieReply, now: Now) -> None:
        """Keep the cookie for the next message; no timer and no endpoint changes.

        Raises:
            ProtocolViolation: NOT_EXPECTED, BAD_TAG.
        """
        self._negotiation.consume_cookie(reply, now)

    # --- what the datapath tells ------------------------------------------------------

    def want_handshake(self, why: Why, now: Now) -> None:
        """The datapath needs a new session."""
        if not self._sessions.is_too_young_for(why, now):
            self.initiate(now)

    def initiate(self, now: Now, *, forget_source: bool = False) -> None:
        """Seek a session until there is one, or until the attempts are used up.

        INVARIANT: the datapath asks once. Whatever ends the search without a session
        has to send DropStaged, or it would never ask again.
        """
        context, negotiation = self._context, self._negotiation
        if negotiation.wanted:
            return
        possible = context.up and context.static is not None and self.endpoint is not None
        if not possible or negotiation.weak:
            self._order(DropStaged(self.id))
            return
        negotiation.seek(forget_source=forget_source)
        if not negotiation.must_wait(now):
            self._send_initiation(now)

    def renew(self, now: Now) -> bool:
        """The network around us is another: seek a new session with a peer that has or
        seeks one, or is to be kept awake, wherever it may be, and without waiting for the
        last attempt to have had its time.

        Returns:
            whether an initiation was made.
        """
        context, negotiation = self._context, self._negotiation
        born_at = self.session_born_at
        if born_at is not None and now.boot < born_at + _SETTLED_AFTER:
            return False
        is_awaited = (
            self._sessions.may_send(now) or negotiation.wanted or self.persistent_keepalive
        )
        possible = context.up and context.static is not None and self.endpoint is not None
        if not is_awaited or not possible or negotiation.weak:
            return False
        negotiation.seek(forget_source=True)
        negotiation.hurry(now)
        if negotiation.must_wait(now):
            return False
        self._send_initiation(now)
        return True

    def confirm(self, event: KeypairConfirmed, now: Now) -> None:
        """The peer used the session that it began: both have the keys."""
        if self._sessions.confirm(event.our_index):
            self._complete(now, now.wall - (now.boot - event.at))

    def lose(self, event: KeypairGone) -> None:
        """The datapath has dropped a keypair."""
        self._sessions.lose(event.our_index)

    def roam(self, endpoint: Endpoint, now: Now) -> None:
        """An authentic packet came from elsewhere; the datapath sends there already."""
        known = self.endpoint
        if known is not None and endpoint.learned_at < known.learned_at:
            return
        self.endpoint = endpoint
        if known is not None and known.remote != endpoint.remote:
            self._tell(NoticeKind.ROAMED, now.wall)

    def note_data_sent(self, now: Now) -> None:
        """Nobody watches whether our data is answered."""
        if self._context.up:
            self._liveness.note_data_sent(now)

    def note_data_received(self, now: Now) -> None:
        """Nobody watches whether we answer the peer's data."""
        if self._context.up:
            self._liveness.note_data_received(now)

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
            if self._liveness.is_lost(now):
                self.initiate(now, forget_source=True)
        elif timer is Timer.SEND_KEEPALIVE:
            self._liveness.acknowledge(now)
        elif timer is Timer.PERSISTENT_KEEPALIVE:
            self._liveness.break_silence(now)
        else:
            self._erase_keys(now)

    def _retry_handshake(self, now: Now) -> None:
        negotiation = self._negotiation
        if not negotiation.wanted:
            return
        if negotiation.exhausted:
            self._tell(NoticeKind.HANDSHAKE_GIVEN_UP, now.wall)
            self._abandon(now)
            return
        if negotiation.attempts >= _ATTEMPTS_TO_DOUBT and not negotiation.doubted:
            negotiation.doubted = True
            self._tell(NoticeKind.HANDSHAKE_UNANSWERED, now.wall)
        if not negotiation.must_wait(now):
            self._send_initiation(now)

    def _answer_crossing(self, now: Now) -> None:
        received = self._negotiation.take_held()
        if received is not None:
            self._answer(received, now)

    def _erase_keys(self, now: Now) -> None:
        # A pending initiation is not touched: none outlives its retry.
        self._note(Moment.KEYS_ERASED, now.boot)
        if self._sessions:
            self._sessions.retire(EraseKeys(self.id))
            self._tell(NoticeKind.SESSION_EXPIRED, now.wall)

    # --- handshakes -------------------------------------------------------------------

    def _send_initiation(self, now: Now) -> None:
        try:
            message = self._negotiation.make_initiation(now)
        except ProtocolViolation as violation:
            self._context.drops[violation.reason] += 1
            self._abandon(now)
            return
        if message is None:
            return
        forget_source = self._negotiation.forgets_source
        also = self._elsewhere() if forget_source or not self._sessions.may_send(now) else ()
        self._order(SendHandshake(self.id, message, forget_source, also))

    def _elsewhere(self) -> tuple[Endpoint, ...]:
        """Where the peer may be beside its endpoint.

        Departs from the paper, which knows one place: the same initiation goes to all of
        them. The first copy to arrive is answered, the others are stale there; the first
        authentic answer makes its sender the endpoint. A session that lives is renewed at
        the endpoint alone, which has proven itself: not to be moved by chance each time.
        """
        if self.endpoint is None:
            return ()
        here = self.endpoint.remote
        others = [place for place in self._candidates if place.remote != here]
        return tuple(others[:MAX_CANDIDATES])

    def _answer(self, received: ReceivedInitiation, now: Now) -> None:
        answer = self._negotiation.answer(received, now)
        if answer is not None:
            message, keys = answer
            # INVARIANT: the keypair is in place before the peer can use it.
            self._install(Role.RESPONDER, keys, now)
            self._order(SendHandshake(self.id, message))

    def _install(self, role: Role, keys: SessionKeys, now: Now) -> None:
        self._sessions.install(role, keys, now)
        self._note(Moment.SESSION_DERIVED, now.boot)

    def _hear(self, event: HandshakeReceived, now: Now) -> None:
        """An authentic handshake message came."""
        at = event.received_at
        self._liveness.settle(at)
        endpoint = event.endpoint._replace(learned_at=at)
        if self.endpoint is None or at >= self.endpoint.learned_at:
            self.roam(endpoint, now)
            self._order(SetPeerEndpoint(self.id, endpoint))
        # Before the keypair: what is flushed under that has no answer yet.
        self._order(Touch(self.id, len(event.datagram), at))

    def _complete(self, now: Now, wall: int) -> None:
        self._negotiation.end(now)
        self.last_handshake = wall
        self._tell(NoticeKind.HANDSHAKE_COMPLETED, wall)

    def _abandon(self, now: Now) -> None:
        """Seek no session any more, until there is data again."""
        self._negotiation.end(now)
        self._liveness.give_up(now)
        self._order(DropStaged(self.id))

    def _note(self, moment: Moment, at: int) -> None:
        self._context.timers.note(self._timers, moment, at)

    def _tell(self, kind: NoticeKind, wall: int) -> None:
        self._context.notices.append(Notice(kind, self.public_key, wall, self.endpoint))

    def _order(self, command: Command) -> None:
        self._context.commands.append(command)
