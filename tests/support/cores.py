"""Two datapath cores with a session between them, and the packets to put through it."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from nvpn.datapath.commands import (
    Command,
    CreatePeer,
    InsertPrefix,
    InstallKeypair,
    PeerId,
    Role,
    SetPeerEndpoint,
)
from nvpn.datapath.events import Event
from nvpn.datapath.python.core import Core, Outgoing
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.prefixes import Prefix, parse_address

START = 1_000 * SECOND
MTU = 1420
THEM = PeerId(1)


def ipv4(
    source: str = "10.0.0.1",
    destination: str = "10.0.0.2",
    payload: bytes = b"",
    *,
    protocol: int = 253,
    tos: int = 0,
    fragment: int = 0,
) -> bytes:
    """An IPv4 packet with a correct header checksum."""
    header = bytearray(
        struct.pack(
            ">BBHHHBBH4s4s",
            0x45,
            tos,
            20 + len(payload),
            7,
            fragment,
            64,
            protocol,
            0,
            parse_address(source),
            parse_address(destination),
        )
    )
    struct.pack_into(">H", header, 10, checksum(header))
    return bytes(header) + payload


def ipv6(
    source: str = "fd00::1",
    destination: str = "fd00::2",
    payload: bytes = b"",
    *,
    protocol: int = 59,
    tos: int = 0,
) -> bytes:
    """An IPv6 packet."""
    return (
        struct.pack(
            ">IHBB16s16s",
            6 << 28 | tos << 20,
            len(payload),
            protocol,
            64,
            parse_address(source),
            parse_address(destination),
        )
        + payload
    )


def checksum(data: bytes | bytearray) -> int:
    """RFC 1071 as it is written there: add words, fold, complement."""
    data = bytes(data) + bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def endpoint(text: str = "192.0.2.1:51820") -> Endpoint:
    return Endpoint.parse(text)


class Ends:
    """Alice, who began the handshake, and Bob. Each knows the other as peer 1.

    Alice owns 10.0.0.1 and fd00::1, Bob 10.0.0.2 and fd00::2. ``now`` is theirs to share;
    nothing moves unless a test moves it.
    """

    alice_at = endpoint("192.0.2.1:1001")
    bob_at = endpoint("192.0.2.2:1002")

    def __init__(self, *, session: bool = True, mtu: int = MTU) -> None:
        self.now = START
        self.alice = Core(mtu=mtu, random=bytes)
        self.bob = Core(mtu=mtu, random=bytes)
        self._sessions = 0
        self.tell(self.alice, *self._peer("10.0.0.2", "fd00::2", self.bob_at))
        self.tell(self.bob, *self._peer("10.0.0.1", "fd00::1", self.alice_at))
        if session:
            self.establish()
            self.settle()

    @staticmethod
    def _peer(ipv4_address: str, ipv6_address: str, at: Endpoint) -> tuple[Command, ...]:
        return (
            CreatePeer(THEM),
            SetPeerEndpoint(THEM, at),
            InsertPrefix(THEM, Prefix.parse(f"{ipv4_address}/32")),
            InsertPrefix(THEM, Prefix.parse(f"{ipv6_address}/128")),
        )

    def tell(self, core: Core, *commands: Command) -> None:
        core.apply(commands, self.now)

    def keypairs(self) -> tuple[InstallKeypair, InstallKeypair]:
        """A fresh session: Alice's half, as initiator, and Bob's."""
        self._sessions += 1
        number = self._sessions
        key1 = bytes([number]) * 32
        key2 = bytes([number + 100]) * 32
        ours, theirs = 0xA0000000 + number, 0xB0000000 + number
        return (
            InstallKeypair(
                THEM, Role.INITIATOR, ours, theirs, bytearray(key1), bytearray(key2), self.now
            ),
            InstallKeypair(
                THEM, Role.RESPONDER, theirs, ours, bytearray(key2), bytearray(key1), self.now
            ),
        )

    def establish(self) -> None:
        """Install a fresh session on both sides; Alice's keepalive is on its way."""
        for_alice, for_bob = self.keypairs()
        self.tell(self.bob, for_bob)
        self.tell(self.alice, for_alice)

    def settle(self) -> None:
        """Let everything arrive, and forget what was said meanwhile."""
        self.carry(self.alice, self.bob)
        self.carry(self.bob, self.alice)
        self.alice.take_events()
        self.bob.take_events()

    def carry(self, sender: Core, receiver: Core) -> list[Outgoing]:
        """Deliver what the sender has ready; returns it."""
        sent = sender.take_datagrams()
        for outgoing in sent:
            self.deliver(receiver, outgoing)
        return sent

    def deliver(self, receiver: Core, outgoing: Outgoing) -> None:
        source = self.alice_at if receiver is self.bob else self.bob_at
        receiver.receive(outgoing.datagram, source, self.now, tos=outgoing.tos)

    def seal(self, packet: bytes, sender: Core | None = None) -> bytes:
        """The one datagram that the sender (Alice) makes of a packet."""
        core = sender if sender is not None else self.alice
        core.send_inner(packet, self.now)
        (outgoing,) = core.take_datagrams()
        return outgoing.datagram


def only(events: Iterable[Event], kind: type) -> list[Event]:
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]
