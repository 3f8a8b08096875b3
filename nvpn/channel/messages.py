"""The messages of the control channel, version 1 (docs/channel.md).

One dataclass is one message, and all there is to adding one: its word, its fields with their
bounds, and, for a request, what answers it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Final

from nvpn.channel.schema import (
    Address,
    Between,
    MalformedMessage,
    MaxCount,
    MaxLength,
    Message,
    Part,
    Request,
    answer_of,
    decode,
    encode,
    message,
)
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface, Prefix

__all__ = [
    "CAPABILITY_ENROL",
    "CAPABILITY_LEASE",
    "MAX_NAME",
    "MAX_SENTENCE",
    "MAX_SERVERS",
    "Done",
    "Enrol",
    "Enrolled",
    "Failure",
    "FailureCode",
    "Goodbye",
    "Hello",
    "LeaseRequest",
    "MalformedMessage",
    "Message",
    "OtherServer",
    "Release",
    "Request",
    "Settings",
    "answer_of",
    "decode",
    "encode",
]

MAX_NAME: Final = 64
"""Characters of what people call a machine."""

MAX_SENTENCE: Final = 300
"""Characters of why something is refused."""

MAX_SERVERS: Final = 7
"""Beside the one that speaks."""

Name = Annotated[str, MaxLength(MAX_NAME)]
Version = Annotated[str, MaxLength(32)]
Domain = Annotated[str, MaxLength(253)]
HostPort = Annotated[str, MaxLength(261)]
"""``vpn.example:51820``, ``192.0.2.1:51820`` or ``[2001:db8::1]:51820``."""
Seconds = Annotated[int, Between(0, 2**32 - 1)]

CAPABILITY_LEASE: Final = "lease"
CAPABILITY_ENROL: Final = "enrol"


class FailureCode:
    """Words for why a request was refused; a later version may know more."""

    EXHAUSTED: Final = "exhausted"
    NOT_ADMITTED: Final = "not-admitted"
    INVITATION_USED: Final = "invitation-used"
    INVITATION_EXPIRED: Final = "invitation-expired"
    INVITATION_REVOKED: Final = "invitation-revoked"
    BUSY: Final = "busy"
    UNAVAILABLE: Final = "unavailable"
    UNKNOWN_REQUEST: Final = "unknown-request"
    REFUSED: Final = "refused"


@message("failure")
@dataclass(frozen=True, slots=True)
class Failure(Message):
    """The answer that says no: ``code`` for programs, ``sentence`` for people."""

    code: Annotated[str, MaxLength(32)]
    sentence: Annotated[str, MaxLength(MAX_SENTENCE)]


@message("hello")
@dataclass(frozen=True, slots=True)
class Hello(Request["Hello"]):
    """Who somebody is and what they can do. It is answered by the same of the other side."""

    name: Name
    version: Version
    capabilities: Annotated[tuple[Annotated[str, MaxLength(32)], ...], MaxCount(32)]


@dataclass(frozen=True, slots=True)
class OtherServer(Part):
    """Another server that knows the same clients. ``name`` is what it calls itself."""

    public_key: PublicKey
    name: Name
    endpoints: Annotated[tuple[HostPort, ...], MaxCount(8)]


@message("settings")
@dataclass(frozen=True, slots=True)
class Settings(Message):
    """What a server gives a client for a while.

    ``mtu`` 0: not told. ``renew_seconds`` before ``lease_seconds`` the client should ask
    again; ``lease_seconds`` 0: the addresses are the client's for good. ``endpoints``: where
    this server, and others that know the same leases, are reached. ``name`` is what the
    server calls the client, ``server`` what it calls itself, ``servers`` are others to go to
    when it is away. ``keepalive``: the persistent keepalive that the server wishes for while
    the client has its lease from it, in seconds; 0: none.
    """

    addresses: Annotated[tuple[Interface, ...], MaxCount(8)]
    routes: Annotated[tuple[Prefix, ...], MaxCount(200)] = ()
    dns: Annotated[tuple[Address, ...], MaxCount(8)] = ()
    search: Annotated[tuple[Domain, ...], MaxCount(8)] = ()
    mtu: Annotated[int, Between(0, 65535)] = 0
    lease_seconds: Seconds = 0
    renew_seconds: Seconds = 0
    endpoints: Annotated[tuple[HostPort, ...], MaxCount(8)] = ()
    name: Name = ""
    server: Name = ""
    servers: Annotated[tuple[OtherServer, ...], MaxCount(MAX_SERVERS)] = ()
    keepalive: Annotated[int, Between(0, 65535)] = 0


@message("lease")
@dataclass(frozen=True, slots=True)
class LeaseRequest(Request[Settings]):
    """Ask for addresses, or for those that we have for longer.

    ``wanted``: what we would like to have, or have already; the server need not heed it.
    """

    name: Name
    version: Version
    wanted: Annotated[tuple[Interface, ...], MaxCount(8)] = ()


@message("done")
@dataclass(frozen=True, slots=True)
class Done(Message):
    """What was asked for was done, and there is no more to say."""


@message("release")
@dataclass(frozen=True, slots=True)
class Release(Request[Done]):
    """Give the leased addresses back."""


@message("enrolled")
@dataclass(frozen=True, slots=True)
class Enrolled(Message):
    """The key is a client's from now on.

    ``server`` is what it calls itself, ``servers`` are others to go to when it is away.
    """

    name: Name
    endpoints: Annotated[tuple[HostPort, ...], MaxCount(8)] = ()
    server: Name = ""
    servers: Annotated[tuple[OtherServer, ...], MaxCount(MAX_SERVERS)] = ()


@message("enrol")
@dataclass(frozen=True, slots=True)
class Enrol(Request[Enrolled]):
    """Admit ``public_key`` as a client. Said under the one-time key of an invitation."""

    public_key: PublicKey
    name: Name
    version: Version


class GoodbyeReason(enum.Enum):
    """Why somebody goes, or takes back what it told; on the wire their values, of which a
    later version may know more."""

    STOPPING = "stopping"
    LEASE_ENDED = "lease ended"
    REVOKED = "revoked"
    SETTINGS_CHANGED = "settings changed"


@message("goodbye")
@dataclass(frozen=True, slots=True)
class Goodbye(Message):
    """A notice: do not count on me, or on what I gave you, any longer."""

    reason: Annotated[str, MaxLength(64)] = ""
