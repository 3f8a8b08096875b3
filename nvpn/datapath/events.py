"""What comes up through the seam (:mod:`nvpn.datapath.api`): the events of a datapath."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Union

from nvpn.datapath.commands import PeerId
from nvpn.model.endpoint import Endpoint


class Why(enum.Enum):
    """Why a handshake is wanted. Said once until keys or staging change."""

    NO_KEY = "no usable key"  # there is something to send
    OLD_SENDING = "key is 120 s old"  # we were initiator, and just sent
    OLD_RECEIVING = "key is 165 s old"  # we were initiator, and just received
    MANY_MESSAGES = "counter passed 2^60"


@dataclass(frozen=True, slots=True)
class HandshakeReceived:
    """A type 1, 2 or 3 message that passed admission.

    Of types 2 and 3 only what answers a message of ours: the receiver index is that of a
    keypair or of the peer's latest initiation.

    ``endpoint`` carries the source it came from and our address it came to.
    """

    datagram: bytes = field(repr=False)
    endpoint: Endpoint
    received_at: int


@dataclass(frozen=True, slots=True)
class HandshakeWanted:
    """The peer needs a new session."""

    peer: PeerId
    why: Why


@dataclass(frozen=True, slots=True)
class KeypairConfirmed:
    """The first authentic packet under ``next`` promoted it: we were responder."""

    peer: PeerId
    our_index: int
    at: int


@dataclass(frozen=True, slots=True)
class KeypairGone:
    """A keypair left its last slot and is zeroed; its index may be used again."""

    peer: PeerId
    our_index: int


@dataclass(frozen=True, slots=True)
class EndpointRoamed:
    """An authentic transport packet came from elsewhere; the datapath sends there already."""

    peer: PeerId
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class DataSent:
    """Data went out, nothing is unanswered since, and nobody watches. See Activity."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Data came in, nothing was sent since, and nobody watches. See Activity."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class InnerReceived:
    """A packet that :class:`Divert` lifts out of the stream; its source is the peer's."""

    peer: PeerId
    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeviceGone:
    """The TUN device was deleted under us (EBADFD), or its descriptor failed for good."""

    errno: int


Event = Union[  # noqa: UP007
    HandshakeReceived,
    HandshakeWanted,
    KeypairConfirmed,
    KeypairGone,
    EndpointRoamed,
    DataSent,
    DataReceived,
    InnerReceived,
    DeviceGone,
]
