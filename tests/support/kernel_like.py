"""A peer as the Linux kernel behaves: one handshake slot for both roles.

Written from the kernel's rules and independent of ``nvpn.protocol.peer``, so that our
device can be tried against somebody who is not itself: consuming an initiation destroys
the own pending one, and a response for that is then not expected. Knows one peer, no
roaming, and none of the timers but the retry.
"""

from __future__ import annotations

from nvpn.datapath.commands import (
    Command,
    CreatePeer,
    InsertPrefix,
    InstallKeypair,
    PeerId,
    Role,
    SendHandshake,
    SetAdmission,
    SetPeerEndpoint,
    Touch,
)
from nvpn.datapath.events import Event, HandshakeReceived, HandshakeWanted, KeypairConfirmed
from nvpn.errors import ProtocolViolation
from nvpn.model.clock import Now
from nvpn.model.notices import Notice
from nvpn.model.prefixes import Prefix
from nvpn.protocol.cookies import MacStamper
from nvpn.protocol.handshake import InitiatorHandshake, ReceivedInitiation, SessionKeys
from nvpn.protocol.tai64n import TimestampSource
from nvpn.wire.constants import REKEY_TIMEOUT, RETRY_JITTER
from nvpn.wire.crypto import cookie_key, mac1_key
from nvpn.wire.messages import Initiation, Response, parse_handshake
from tests.support.sim import Host

PEER = PeerId(1)


class KernelLike:
    """Plays the engine of a :class:`Host`; :meth:`befriend` names its only peer."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._random = host.world.random
        self._timestamps = TimestampSource()
        self._pending: InitiatorHandshake | None = None
        self._sent_at: int | None = None
        self._retry_at: int | None = None
        self._commands: list[Command] = [
            SetAdmission(mac1_key(host.public), cookie_key(host.public), bytes(32)),
            CreatePeer(PEER),
        ]

    def befriend(self, other: Host, allowed: str) -> None:
        self._peer = other.public
        self._stamper = MacStamper(other.public)
        self._commands += [
            SetPeerEndpoint(PEER, other.outer),
            InsertPrefix(PEER, Prefix.parse(allowed)),
        ]
        self._host.turn()

    def handle_event(self, event: Event, now: Now) -> None:
        if isinstance(event, HandshakeWanted):
            self._initiate(now)
        elif isinstance(event, KeypairConfirmed):
            self._retry_at = None
        elif isinstance(event, HandshakeReceived):
            message = parse_handshake(event.datagram)
            try:
                if isinstance(message, Initiation):
                    self._consume_initiation(message, event, now)
                elif isinstance(message, Response):
                    self._consume_response(message, event, now)
            except ProtocolViolation:
                pass

    def handle_timeout(self, now: Now) -> None:
        if self._retry_at is not None and now.boot >= self._retry_at:
            self._initiate(now)

    def next_timeout(self) -> int | None:
        return self._retry_at

    def take_commands(self) -> list[Command]:
        taken, self._commands = self._commands, []
        return taken

    def take_notices(self) -> list[Notice]:
        return []

    def _initiate(self, now: Now) -> None:
        if self._sent_at is not None and now.boot < self._sent_at + REKEY_TIMEOUT:
            # The kernel would try again with the next packet or at the retry.
            self._retry_at = self._sent_at + REKEY_TIMEOUT
            return
        self._pending = InitiatorHandshake.begin(
            static=self._host.key,
            their_static=self._peer,
            our_index=self._random.getrandbits(32),
            timestamp=self._timestamps.next(now.wall),
            ephemeral=self._random.randbytes(32),
        )
        self._send(self._pending.message, now)
        self._retry_at = now.boot + REKEY_TIMEOUT + self._random.randrange(RETRY_JITTER)

    def _consume_initiation(self, message: Initiation, event: HandshakeReceived, now: Now) -> None:
        received = ReceivedInitiation.open(message, static=self._host.key)
        self._pending = None  # the one slot
        answer, keys = received.respond(
            preshared=None,
            our_index=self._random.getrandbits(32),
            ephemeral=self._random.randbytes(32),
        )
        self._install(Role.RESPONDER, keys, event, now)
        self._send(answer, now)

    def _consume_response(self, message: Response, event: HandshakeReceived, now: Now) -> None:
        if self._pending is None or self._pending.our_index != message.receiver:
            return
        keys = self._pending.consume_response(message, preshared=None)
        self._pending = None
        self._retry_at = None
        self._install(Role.INITIATOR, keys, event, now)

    def _install(self, role: Role, keys: SessionKeys, event: HandshakeReceived, now: Now) -> None:
        self._commands += [
            Touch(PEER, len(event.datagram), event.received_at),
            InstallKeypair(
                PEER, role, keys.our_index, keys.their_index, keys.send, keys.receive, now.boot
            ),
        ]

    def _send(self, message: bytes, now: Now) -> None:
        self._sent_at = now.boot
        self._commands.append(SendHandshake(PEER, self._stamper.stamp(message, now.boot)))
