"""The datapath without its descriptors: packets go in, packets and events come out.

One packet at a time and complete: this is the reference that says what is done with a
packet, in which order. The engine drives it from real descriptors and has batch paths
beside it, on the same state and by the same rules (:class:`Peer`); the simulated world
drives it alone.

Results wait until they are taken: ``take_datagrams``, ``take_inner``, ``take_events``.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag

from nvpn.datapath.api import Activity, Counters, Watch
from nvpn.datapath.buffers import Bytes
from nvpn.datapath.commands import (
    AddPath,
    Command,
    CreatePeer,
    DeletePrefix,
    DestroyPeer,
    Divert,
    DropStaged,
    EraseKeys,
    InsertPrefix,
    InstallKeypair,
    PeerId,
    RemovePath,
    ReplaceSockets,
    Role,
    SendHandshake,
    SendInner,
    SendKeepalive,
    SetAdmission,
    SetFilter,
    SetMtu,
    SetPeerEndpoint,
    StopSending,
    Touch,
)
from nvpn.datapath.events import Event, HandshakeReceived, InnerReceived
from nvpn.datapath.filter import PortFilter
from nvpn.datapath.icmp import ErrorLimit, unreachable
from nvpn.datapath.inner import (
    Inner,
    merge_ecn,
    outer_tos,
    padded_size,
    parse_inner,
    traffic_class,
)
from nvpn.datapath.keypairs import EXHAUSTED, Keypair, zero
from nvpn.datapath.loops import OwnDatagrams
from nvpn.datapath.python.event_queue import EventQueue
from nvpn.datapath.python.initiations import Initiations
from nvpn.datapath.python.passage import Passage
from nvpn.datapath.python.peer import Peer, Receivers
from nvpn.datapath.staging import StagingBudget
from nvpn.errors import DropReason
from nvpn.model.endpoint import Endpoint
from nvpn.wire.admission import Accepted, Admission, Answered
from nvpn.wire.constants import (
    MIN_TRANSPORT_SIZE,
    PADDING,
    REJECT_AFTER_MESSAGES,
    TAG_SIZE,
    TOS_HANDSHAKE,
    TRANSPORT_HEADER_SIZE,
    TRANSPORT_OVERHEAD,
)
from nvpn.wire.messages import MessageType, message_type, receiver_of, sender_of

MAX_IPV4_DATAGRAM: Final = 65_507
MAX_IPV6_DATAGRAM: Final = 65_527
_FITS_ALWAYS: Final = MAX_IPV4_DATAGRAM - TRANSPORT_OVERHEAD - PADDING

_TRANSPORT: Final = struct.Struct("<4xIQ")
_NONCE: Final = struct.Struct("<4xQ")
_TYPE_TRANSPORT: Final = b"\4\0\0\0"


class Outgoing(NamedTuple):
    """A datagram for the socket.

    ``tos`` is for the outer header. ``peer`` is None for a cookie reply, whose sender
    we do not know.
    """

    endpoint: Endpoint
    datagram: bytes
    tos: int = 0
    peer: PeerId | None = None


class Core:
    """The peers of a device, their routes and keys, and what happens to a packet.

    Args:
        mtu: the tunnel's, in bytes; 0 for unknown.
        random: gives that many random bytes; cookie replies need them.

    The attributes below are for the engine's batch paths, which share this state.
    """

    def __init__(self, *, mtu: int, random: Callable[[int], bytes]) -> None:
        self.mtu = mtu
        self.peers: Final[dict[PeerId, Peer]] = {}
        self.passage: Final = Passage()
        self.routes: Final = self.passage.routes
        self.receivers: Final[Receivers] = {}
        self.own: Final[OwnDatagrams[Peer]] = OwnDatagrams()
        self.events: Final = EventQueue()
        self._initiations: Final = Initiations(self.own)
        self._random: Final = random
        self._admission: Final = Admission()
        self._staging: Final = StagingBudget()
        self._icmp: Final = ErrorLimit()
        self._drops: Final[Counter[DropReason]] = Counter()
        self._datagrams: list[Outgoing] = []
        self._inner: list[bytes] = []

    # --- commands ---------------------------------------------------------------------

    def apply(self, commands: Sequence[Command], now: int) -> None:
        """Carry out a batch in order; what names an unknown peer is ignored."""
        for command in commands:
            self._apply(command, now)

    def _apply(self, command: Command, now: int) -> None:
        if isinstance(command, SetAdmission):
            self._admission.configure(command.mac1_key, command.cookie_key, command.secret)
            return
        if isinstance(command, SetMtu):
            self.mtu = command.mtu
            return
        if isinstance(command, SetFilter):
            self.passage.filter = PortFilter.of(command, self.passage.filter)
            return
        if isinstance(command, Divert):
            self.passage.diversions = command.diversions
            return
        if isinstance(command, SendInner):
            self._put_in(command.packet, now)
            return
        if isinstance(command, ReplaceSockets):
            for peer in self.peers.values():
                peer.forget_source()
            return
        if isinstance(command, AddPath | RemovePath):
            return  # the engine's: nothing here knows a descriptor
        if isinstance(command, CreatePeer):
            self.peers[command.peer] = Peer(
                command.peer, self.receivers, self.own, self.events, self._staging
            )
            return
        known = self.peers.get(command.peer)
        if known is not None:
            self._apply_to(known, command, now)
        elif isinstance(command, InstallKeypair):
            zero(command.send_key, command.receive_key)

    def _apply_to(self, peer: Peer, command: Command, now: int) -> None:
        if isinstance(command, SendHandshake):
            self._send_handshake(peer, command, now)
        elif isinstance(command, InstallKeypair):
            self._install(peer, command, now)
        elif isinstance(command, Touch):
            peer.note_received(command.at, command.received_bytes, data=False, keypair=None)
        elif isinstance(command, SendKeepalive):
            self._send_keepalive(peer, now)
        elif isinstance(command, SetPeerEndpoint):
            if peer.set_endpoint(command.endpoint):
                self.flush(peer, now)
        elif isinstance(command, InsertPrefix):
            self.passage.insert(command, peer)
        elif isinstance(command, DeletePrefix):
            self.passage.delete(command, peer)
        elif isinstance(command, StopSending):
            peer.stop_sending()
        elif isinstance(command, EraseKeys):
            peer.erase_keys()
        elif isinstance(command, DropStaged):
            self.drop(DropReason.HANDSHAKE_FAILED, peer.forget_staged())
        elif isinstance(command, DestroyPeer):
            self.passage.forget(peer)
            self._initiations.expect_answer(peer, None)
            peer.destroy()
            del self.peers[peer.id]

    def _install(self, peer: Peer, command: InstallKeypair, now: int) -> None:
        peer.install(Keypair(command))
        if command.our_index == peer.initiation_index:
            self._initiations.expect_answer(peer, None)
        if command.role is Role.INITIATOR and not self.flush(peer, now):
            # Tells the responder that we hold the key, so that it may use it too.
            self._send_keepalive(peer, now)

    def _send_handshake(self, peer: Peer, command: SendHandshake, now: int) -> None:
        if command.forget_source:
            peer.forget_source()
        if peer.endpoint is None:
            self.drop(DropReason.NO_ENDPOINT)
            return
        if message_type(command.datagram) is MessageType.INITIATION:
            self._initiations.expect_answer(peer, sender_of(command.datagram))
        for endpoint in (peer.endpoint, *command.also):
            self._datagrams.append(Outgoing(endpoint, command.datagram, TOS_HANDSHAKE, peer.id))
            peer.note_sent(now, len(command.datagram), data=False, keypair=None)

    def _send_keepalive(self, peer: Peer, now: int) -> None:
        if peer.endpoint is None:
            return
        keypair = peer.sending_keypair(now)
        if keypair is None:
            peer.want_key()
        else:
            self._seal(peer, keypair, b"", now)

    # --- out --------------------------------------------------------------------------

    def send_inner(self, packet: Bytes, now: int) -> None:
        """Send one plain packet from the TUN device to the peer that it is routed to."""
        inner = parse_inner(packet)
        if inner is None:
            self.drop(DropReason.BAD_INNER)
            return
        self._send_to(self.passage.reached_by(inner, packet), inner, packet, now)

    def _put_in(self, packet: Bytes, now: int) -> None:
        """The same for a packet of our own, which reaches peers where only what is diverted
        comes from."""
        inner = parse_inner(packet)
        if inner is None:
            self.drop(DropReason.BAD_INNER)
            return
        owner = self.passage.owner_of_diverted(inner.version, inner.destination)
        self._send_to(owner, inner, packet, now)

    def _send_to(self, peer: Peer | None, inner: Inner, packet: Bytes, now: int) -> None:
        if peer is None:
            self.refuse(packet, DropReason.NO_ROUTE, now)
            return
        if self.own.hold(packet, inner):
            self.drop(DropReason.ROUTING_LOOP)
            return
        if peer.endpoint is None:
            self.refuse(packet, DropReason.NO_ENDPOINT, now)
            return
        if inner.length > _FITS_ALWAYS and not self._fits(inner.length, peer.endpoint):
            self.drop(DropReason.TOO_BIG)
            return
        keypair = peer.sending_keypair(now)
        if keypair is None:
            self.stage(peer, bytes(packet[: inner.length]))
        else:
            self._seal(peer, keypair, packet[: inner.length], now)

    def _fits(self, size: int, endpoint: Endpoint) -> bool:
        largest = MAX_IPV6_DATAGRAM if endpoint.version == 6 else MAX_IPV4_DATAGRAM
        return padded_size(size, self.mtu) + TRANSPORT_OVERHEAD <= largest

    def stage(self, peer: Peer, packet: bytes) -> None:
        """Keep a packet until there is a key, and ask for one."""
        self.drop(DropReason.STAGING_FULL, peer.staged.push(packet))
        peer.want_key()

    def refuse(self, packet: Bytes, reason: DropReason, now: int) -> None:
        """Drop a packet that has nowhere to go, and tell its sender by ICMP."""
        self.drop(reason)
        answer = unreachable(packet)
        if answer is not None and self._icmp.allow(now):
            self._inner.append(answer)

    def flush(self, peer: Peer, now: int) -> bool:
        """Send what is staged, if there is a key and an endpoint for it.

        Returns:
            whether anything was sent.
        """
        keypair = peer.sending_keypair(now)
        if keypair is None or peer.endpoint is None or not peer.staged:
            return False
        for packet in peer.staged.take():
            self._seal(peer, keypair, packet, now)
        return True

    def _seal(self, peer: Peer, keypair: Keypair, packet: Bytes, now: int) -> None:
        """Send a packet, or with b"" a keepalive, under a key that may be used."""
        endpoint = peer.endpoint
        counter = keypair.reserve(1, now)
        if counter == EXHAUSTED or endpoint is None:
            return
        size = len(packet)
        end = TRANSPORT_HEADER_SIZE + padded_size(size, self.mtu)
        nonce = _NONCE.pack(counter)
        datagram = bytearray(end + TAG_SIZE)
        datagram[:8] = keypair.header
        datagram[8:TRANSPORT_HEADER_SIZE] = nonce[4:]
        datagram[TRANSPORT_HEADER_SIZE : TRANSPORT_HEADER_SIZE + size] = packet
        body = memoryview(datagram)[TRANSPORT_HEADER_SIZE:]
        keypair.seal(nonce, body[:-TAG_SIZE], None, body)
        if size:
            self.passage.note_sent(peer.id, packet, now)
        tos = outer_tos(traffic_class(packet)) if size else 0
        self._datagrams.append(Outgoing(endpoint, bytes(datagram), tos, peer.id))
        peer.note_sent(now, len(datagram), data=size > 0, keypair=keypair)

    # --- in ---------------------------------------------------------------------------

    def receive(self, datagram: Bytes, endpoint: Endpoint, now: int, *, tos: int = 0) -> None:
        """Take one datagram of any kind.

        Args:
            endpoint: where it came from, and to which of our addresses.
            tos: the outer header's TOS byte or traffic class.
        """
        if datagram[:4] != _TYPE_TRANSPORT:
            self._receive_handshake(bytes(datagram), endpoint, now)
        elif len(datagram) < MIN_TRANSPORT_SIZE:
            self.drop(DropReason.MALFORMED)
        else:
            self._receive_transport(datagram, endpoint, now, tos)

    def _receive_handshake(self, datagram: bytes, endpoint: Endpoint, now: int) -> None:
        # Indices are random: whoever does not see our messages cannot make us queue answers
        # to them. Cookie replies, which carry no mac, would be free for everybody otherwise.
        index = receiver_of(datagram)
        if index is not None and index not in self._initiations and index not in self.receivers:
            self.drop(DropReason.UNKNOWN_INDEX)
            return
        verdict = self._admission.judge(
            datagram,
            endpoint,
            queued=self.events.queued_handshakes,
            now=now,
            random=self._random,
        )
        if isinstance(verdict, Accepted):
            event = HandshakeReceived(datagram, endpoint._replace(learned_at=now), now)
            if not self.events.add_handshake(event):
                self.drop(DropReason.QUEUE_FULL)
        elif isinstance(verdict, Answered):
            self.drop(DropReason.COOKIE_REQUIRED)
            self._datagrams.append(Outgoing(endpoint, verdict.cookie_reply))
        else:
            self.drop(verdict.reason)

    def _receive_transport(self, datagram: Bytes, endpoint: Endpoint, now: int, tos: int) -> None:
        """Protocol rules 31 to 35, in their order."""
        our_index, counter = _TRANSPORT.unpack_from(datagram)
        found = self.receivers.get(our_index)
        if found is None:
            self.drop(DropReason.UNKNOWN_INDEX)
            return
        peer, keypair = found
        if counter >= REJECT_AFTER_MESSAGES or not keypair.may_receive_at(now):
            self.drop(DropReason.KEY_EXPIRED)
            return
        # The counter is checked twice: here to spare the AEAD work on plain replays,
        # and after opening, because only then is it known to come from the peer.
        if not keypair.window.may_accept(counter):
            self.drop(DropReason.REPLAYED)
            return
        plain = bytearray(len(datagram) - TRANSPORT_OVERHEAD)
        try:
            keypair.open(_NONCE.pack(counter), datagram[TRANSPORT_HEADER_SIZE:], None, plain)
        except InvalidTag:
            self.drop(DropReason.BAD_TAG)
            return
        if not keypair.window.accept(counter):
            self.drop(DropReason.REPLAYED)
            return
        self.note_authentic(peer, keypair, endpoint, now, len(datagram), data=len(plain) > 0)
        if plain:
            self.deliver(peer, plain, tos, now)

    def note_authentic(
        self,
        peer: Peer,
        keypair: Keypair,
        endpoint: Endpoint,
        now: int,
        size: int,
        packets: int = 1,
        *,
        data: bool,
    ) -> None:
        """All that follows from transport messages being authentic, whatever is in them.

        Call it once for a batch under one keypair from one endpoint, after the replay
        window took the counters; ``size`` is the UDP payload of the whole batch.
        """
        peer.roam(endpoint, now)
        promoted = peer.confirm(keypair, now)
        peer.note_received(now, size, packets, data=data, keypair=keypair)
        if promoted:
            self.flush(peer, now)

    def deliver(self, peer: Peer, plain: bytearray, tos: int, now: int) -> None:
        """Judge what an authentic, non-empty message holds, and pass it to the TUN device.

        ``plain`` is changed in place; ``tos`` as in ``receive``.
        """
        inner = parse_inner(plain)
        if inner is None:
            self.drop(DropReason.BAD_INNER)
            return
        del plain[inner.length :]
        diverted = self.passage.is_diverted(inner, plain)
        # Over the whole table: a peer that owns a supernet must not speak for a subnet
        # of it that belongs to another.
        lookup = self.passage.owner_of_diverted if diverted else self.routes.lookup
        if lookup(inner.version, inner.source) is not peer:
            self.drop(DropReason.SOURCE_NOT_ALLOWED)
            return
        if not diverted and not self.lets_pass(peer, inner, plain, now):
            return
        if not merge_ecn(plain, tos):
            self.drop(DropReason.BAD_INNER)
            return
        if not diverted:
            self._inner.append(bytes(plain))
        elif not self.events.add_diverted(InnerReceived(peer.id, bytes(plain))):
            self.drop(DropReason.QUEUE_FULL)

    def lets_pass(self, peer: Peer, inner: Inner, packet: Bytes, now: int, count: int = 1) -> bool:
        """Whether the port filter lets a packet from a peer pass; else it is counted.

        One of a flow that does not begin or end here speaks for all ``count`` of them.
        """
        if self.passage.accepts(peer.id, inner, packet, now):
            return True
        peer.filtered += count
        self.drop(DropReason.FILTERED, count)
        return False

    # --- what is taken ----------------------------------------------------------------

    def take_datagrams(self) -> list[Outgoing]:
        """Datagrams for the sockets, in the order to send them."""
        taken, self._datagrams = self._datagrams, []
        return taken

    def take_inner(self) -> list[bytes]:
        """Packets for the TUN device, in the order to write them."""
        taken, self._inner = self._inner, []
        return taken

    def take_events(self, *, max_handshakes: int | None = None) -> list[Event]:
        """What happened since the last call; see :meth:`EventQueue.take`."""
        return self.events.take(max_handshakes)

    # --- the rest of the seam ---------------------------------------------------------

    def watch(self, peer: PeerId, what: Watch, watched: bool) -> None:
        """Set or clear a watch, see :class:`nvpn.datapath.api.Datapath`."""
        known = self.peers.get(peer)
        if known is not None:
            known.watch(what, watched)

    def activity(self, peer: PeerId) -> Activity:
        """The peer's instants; all 0 for an unknown one."""
        known = self.peers.get(peer)
        return known.activity() if known is not None else Activity()

    def counters(self, peer: PeerId) -> Counters:
        """The peer's traffic; all 0 for an unknown one."""
        known = self.peers.get(peer)
        return known.counters() if known is not None else Counters()

    def forget_source(self, peer: PeerId) -> None:
        """The kernel refused our address on that peer's path: let it choose."""
        known = self.peers.get(peer)
        if known is not None:
            known.forget_source()

    def note_unsent(self, peer: PeerId | None, size: int, count: int) -> None:
        """Datagrams, of ``size`` bytes together, were not sent after all; ``peer`` is whom they
        were counted for, if for anybody."""
        self.drop(DropReason.SEND_FAILED, count)
        known = None if peer is None else self.peers.get(peer)
        if known is not None:
            known.note_unsent(size, count)

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count dropped packets."""
        if count:
            self._drops[reason] += count

    def drops(self) -> Mapping[DropReason, int]:
        """Dropped packets by reason since the start."""
        return dict(self._drops)

    def close(self) -> None:
        """Zero all keys and forget every peer."""
        for peer in self.peers.values():
            self.passage.forget(peer)
            peer.destroy()
        self.peers.clear()
        self._initiations.clear()
