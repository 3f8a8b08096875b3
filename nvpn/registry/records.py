"""How clients, invitations and leases are written: keys that say what they are, values in JSON.

::

    client/<public key, hex>        who it is, its last addresses, or when it was revoked
    name/<name, percent-encoded>    whose name it is: so a name is given once, on every server
    invitation/<public key, hex>    for whom, until when, who came; never the secret
    lease/<address>                 who holds it, a client or a server: so an address is given
                                    once
    server/<public key, hex>        where a server is, and when it said so

Fields that are not known are left out, so that later versions may add some. A record that
cannot be read is None to us, but is there: nobody else gets its key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar, Union
from urllib.parse import quote

from nvpn.config.values import MAX_ENDPOINTS, parse_endpoint
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import format_address, parse_address
from nvpn.registry.model import Client, Invitation, Origin, Server
from nvpn.registry.store import Put

CLIENT: Final = "client/"
NAME: Final = "name/"
INVITATION: Final = "invitation/"
LEASE: Final = "lease/"
SERVER: Final = "server/"

SHORTEST_HOLD: Final = 60

_MAX_TEXT: Final = 1024
_MAX_SERVER_NAME: Final = 64
_MAX_NUMBER: Final = 2**63 - 1
_MAX_SECONDS: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class AddressLease:
    """One address of a lease.

    ``seconds`` is for how long it was given when ``server`` last renewed it; 0: for good.
    ``expires_at`` is when that ends by that server's wall clock, in Unix nanoseconds.
    """

    address: bytes
    client: PublicKey
    given_at: int
    seconds: int
    expires_at: int
    server: str

    @property
    def hold(self) -> int:
        """Seconds after its end in which nobody else gets the address unless ``server`` says so:
        it may be cut off from the store, and let its client go on for so long.
        """
        return max(SHORTEST_HOLD, self.seconds)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """An address of a server's own interface, which no server leases."""

    address: bytes
    owner: str


class NameHolder(NamedTuple):
    """Whose name it is."""

    client: PublicKey


@dataclass(frozen=True, slots=True)
class AnnouncedServer:
    """``announced_at`` is Unix nanoseconds by its own clock."""

    server: Server
    announced_at: int


Value = Union[  # noqa: UP007 - on Python 3.10, too
    Client, Invitation, AddressLease, ServerAddress, NameHolder, AnnouncedServer
]


def client_key(client: PublicKey) -> str:
    """Where a client is kept."""
    return CLIENT + client.hex


def invitation_key(one_time: PublicKey) -> str:
    """Where an invitation is kept."""
    return INVITATION + one_time.hex


def lease_key(address: bytes) -> str:
    """Where the holder of an address is kept."""
    return LEASE + format_address(address)


def name_key(name: str) -> str:
    """Where the holder of a name is kept."""
    return NAME + quote(name, safe="")


def server_key(server: PublicKey) -> str:
    """Where a server announces itself."""
    return SERVER + server.hex


def put_client(client: Client, *, expires_at: int | None = None) -> Put:
    """Write a client."""
    return _put(
        client_key(client.public_key),
        {
            "name": client.name,
            "origin": client.origin.value,
            "admitted_at": client.admitted_at,
            "host": client.host,
            "last_seen": client.last_seen,
            "addresses": [format_address(one) for one in client.addresses],
            "invitation": client.invitation.hex if client.invitation else "",
            "revoked_at": client.revoked_at,
        },
        expires_at,
    )


def put_name(name: str, client: PublicKey) -> Put:
    """Give a client its name."""
    return _put(name_key(name), {"client": client.hex})


def put_invitation(invitation: Invitation, *, expires_at: int | None = None) -> Put:
    """Write an invitation."""
    return _put(
        invitation_key(invitation.public_key),
        {
            "name": invitation.name,
            "made_at": invitation.made_at,
            "expires_at": invitation.expires_at,
            "uses": invitation.uses,
            "enrolled": [one.hex for one in invitation.enrolled],
            "revoked_at": invitation.revoked_at,
        },
        expires_at,
    )


def put_lease(lease: AddressLease) -> Put:
    """Write who holds an address."""
    return _put(
        lease_key(lease.address),
        {
            "client": lease.client.hex,
            "given_at": lease.given_at,
            "seconds": lease.seconds,
            "expires_at": lease.expires_at,
            "server": lease.server,
        },
        lease.expires_at + lease.hold * SECOND if lease.seconds else None,
    )


def put_server_address(own: ServerAddress) -> Put:
    """Keep a server's own address from being leased."""
    return _put(lease_key(own.address), {"owner": own.owner})


def put_server(one: AnnouncedServer, *, expires_at: int) -> Put:
    """Announce a server."""
    return _put(
        server_key(one.server.public_key),
        {
            "name": one.server.name,
            "endpoints": [str(place) for place in one.server.endpoints],
            "announced_at": one.announced_at,
        },
        expires_at,
    )


def read(key: str, value: bytes) -> Value | None:
    """What a record says; None when it is none of ours or cannot be read."""
    try:
        fields = json.loads(value)
        if not isinstance(fields, dict):
            return None
        for prefix, reader in _READERS:
            if key.startswith(prefix):
                found = reader(key[len(prefix) :], fields)
                # The same thing under two spellings of its key would be two things.
                return found if _key_of(found) in (key, None) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


# --- details ----------------------------------------------------------------------------

_T = TypeVar("_T", str, int)


def _put(key: str, fields: dict[str, Any], expires_at: int | None = None) -> Put:
    return Put(key, json.dumps(fields, separators=(",", ":")).encode(), expires_at)


def _read_client(rest: str, fields: dict[str, Any]) -> Client:
    invitation = _field(fields, "invitation", str)
    return Client(
        PublicKey.from_hex(rest),
        _field(fields, "name", str),
        Origin(fields["origin"]),
        _field(fields, "admitted_at", int),
        _field(fields, "host", str),
        _field(fields, "last_seen", int),
        tuple(parse_address(one) for one in _strings(fields, "addresses")),
        PublicKey.from_hex(invitation) if invitation else None,
        _field(fields, "revoked_at", int),
    )


def _read_name(rest: str, fields: dict[str, Any]) -> NameHolder:
    return NameHolder(PublicKey.from_hex(_field(fields, "client", str)))


def _read_invitation(rest: str, fields: dict[str, Any]) -> Invitation:
    return Invitation(
        PublicKey.from_hex(rest),
        _field(fields, "name", str),
        _field(fields, "made_at", int),
        _field(fields, "expires_at", int),
        _field(fields, "uses", int),
        tuple(PublicKey.from_hex(one) for one in _strings(fields, "enrolled")),
        _field(fields, "revoked_at", int),
    )


def _read_lease(rest: str, fields: dict[str, Any]) -> AddressLease | ServerAddress:
    if "owner" in fields:
        return ServerAddress(parse_address(rest), _field(fields, "owner", str))
    return AddressLease(
        parse_address(rest),
        PublicKey.from_hex(_field(fields, "client", str)),
        _field(fields, "given_at", int),
        _seconds(fields),
        _field(fields, "expires_at", int),
        _field(fields, "server", str),
    )


def _read_server(rest: str, fields: dict[str, Any]) -> AnnouncedServer:
    name = _field(fields, "name", str)
    endpoints = tuple(map(parse_endpoint, _strings(fields, "endpoints")))
    if len(name) > _MAX_SERVER_NAME or not 1 <= len(endpoints) <= MAX_ENDPOINTS:
        raise ValueError("server")
    server = Server(PublicKey.from_hex(rest), name, endpoints)
    return AnnouncedServer(server, _field(fields, "announced_at", int))


def _key_of(value: Value) -> str | None:
    """The one key under which it may be; None: any."""
    if isinstance(value, Client):
        return client_key(value.public_key)
    if isinstance(value, Invitation):
        return invitation_key(value.public_key)
    if isinstance(value, AnnouncedServer):
        return server_key(value.server.public_key)
    return None if isinstance(value, NameHolder) else lease_key(value.address)


def _field(fields: dict[str, Any], name: str, kind: type[_T]) -> _T:
    value = fields[name]
    if type(value) is not kind or not _is_sane(value):
        raise TypeError(name)
    return value


def _is_sane(value: str | int) -> bool:
    """What others wrote into the store ends up in terminals, files and timers."""
    if isinstance(value, int):
        return 0 <= value <= _MAX_NUMBER
    return len(value) <= _MAX_TEXT and value.isprintable()


def _seconds(fields: dict[str, Any]) -> int:
    seconds = _field(fields, "seconds", int)
    if seconds > _MAX_SECONDS:
        raise ValueError("seconds")
    return seconds


def _strings(fields: dict[str, Any], name: str) -> list[str]:
    value = fields[name]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise TypeError(name)
    return value


_READERS: Final[tuple[tuple[str, Callable[[str, dict[str, Any]], Value]], ...]] = (
    (CLIENT, _read_client),
    (NAME, _read_name),
    (INVITATION, _read_invitation),
    (LEASE, _read_lease),
    (SERVER, _read_server),
)
