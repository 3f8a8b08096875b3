"""All peers of an interface: the public face of the sans-IO core.

Configuration and events go in together with the time; what follows piles up until it is
taken: commands for the datapath, notices for people. Nothing here reads a clock, opens
anything, or blocks, and no peer costs another more than its own events do.

What comes from the network never raises: :meth:`Device.handle_event` and
:meth:`Device.handle_timeout` are the door behind which a
:class:`~nvpn.errors.ProtocolViolation` becomes a count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from nvpn.datapath.commands import Command, DeletePrefix, InsertPrefix, PeerId
from nvpn.datapath.events import (
    DataReceived,
    DataSent,
    DeviceGone,
    EndpointRoamed,
    Event,
    HandshakeReceived,
    HandshakeWanted,
    InnerReceived,
    KeypairConfirmed,
    KeypairGone,
)
from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.clock import Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.notices import Notice
from nvpn.model.prefixes import Prefix
from nvpn.protocol.admission import DeviceAdmission
from nvpn.protocol.context import ActivityReader, Context
from nvpn.protocol.cryptokey_routing import CryptokeyRouting
from nvpn.protocol.derived_prefixes import DerivedPrefixes
from nvpn.protocol.handshake import ReceivedInitiation
from nvpn.protocol.peer import Peer
from nvpn.protocol.tai64n import TimestampSource
from nvpn.wire.messages import Initiation, Response, parse_handshake

MAX_TIMERS_AT_ONCE: Final = 12
"""Handled per call of ``handle_timeout``: each may cost an initiation, about a millisecond."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """What the protocol knows of a peer, for a snapshot.

    ``peer_id`` names it in the datapath. ``last_handshake`` is Unix time in nanoseconds,
    0 for never; ``session_born_at`` boot-clock nanoseconds, None without a session to
    send in; ``attempts`` counts initiations that were not answered so far.
    """

    peer_id: PeerId
    endpoint: Endpoint | None
    preshared_key: PresharedKey | None = field(repr=False)
    persistent_keepalive: int
    allowed_ips: tuple[Prefix, ...]
    last_handshake: int
    session_born_at: int | None
    attempts: int


class Device:
    """The protocol of one interface. It begins down, without a key and without peers.

    Configuration never fails: what names an unknown peer is ignored.

    Args:
        datapath: read for the instants of peers; commands go through ``take_commands``.
        random: gives that many random bytes, or raises OSError; then there is no
            handshake until it works again.
        timestamps: for initiations; kept over a restart by the caller.
    """

    def __init__(
        self,
        *,
        datapath: ActivityReader,
        random: Callable[[int], bytes],
        timestamps: TimestampSource,
    ) -> None:
        self._context: Final[Context[Peer]] = Context(datapath, random, timestamps)
        self._peers: Final[dict[PublicKey, Peer]] = {}
        self._by_id: Final[dict[PeerId, Peer]] = {}
        self._routing: Final = CryptokeyRouting()
        self._derived: Final = DerivedPrefixes()
        self._last_peer_id = 0
        self._admission: Final = DeviceAdmission(
            lambda command: self._context.commands.append(command), random
        )

    # --- configuration ----------------------------------------------------------------

    @property
    def private_key(self) -> PrivateKey | None:
        """Ours; a copy of what was set."""
        return self._context.static

    @property
    def public_key(self) -> PublicKey | None:
        """Belongs to the private key; None when there is none."""
        return self._context.public

    def set_private_key(self, key: PrivateKey | None, now: Now) -> None:
        """Become somebody else, or nobody. The key is copied.

        A peer that is ourselves then is removed. Sessions go on receiving, and send no
        more. The same key again changes nothing.
        """
        context = self._context
        if key == context.static:
            return
        if context.static is not None:
            context.static.wipe()
        context.static = None if key is None else key.copy()
        context.public = None if key is None else key.public()
        if context.public is not None:
            self.remove_peer(context.public, now)
        for peer in self._peers.values():
            peer.change_identity(now)
        self._admission.change_identity(context.public, now)

    def add_peer(self, public_key: PublicKey) -> None:
        """Know a peer. Known ones and ourselves are ignored."""
        if public_key in self._peers or public_key == self._context.public:
            return
        self._last_peer_id += 1
        peer = Peer(self._context, PeerId(self._last_peer_id), public_key)
        self._peers[public_key] = self._by_id[peer.id] = peer
        self.give_derived_prefix(public_key)

    def remove_peer(self, public_key: PublicKey, now: Now) -> None:
        """Forget a peer, its keys and its allowed IPs."""
        peer = self._peers.pop(public_key, None)
        if peer is not None:
            del self._by_id[peer.id]
            self._routing.forget(peer.id)
            self._derived.take(peer.id)
            peer.remove(now)

    def has_peer(self, public_key: PublicKey) -> bool:
        """Whether it is known."""
        return public_key in self._peers

    def peers(self) -> list[PublicKey]:
        """All of them, in the order in which they were added."""
        return list(self._peers)

    def set_preshared_key(self, public_key: PublicKey, key: PresharedKey | None) -> None:
        """Used from the next handshake on; the session lives on. None or zeros for none."""
        peer = self._peers.get(public_key)
        if peer is not None:
            peer.set_preshared_key(key)

    def set_endpoint(self, public_key: PublicKey, endpoint: Endpoint | None, now: Now) -> None:
        """Where the peer is, until an authentic packet comes from elsewhere.

        ``learned_at`` 0 means now.
        """
        peer = self._peers.get(public_key)
        if peer is not None:
            peer.set_endpoint(endpoint, now)

    def set_candidates(
        self, public_key: PublicKey, endpoints: tuple[Endpoint, ...], now: Now
    ) -> None:
        """Where the peer may be, too: its initiations go to its endpoint and to these, unless
        it is in session, and the one that answers first becomes the endpoint.

        At most 8 beside the endpoint count. For a peer without an endpoint the first becomes
        it.
        """
        peer = self._peers.get(public_key)
        if peer is not None:
            peer.set_candidates(endpoints, now)

    def set_persistent_keepalive(self, public_key: PublicKey, seconds: int, now: Now) -> None:
        """Seconds of silence after which a keepalive is sent; 0 for never."""
        peer = self._peers.get(public_key)
        if peer is not None:
            peer.set_persistent_keepalive(seconds, now)

    def add_allowed_ip(self, public_key: PublicKey, prefix: Prefix) -> None:
        """Route the prefix to the peer, whoever had it."""
        peer = self._peers.get(public_key)
        if peer is not None and self._routing.insert(peer.id, prefix):
            self._context.commands.append(InsertPrefix(peer.id, prefix))

    def remove_allowed_ip(self, public_key: PublicKey, prefix: Prefix) -> None:
        """Take the prefix away, if it is this peer's."""
        peer = self._peers.get(public_key)
        if peer is not None and self._routing.delete(peer.id, prefix):
            self._context.commands.append(DeletePrefix(peer.id, prefix))

    def allowed_ips(self, public_key: PublicKey) -> tuple[Prefix, ...]:
        """The peer's prefixes, in the order in which it got them."""
        peer = self._peers.get(public_key)
        return () if peer is None else self._routing.prefixes(peer.id)

    def derive_prefixes(self, derive: Callable[[PublicKey], Prefix] | None) -> None:
        """Give every peer that is added from now on a prefix beside its allowed IPs, by which
        only what is diverted passes. None: no more of that.

        For those that are there already: :meth:`give_derived_prefix`.
        """
        self._derived.derive = derive

    def give_derived_prefix(self, public_key: PublicKey) -> None:
        """Route what is diverted to a peer, before whoever is allowed the very same."""
        peer = self._peers.get(public_key)
        prefix = None if peer is None else self._derived.give(peer.id, public_key)
        if peer is not None and prefix is not None:
            self._context.commands.append(InsertPrefix(peer.id, prefix, diverted=True))

    def take_derived_prefix(self, public_key: PublicKey) -> None:
        """Take it away again."""
        peer = self._peers.get(public_key)
        prefix = None if peer is None else self._derived.take(peer.id)
        if peer is not None and prefix is not None:
            self._context.commands.append(DeletePrefix(peer.id, prefix, diverted=True))

    def peer_id_of(self, public_key: PublicKey) -> PeerId | None:
        """What the datapath calls a peer; None for an unknown one."""
        peer = self._peers.get(public_key)
        return None if peer is None else peer.id

    def public_key_of(self, peer_id: PeerId) -> PublicKey | None:
        """Who has this id; None for a peer that is gone."""
        peer = self._by_id.get(peer_id)
        return None if peer is None else peer.public_key

    def bring_up(self, now: Now) -> None:
        """The interface is up: peers with a persistent keepalive are called at once."""
        if not self._context.up:
            self._context.up = True
            for peer in self._peers.values():
                peer.start(now)

    def bring_down(self, now: Now) -> None:
        """The interface is down: no session, no timer, nothing staged is left."""
        if self._context.up:
            self._context.up = False
            for peer in self._peers.values():
                peer.stop(now)

    def initiate(self, public_key: PublicKey, now: Now) -> None:
        """Begin a handshake without waiting for data, as after a restart."""
        peer = self._peers.get(public_key)
        if peer is not None and self._context.up:
            peer.initiate(now)

    def renew(self, public_key: PublicKey, now: Now) -> bool:
        """The network around us changed: seek a new session at once, and everywhere, with a
        peer that has or seeks one, or is to be kept awake.

        Returns:
            whether that took an initiation: about a millisecond.
        """
        peer = self._peers.get(public_key)
        return peer is not None and peer.renew(now)

    def stop_admitting(self) -> None:
        """Let nobody in any more: no handshake succeeds from now on. Sessions go on."""
        self._admission.stop()

    def close(self) -> None:
        """Zero the secrets. The datapath, which has the sessions, is closed by itself."""
        if self._context.static is not None:
            self._context.static.wipe()
        for peer in self._peers.values():
            peer.wipe()

    # --- inputs -----------------------------------------------------------------------

    def handle_event(self, event: Event, now: Now) -> None:
        """What the datapath saw. Events of peers that are gone are ignored."""
        if isinstance(event, HandshakeReceived):
            if self._context.up:
                self._receive(event, now)
            return
        if isinstance(event, DeviceGone | InnerReceived):
            return  # the backend's business
        peer = self._by_id.get(event.peer)
        if peer is None:
            return
        if isinstance(event, DataSent):
            peer.note_data_sent(now)
        elif isinstance(event, DataReceived):
            peer.note_data_received(now)
        elif isinstance(event, HandshakeWanted):
            peer.want_handshake(event.why, now)
        elif isinstance(event, KeypairConfirmed):
            peer.confirm(event, now)
        elif isinstance(event, KeypairGone):
            peer.lose(event)
        else:
            assert isinstance(event, EndpointRoamed)
            peer.roam(event.endpoint, now)

    def handle_timeout(self, now: Now) -> None:
        """Handle timers that are due, a few of them: ask ``next_timeout`` again."""
        self._admission.retry(now)
        timers = self._context.timers
        for _ in range(MAX_TIMERS_AT_ONCE):
            due = timers.take_due(now.boot)
            if due is None:
                return
            peer, timer = due
            try:
                peer.handle_timer(timer, now)
            except ProtocolViolation as violation:
                self._context.drops[violation.reason] += 1

    def _receive(self, event: HandshakeReceived, now: Now) -> None:
        self._admission.renew(now)
        try:
            self._dispatch(event, now)
        except ProtocolViolation as violation:
            self._context.drops[violation.reason] += 1

    def _dispatch(self, event: HandshakeReceived, now: Now) -> None:
        message = parse_handshake(event.datagram)
        if isinstance(message, Initiation):
            static = self._context.static
            if static is None:
                raise ProtocolViolation(DropReason.NOT_EXPECTED)
            received = ReceivedInitiation.open(message, static=static)
            initiator = self._peers.get(received.their_static)
            if initiator is None:
                received.wipe()
                raise ProtocolViolation(DropReason.UNKNOWN_PEER)
            initiator.receive_initiation(received, event, now)
            return
        peer = self._context.indices.owner(message.receiver)
        if peer is None:
            raise ProtocolViolation(DropReason.UNKNOWN_INDEX)
        if isinstance(message, Response):
            peer.receive_response(message, event, now)
        else:
            peer.receive_cookie(message, now)

    # --- outputs ----------------------------------------------------------------------

    def next_timeout(self) -> int | None:
        """When ``handle_timeout`` wants to be called: boot-clock nanoseconds; None for never."""
        deadline = self._context.timers.next_deadline()
        retry_at = self._admission.retry_at
        if retry_at is None:
            return deadline
        return retry_at if deadline is None else min(deadline, retry_at)

    def take_commands(self) -> list[Command]:
        """For the datapath, as one batch."""
        taken, self._context.commands = self._context.commands, []
        return taken

    def take_notices(self) -> list[Notice]:
        """For people, oldest first."""
        taken, self._context.notices = self._context.notices, []
        return taken

    def drops(self) -> Mapping[DropReason, int]:
        """Handshake messages that were dropped here, by reason, since the start."""
        return dict(self._context.drops)

    def peer_state(self, public_key: PublicKey) -> PeerState:
        """What is known of a peer; KeyError for an unknown one."""
        peer = self._peers[public_key]
        return PeerState(
            peer_id=peer.id,
            endpoint=peer.endpoint,
            preshared_key=peer.preshared_key,
            persistent_keepalive=peer.persistent_keepalive,
            allowed_ips=self._routing.prefixes(peer.id),
            last_handshake=peer.last_handshake,
            session_born_at=peer.session_born_at,
            attempts=peer.attempts,
        )
