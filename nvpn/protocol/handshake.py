"""The two sides of one handshake, from the first message to a pair of session keys.

Bytes in, bytes out: whose index it is, whether a timestamp is fresh, where an answer
goes and what mac it carries are decided elsewhere. Keys that are spent are wiped here,
on the way to success and on every way to failure.

Source: WireGuard paper, sections 5.4.2 to 5.4.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nvpn.errors import DropReason, ProtocolViolation
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.protocol.noise import NoiseHandshake
from nvpn.wire.constants import KEY_SIZE
from nvpn.wire.messages import Initiation, Response


@dataclass(frozen=True, slots=True, eq=False)
class SessionKeys:
    """What a handshake was for: 32 bytes for each direction, and the name for each end.

    The buffers belong to whoever holds this; the datapath zeroes them with the keypair.
    """

    send: bytearray = field(repr=False)
    receive: bytearray = field(repr=False)
    our_index: int
    their_index: int

    def wipe(self) -> None:
        """Zero both buffers: for keys that nobody will use."""
        self.send[:] = bytes(KEY_SIZE)
        self.receive[:] = bytes(KEY_SIZE)


class InitiatorHandshake:
    """We asked for a session and wait for the response: the state "initiation sent".

    ``our_index`` names it on the wire, ``message`` is the initiation: 148 bytes whose
    macs are still zero.
    """

    __slots__ = ("_noise", "message", "our_index")

    def __init__(self, noise: NoiseHandshake, our_index: int, message: bytes) -> None:
        self._noise: NoiseHandshake | None = noise
        self.our_index = our_index
        self.message = message

    @classmethod
    def begin(
        cls,
        *,
        static: PrivateKey,
        their_static: PublicKey,
        our_index: int,
        timestamp: bytes,
        ephemeral: bytes,
    ) -> InitiatorHandshake:
        """Write the initiation. A preshared key enters with the response only.

        Args:
            timestamp: 12 bytes, greater than any this peer was sent before.
            ephemeral: 32 random bytes, fresh for every attempt.

        Raises:
            ProtocolViolation: WEAK_KEY: the peer's public key is one of the few points
                with which no secret can be shared.

        Source: WireGuard paper, section 5.4.2.
        """
        noise = NoiseHandshake.initiator(
            static=static, their_static=their_static, ephemeral=ephemeral
        )
        try:
            sealed = noise.write(timestamp)
        except ProtocolViolation:
            noise.wipe()
            raise
        message = Initiation(our_index, sealed[:32], sealed[32:80], sealed[80:]).pack()
        return cls(noise, our_index, message)

    def consume_response(
        self, response: Response, *, preshared: PresharedKey | None
    ) -> SessionKeys:
        """Finish the handshake we began; its own keys are wiped.

        On failure the handshake is left as it was: anyone who saw our index can forge
        a response, and the genuine one may still be on its way.

        Args:
            response: past mac1, and found by our index.
            preshared: the peer's key as it is now; None for none.

        Raises:
            ProtocolViolation: BAD_TAG, WEAK_KEY, or NOT_EXPECTED when it is over.

        Source: WireGuard paper, sections 5.4.3 and 5.4.5.
        """
        if self._noise is None:
            raise ProtocolViolation(DropReason.NOT_EXPECTED)
        self._noise.set_preshared(preshared)
        self._noise.read(response.noise_message)
        send, receive = self._noise.take_keys()
        self._noise = None
        return SessionKeys(send, receive, self.our_index, response.sender)

    def wipe(self) -> None:
        """Give the handshake up. Harmless when it is over already."""
        if self._noise is not None:
            self._noise.wipe()
            self._noise = None


class ReceivedInitiation:
    """An initiation that we opened as responder: we know who sent it, and when.

    Nothing is answered yet, so that the caller can refuse a stranger, a replay or a
    hurry. ``timestamp`` is 12 bytes that compare as a number; ``their_index`` is the
    initiator's.
    """

    __slots__ = ("_noise", "their_index", "their_static", "timestamp")

    def __init__(self, noise: NoiseHandshake, their_index: int, timestamp: bytes) -> None:
        self._noise: NoiseHandshake | None = noise
        self.their_static = noise.their_static
        self.their_index = their_index
        self.timestamp = timestamp

    @classmethod
    def open(cls, initiation: Initiation, *, static: PrivateKey) -> ReceivedInitiation:
        """Open an initiation that is past mac1.

        Raises:
            ProtocolViolation: BAD_TAG or WEAK_KEY.

        Source: WireGuard paper, section 5.4.2.
        """
        noise = NoiseHandshake.responder(static=static)
        try:
            timestamp = noise.read(initiation.noise_message)
        except ProtocolViolation:
            noise.wipe()
            raise
        return cls(noise, initiation.sender, timestamp)

    def respond(
        self, *, preshared: PresharedKey | None, our_index: int, ephemeral: bytes
    ) -> tuple[bytes, SessionKeys]:
        """The response, 92 bytes whose macs are still zero, and the keys of the session.

        The handshake's own keys are wiped, whatever happens.

        Args:
            ephemeral: 32 random bytes, fresh for every response.

        Raises:
            ProtocolViolation: WEAK_KEY, or NOT_EXPECTED when it was answered or wiped.

        Source: WireGuard paper, sections 5.4.3 and 5.4.5.
        """
        if self._noise is None:
            raise ProtocolViolation(DropReason.NOT_EXPECTED)
        noise, self._noise = self._noise, None
        try:
            noise.set_preshared(preshared)
            noise.set_ephemeral(ephemeral)
            sealed = noise.write(b"")
        except ProtocolViolation:
            noise.wipe()
            raise
        send, receive = noise.take_keys()
        message = Response(our_index, self.their_index, sealed[:32], sealed[32:]).pack()
        return message, SessionKeys(send, receive, our_index, self.their_index)

    def wipe(self) -> None:
        """Refuse the initiation. Harmless when it was answered already."""
        if self._noise is not None:
            self._noise.wipe()
            self._noise = None
