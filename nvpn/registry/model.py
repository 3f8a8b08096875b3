"""What a registry is asked for and what it tells: frozen values, all times Unix nanoseconds."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Union

from nvpn.config.model import AddressRange, HostPort, Reservation
from nvpn.errors import Refused
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.prefixes import Interface, Prefix


@dataclass(frozen=True, slots=True)
class FilePeer:
    """A peer of the configuration file, which is no client but may ask for settings.

    ``fixed`` are its allowed IPs in the file. Where one of them is a single address, these
    are its addresses and it leases nothing more (but what is reserved for it).
    """

    name: str = ""
    fixed: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """Who serves the clients of this store, as it says itself. ``endpoints`` are never empty."""

    public_key: PublicKey
    name: str
    endpoints: tuple[HostPort, ...]


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What may be leased, and for how long.

    Args:
        pools: at most one address of each family is leased, from the first pool with room.
        own: our interface's addresses, which nobody else gets.
        reserved: never leased.
        reservations: addresses that one client gets and nobody else.
        lease_seconds: how long a lease is good without being renewed.
        server: what tells this server from others on the same store, the same after a
            restart: its public key, say.
        announced: what the others are told of us; None: nothing.
    """

    pools: tuple[Prefix, ...]
    own: tuple[Interface, ...] = ()
    reserved: tuple[AddressRange, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    lease_seconds: int = 86_400
    server: str = ""
    announced: Server | None = None


class Origin(enum.Enum):
    """How a key came to have addresses here."""

    JOINED = "joined"  # it was invited
    STATIC = "static"  # somebody here gave it addresses for good: ``peer add --from-pool``
    FILE = "file"  # a peer of the file, which we know by the addresses that it had last


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody who was admitted.

    ``name`` is unique among clients. ``host`` is what it calls itself, never trusted.
    ``addresses`` were its last ones, which it gets again if it can. ``last_seen`` is when it
    last asked for something. ``revoked_at`` 0: it is welcome.
    """

    public_key: PublicKey
    name: str
    origin: Origin
    admitted_at: int
    host: str = ""
    last_seen: int = 0
    addresses: tuple[bytes, ...] = ()
    invitation: PublicKey | None = None
    revoked_at: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """Addresses that one client holds, and nobody else.

    ``addresses`` have the length of their pool, at most one of each family. ``expires_at``
    None: until it is revoked, or for as long as the file says so. By the wall clock, for
    people: how long it still is, ask :meth:`Registry.remaining`. ``server`` renewed it last.
    """

    client: PublicKey
    addresses: tuple[Interface, ...]
    given_at: int
    expires_at: int | None
    server: str = ""

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """What the client may send from: /32 and /128."""
        return tuple(Prefix.of(one.address, len(one.address) * 8) for one in self.addresses)


class InvitationState(enum.Enum):
    """Whether an invitation still admits somebody."""

    OPEN = "open"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Invitation:
    """Who may still come, under which one-time key. Its private half is not kept.

    ``uses_left`` counts down from ``uses``; ``enrolled`` are those who came.
    """

    public_key: PublicKey
    name: str
    made_at: int
    expires_at: int
    uses: int = 1
    enrolled: tuple[PublicKey, ...] = ()
    revoked_at: int = 0

    @property
    def uses_left(self) -> int:
        """How many may still come."""
        return max(0, self.uses - len(self.enrolled))

    def state(self, wall: int) -> InvitationState:
        """What it is at this Unix time, in nanoseconds."""
        if self.revoked_at:
            return InvitationState.REVOKED
        if not self.uses_left:
            return InvitationState.USED
        return InvitationState.EXPIRED if wall >= self.expires_at else InvitationState.OPEN


@dataclass(frozen=True, slots=True)
class NewInvitation:
    """An invitation with its secret, which exists here and in the text for the guest only."""

    invitation: Invitation
    secret: PrivateKey = field(repr=False)


class Refusal(enum.Enum):
    """Why a registry says no. The values are the control channel's codes."""

    EXHAUSTED = "exhausted"
    NOT_ADMITTED = "not-admitted"
    INVITATION_USED = "invitation-used"
    INVITATION_EXPIRED = "invitation-expired"
    INVITATION_REVOKED = "invitation-revoked"
    BUSY = "busy"
    REFUSED = "refused"


class RegistryRefused(Refused):
    """The registry says no, in one sentence. ``code`` is a :class:`Refusal`'s value."""

    def __init__(self, refusal: Refusal, sentence: str) -> None:
        self.refusal = refusal
        self.code: str = refusal.value
        super().__init__(sentence)


# --- what changed -----------------------------------------------------------------------


class Ending(enum.Enum):
    """Why a lease ended."""

    RELEASED = "released"
    EXPIRED = "expired"
    REVOKED = "revoked"
    IDLE = "idle"
    MOVED = "moved"  # its address is no longer to be had: the pools, or the records, are others
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class ClientAdmitted:
    """The key may speak to us from now on."""

    key: PublicKey
    name: str


@dataclass(frozen=True, slots=True)
class ClientRevoked:
    """The key may not any more. Its lease ended before (LeaseEnded)."""

    key: PublicKey


@dataclass(frozen=True, slots=True)
class ClientRenamed:
    """People call it something else."""

    key: PublicKey
    name: str


@dataclass(frozen=True, slots=True)
class InvitationMade:
    """Whoever has the private half of this key may ask to be enrolled, and nothing else."""

    key: PublicKey
    name: str


@dataclass(frozen=True, slots=True)
class InvitationGone:
    """Nothing is to be said to this key any more.

    A used, revoked or expired invitation goes a day after it would have expired: until then
    people are told of it. Its guest is, for a day (:mod:`nvpn.registry.guests`).
    """

    key: PublicKey


@dataclass(frozen=True, slots=True)
class LeaseGiven:
    """The client may send from these addresses from now on, and nobody else may."""

    key: PublicKey
    prefixes: tuple[Prefix, ...]


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """The client may not send from these addresses any more."""

    key: PublicKey
    prefixes: tuple[Prefix, ...]
    why: Ending


@dataclass(frozen=True, slots=True)
class ServerChanged:
    """A server of the store came, went, or says something else of itself: it may be us."""

    key: PublicKey


RegistryChange = Union[  # noqa: UP007 - a runtime value on Python 3.10
    ClientAdmitted,
    ClientRevoked,
    ClientRenamed,
    InvitationMade,
    InvitationGone,
    LeaseGiven,
    LeaseEnded,
    ServerChanged,
]
