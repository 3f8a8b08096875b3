"""The one way to alter a running tunnel: a plan of typed changes.

A configuration file, the control socket, a lease: each becomes a :data:`Plan`, which a
backend validates whole and then applies, all or nothing. A change names a peer by its
public key. Peers that a plan does not mention, or mentions with what they have already,
keep their sessions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Union

from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix


class Owner(enum.Enum):
    """Who put a peer or a prefix there. A reload, and a ``replace`` over the control socket,
    touch what the configuration owns, nothing else.
    """

    CONFIG = "config"
    LEASE = "lease"


@dataclass(frozen=True, slots=True)
class SetPrivateKey:
    """Become somebody else, or nobody (None). Sessions stop sending; handshakes start anew."""

    key: PrivateKey | None


@dataclass(frozen=True, slots=True)
class SetListenPort:
    """Move the UDP sockets; 0 lets the kernel choose. Sessions go on."""

    port: int


@dataclass(frozen=True, slots=True)
class SetFwmark:
    """Mark outer packets (SO_MARK); 0 is off."""

    mark: int


@dataclass(frozen=True, slots=True)
class ReplacePeers:
    """Remove every peer of this owner which the rest of the plan does not add.

    A peer that the plan adds keeps its session, but loses every setting (preshared key,
    keepalive, allowed IPs of this owner) that the plan does not give it again. A known
    endpoint stays.
    """

    owner: Owner = Owner.CONFIG


@dataclass(frozen=True, slots=True)
class AddPeer:
    """Make sure that the peer exists. Our own public key is ignored."""

    peer: PublicKey
    owner: Owner = Owner.CONFIG


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Forget the peer, its keys and its allowed IPs. An unknown one is ignored."""

    peer: PublicKey


@dataclass(frozen=True, slots=True)
class SetName:
    """What people call the peer; empty for nothing."""

    peer: PublicKey
    name: str


@dataclass(frozen=True, slots=True)
class SetPresharedKey:
    """Used from the next handshake on; None for none."""

    peer: PublicKey
    key: PresharedKey | None


@dataclass(frozen=True, slots=True)
class SetEndpoint:
    """Where the peer is reached; None when only it can reach us."""

    peer: PublicKey
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class SetCandidates:
    """Where else the peer may be: its next handshakes go to its endpoint and to all of these,
    and the one that answers first becomes the endpoint. At most 8; empty for none.
    """

    peer: PublicKey
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class SetPersistentKeepalive:
    """Seconds of silence, 0 to 65535, after which we send a keepalive; 0 is off."""

    peer: PublicKey
    seconds: int


@dataclass(frozen=True, slots=True)
class ReplaceAllowedIps:
    """Drop those of the peer's allowed IPs that the configuration owns, except those which
    the rest of the plan adds.
    """

    peer: PublicKey


@dataclass(frozen=True, slots=True)
class AddAllowedIp:
    """Route the prefix to the peer, taking it away from any other.

    One that the peer has already becomes this owner's.
    """

    peer: PublicKey
    prefix: Prefix
    owner: Owner = Owner.CONFIG


@dataclass(frozen=True, slots=True)
class RemoveAllowedIp:
    """Drop the prefix if this peer owns it; else nothing."""

    peer: PublicKey
    prefix: Prefix


Change = Union[  # noqa: UP007 - a runtime value on Python 3.10
    SetPrivateKey,
    SetListenPort,
    SetFwmark,
    ReplacePeers,
    AddPeer,
    RemovePeer,
    SetName,
    SetPresharedKey,
    SetEndpoint,
    SetCandidates,
    SetPersistentKeepalive,
    ReplaceAllowedIps,
    AddAllowedIp,
    RemoveAllowedIp,
]

Plan = tuple[Change, ...]
"""Changes in order. Peer changes apply to peers that exist by then; others are ignored,
as the control socket's ``update_only`` wants it."""
