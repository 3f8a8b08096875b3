"""What goes down through the seam (:mod:`nvpn.datapath.api`): the commands of the protocol."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NewType, Union

from nvpn.model.endpoint import Endpoint
from nvpn.model.prefixes import Prefix

PeerId = NewType("PeerId", int)
"""Names a peer across the seam, for the life of the device, never used twice."""


@dataclass(frozen=True, slots=True)
class CreatePeer:
    """Know a peer: no endpoint, no keys, no prefixes."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class DestroyPeer:
    """Forget a peer: keys zeroed, prefixes removed, staged packets dropped.

    Raises no KeypairGone: the peer's indices are free after the acknowledgement.
    """

    peer: PeerId


@dataclass(frozen=True, slots=True)
class InsertPrefix:
    """Route a prefix to the peer, whoever had it before.

    ``diverted``: in a table that only what :class:`Divert` lifts out and :class:`SendInner`
    puts in is routed by, before the other: so nothing else passes by it, in or out.
    """

    peer: PeerId
    prefix: Prefix
    diverted: bool = False


@dataclass(frozen=True, slots=True)
class DeletePrefix:
    """Remove a prefix if this peer has it, from the table where it was put."""

    peer: PeerId
    prefix: Prefix
    diverted: bool = False


@dataclass(frozen=True, slots=True)
class SetPeerEndpoint:
    """Where to send. Loses against an endpoint learned later (``learned_at``) from a packet.

    None: nowhere, until the peer shows up.
    """

    peer: PeerId
    endpoint: Endpoint | None


class Role(enum.Enum):
    """Who began the handshake that a keypair comes from."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


@dataclass(frozen=True, slots=True)
class InstallKeypair:
    """Take a new keypair into the slots (protocol rules 15 and 16).

    INITIATOR: becomes ``current`` (if ``next`` exists: previous = next, current is
    dropped; else previous = current); staged packets go out under it, or one keepalive
    when there are none.
    RESPONDER: becomes ``next``; the old ``next`` and ``previous`` are dropped. It only
    receives until the first authentic packet under it, which promotes it
    (:class:`KeypairConfirmed`) and flushes staged packets.

    The datapath owns counters, replay window and age limits from here: it sends nothing
    under a key of 180 s or at the counter's limit, accepts nothing from 180 s on.

    ``send_key`` and ``receive_key`` are 32 bytes in buffers that the datapath zeroes
    when the keypair goes. ``born_at`` is the instant that ages are counted from.
    """

    peer: PeerId
    role: Role
    our_index: int
    their_index: int
    send_key: bytearray = field(repr=False)
    receive_key: bytearray = field(repr=False)
    born_at: int


@dataclass(frozen=True, slots=True)
class StopSending:
    """Send nothing more under ``current`` and forget ``next``: our private key changed."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class EraseKeys:
    """Drop all keypairs; KeypairGone follows for each."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class DropStaged:
    """The handshake was given up: drop staged packets, and expect no answer to sent data.

    The next outgoing packet raises HandshakeWanted again, or DataSent.
    """

    peer: PeerId


@dataclass(frozen=True, slots=True)
class SendKeepalive:
    """Seal an empty packet under ``current`` and send it.

    Without a usable key: HandshakeWanted(NO_KEY), unless that was said already.
    """

    peer: PeerId


@dataclass(frozen=True, slots=True)
class SendHandshake:
    """Send an initiation or response to where the peer is; counts as authentic traffic sent.

    ``forget_source``: a retry; let the kernel choose our address anew.
    ``also``: the same datagram to these, too, after that; each copy counts as sent, and the
    peer's endpoint stays what it is.
    """

    peer: PeerId
    datagram: bytes = field(repr=False)
    forget_source: bool = False
    also: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Touch:
    """An authentic handshake message came from the peer: count its bytes, note the instant.

    Clears "data sent unanswered", as any authentic packet does.
    """

    peer: PeerId
    received_bytes: int
    at: int


@dataclass(frozen=True, slots=True)
class SetAdmission:
    """What the datapath needs to judge handshake messages before anyone spends a DH on them.

    ``mac1_key`` = HASH("mac1----" ‖ our public), ``cookie_key`` = HASH("cookie--" ‖ our
    public), ``secret``: rotated by the protocol every 120 s at most. All None when we
    have no private key: then every handshake message is dropped.
    """

    mac1_key: bytes | None
    cookie_key: bytes | None = field(repr=False)
    secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SetMtu:
    """The tunnel's MTU in bytes changed: padding and segment limits follow."""

    mtu: int


PortRange = tuple[int, int]
"""Ports from the first to the second, both included."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a port filter asks of a packet; None matches everything.

    ``protocol`` is that above IP; ``source_ports`` and ``destination_ports`` match only
    what has ports.
    """

    accept: bool
    peer: PeerId | None = None
    source: Prefix | None = None
    destination: Prefix | None = None
    protocol: int | None = None
    source_ports: PortRange | None = None
    destination_ports: PortRange | None = None


@dataclass(frozen=True, slots=True)
class SetFilter:
    """Let authentic packets from peers pass by these rules, of which the first that
    matches decides; ``rules`` None: all of them pass.

    ``otherwise``: whether a packet that no rule matches may pass.
    ``remember``: what we send, so that what answers it passes before the rules, and errors
    about it; and first fragments, so that later ones pass after them and only then. What is
    remembered survives other rules.

    What is diverted is asked nothing.
    """

    rules: tuple[Rule, ...] | None
    otherwise: bool = False
    remember: bool = False


@dataclass(frozen=True, slots=True)
class Diversion:
    """UDP packets to this port of these addresses."""

    prefix: Prefix
    port: int


@dataclass(frozen=True, slots=True)
class Divert:
    """Lift authentic UDP packets to these places out of the stream: each becomes an
    :class:`InnerReceived`. Replaces what was lifted before.

    Fragments, and what stands behind extension headers, are left in the stream. Nobody but
    :class:`SendInner` speaks from there: what comes from the TUN device and does, or hides
    whether it does, has no route.
    """

    diversions: tuple[Diversion, ...]


@dataclass(frozen=True, slots=True)
class SendInner:
    """Send a whole IP packet as if it had been read from the TUN device."""

    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReplaceSockets:
    """Use these UDP sockets from now on (port or fwmark changed).

    Bound, non-blocking, prepared by ``transport.udp``; -1 for a family that is off. The
    old descriptors are not read again after the acknowledgement; whoever opened them
    closes them. Sticky sources are forgotten.
    """

    ipv4: int
    ipv6: int


@dataclass(frozen=True, slots=True)
class AddPath:
    """Serve endpoints with this ``path`` by a descriptor whose other end is somebody's here.

    Connected and non-blocking, a datagram a read and a datagram a write (SOCK_SEQPACKET).
    What comes out of it is from ``Endpoint(b"", 0, path=path)``; what does not fit in is
    dropped and counted. It replaces an earlier one of that number. Whoever opened it closes
    it, after the acknowledgement of what replaces or removes it.
    """

    path: int
    descriptor: int


@dataclass(frozen=True, slots=True)
class RemovePath:
    """Neither read from nor write to that path's descriptor any more."""

    path: int


Command = Union[  # noqa: UP007
    CreatePeer,
    DestroyPeer,
    InsertPrefix,
    DeletePrefix,
    SetPeerEndpoint,
    InstallKeypair,
    StopSending,
    EraseKeys,
    DropStaged,
    SendKeepalive,
    SendHandshake,
    Touch,
    SetAdmission,
    SetMtu,
    SetFilter,
    Divert,
    SendInner,
    ReplaceSockets,
    AddPath,
    RemovePath,
]
