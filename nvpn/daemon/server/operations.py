"""What ``nvpn invite``, ``nvpn client`` and ``nvpn peer add --from-pool`` ask of a daemon.

A request's lines are ``key=value``, values percent-quoted. An answer is one line of JSON.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import unquote

from nvpn.backend.api import TunnelBackend
from nvpn.config.findings import quote
from nvpn.config.model import HostPort, ServerConfig
from nvpn.config.values import parse_endpoint
from nvpn.control.server import Operation
from nvpn.daemon.server.offered import OPERATIONS
from nvpn.errors import ControlError, Refused
from nvpn.model.clock import SECOND, Now
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import format_address
from nvpn.registry.admissions import MAX_USES
from nvpn.registry.invitation_text import InvitationText, format_invitation
from nvpn.registry.model import Client, Invitation, InvitationState
from nvpn.registry.registry import Registry

_CLIENTS_A_TURN: Final = 256
_ALIVE: Final = 180 * SECOND


class ServerOperations:
    """Args:
    registry: raises Unavailable while it is not open.
    terms: what clients are told now.
    public_key: ours now; raises ControlError where there is none.
    in_force: until what the registry told is in force.
    """

    def __init__(
        self,
        backend: TunnelBackend,
        *,
        registry: Callable[[], Registry],
        terms: Callable[[], ServerConfig],
        public_key: Callable[[], PublicKey],
        in_force: Callable[[], Awaitable[None]],
        clocks: Callable[[], Now],
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._terms = terms
        self._public_key = public_key
        self._in_force = in_force
        self._clocks = clocks

    def by_name(self) -> dict[str, Operation]:
        """For the control socket."""
        mine = (
            self._invite,
            self._clients,
            self._revoke,
            self._rename,
            self._invitations,
            self._revoke_invitation,
            self._lease_peer,
        )
        return dict(zip(OPERATIONS, mine, strict=True))

    async def _invite(self, lines: Sequence[str]) -> Sequence[str]:
        """``name``, ``expires`` (seconds from now), ``uses``, ``endpoint`` (again for more)."""
        asked = _Request(lines, "name", "expires", "uses", "endpoint")
        terms = self._terms()
        endpoints = tuple(map(_endpoint, asked.all("endpoint"))) or terms.endpoints
        if not endpoints:
            raise ControlError(
                errno.EINVAL,
                "where is the server to be reached? Give [server] an endpoint, or use:"
                " --endpoint HOST:PORT",
            )
        seconds = asked.number("expires", terms.invitation_time, 1, 10 * 366 * 86_400)
        made = await self._registry().invite(
            asked.text("name"),
            expires_at=self._clocks().wall + seconds * SECOND,
            uses=asked.number("uses", 1, 1, MAX_USES),
        )
        try:
            text = InvitationText(
                server=self._public_key(),
                secret=made.secret,
                expires_at=made.invitation.expires_at,
                endpoints=endpoints,
                name=made.invitation.name,
            )
            told = _invitation(made.invitation, self._clocks().wall)
            told["text"] = format_invitation(text)
        except (ValueError, ControlError) as error:
            # Nobody has it, and its name is to be free for the next try.
            await self._registry().revoke_invitation(made.invitation.public_key.base64)
            raise ControlError(errno.EINVAL, str(error)) from None
        finally:
            made.secret.wipe()
        await self._in_force()
        return [_line(told)]

    async def _clients(self, lines: Sequence[str]) -> Sequence[str]:
        _Request(lines)
        clients = []
        for place, one in enumerate(self._registry().clients(), 1):
            clients.append(self._client(one))
            if place % _CLIENTS_A_TURN == 0:
                await asyncio.sleep(0)  # let packets through meanwhile
        return [_line({"clients": clients, "invitations": self._all_invitations()})]

    async def _invitations(self, lines: Sequence[str]) -> Sequence[str]:
        _Request(lines)
        return [_line({"invitations": self._all_invitations()})]

    async def _revoke(self, lines: Sequence[str]) -> Sequence[str]:
        """``client``: a name or a key."""
        asked = _Request(lines, "client")
        client = await self._registry().revoke(asked.text("client"))
        await self._in_force()
        told = {"name": client.name, "public_key": client.public_key.base64}
        return [_line({**told, "way_back": self._way_back(client)})]

    async def _rename(self, lines: Sequence[str]) -> Sequence[str]:
        """``old``: a name or a key; ``new``: a name."""
        asked = _Request(lines, "old", "new")
        client = await self._registry().rename(asked.text("old"), asked.text("new"))
        await self._in_force()
        return [_line({"name": client.name, "public_key": client.public_key.base64})]

    async def _revoke_invitation(self, lines: Sequence[str]) -> Sequence[str]:
        """``invitation``: a name or a key."""
        asked = _Request(lines, "invitation")
        gone = await self._registry().revoke_invitation(asked.text("invitation"))
        return [_line(_invitation(gone, self._clocks().wall))]

    async def _lease_peer(self, lines: Sequence[str]) -> Sequence[str]:
        """``name``, ``public_key``: addresses for good, and what goes into the peer's file."""
        asked = _Request(lines, "name", "public_key")
        try:
            key = PublicKey.from_base64(asked.text("public_key"))
        except ValueError as error:
            raise ControlError(errno.EINVAL, f"public_key: {error}") from None
        if key == self._public_key():
            raise Refused("that is the server's own public key")
        lease = await self._registry().admit(key, asked.text("name"))
        await self._in_force()
        terms = self._terms()
        return [
            _line(
                {
                    "name": asked.text("name"),
                    "addresses": [str(one) for one in lease.addresses],
                    "server": self._public_key().base64,
                    "endpoints": [str(one) for one in terms.endpoints],
                    "routes": [str(one) for one in terms.routes],
                    "dns": [format_address(one) for one in terms.dns],
                    "search": list(terms.search),
                    "mtu": terms.mtu,
                }
            )
        ]

    def _client(self, client: Client) -> dict[str, Any]:
        """For JSON; times are Unix seconds, None is "never", "for good" or "not known"."""
        registry, now = self._registry(), self._backend.peer(client.public_key)
        lease = registry.lease_of(client.public_key)
        age = None if now is None else now.session_age
        return {
            "name": client.name,
            "public_key": client.public_key.base64,
            "origin": client.origin.value,
            "host": client.host or None,
            "admitted_at": client.admitted_at // SECOND,
            "last_seen": client.last_seen // SECOND or None,
            "addresses": [] if lease is None else [str(one) for one in lease.addresses],
            "lease_seconds": None if lease is None else registry.remaining(lease),
            "is_leased": lease is not None,
            "is_connected": age is not None and age < _ALIVE,
            "latest_handshake": None if now is None else now.last_handshake // SECOND or None,
            "endpoint": None if now is None or now.endpoint is None else str(now.endpoint),
        }

    def _way_back(self, client: Client) -> dict[str, Any] | None:
        """The invitation by which it came, if that admits others still, or it with another key."""
        wall = self._clocks().wall
        for one in self._registry().invitations():
            if one.public_key == client.invitation and one.state(wall) is InvitationState.OPEN:
                return _invitation(one, wall)
        return None

    def _all_invitations(self) -> list[dict[str, Any]]:
        wall = self._clocks().wall
        return [_invitation(one, wall) for one in self._registry().invitations()]


def _invitation(invitation: Invitation, wall: int) -> dict[str, Any]:
    """For JSON; times are Unix seconds."""
    return {
        "name": invitation.name,
        "public_key": invitation.public_key.base64,
        "made_at": invitation.made_at // SECOND,
        "expires_at": invitation.expires_at // SECOND,
        "uses": invitation.uses,
        "uses_left": invitation.uses_left,
        "state": invitation.state(wall).value,
    }


def _endpoint(text: str) -> HostPort:
    try:
        return parse_endpoint(text)
    except ValueError as error:
        message = f"{error}, in the endpoint {quote(text)}"
        raise ControlError(errno.EINVAL, message) from None


def _line(told: dict[str, Any]) -> str:
    return json.dumps(told, separators=(",", ":"))


class _Request:
    """The lines of a request. Raises ControlError for what it should not have."""

    def __init__(self, lines: Sequence[str], *keys: str) -> None:
        self._values: dict[str, list[str]] = {}
        for line in lines:
            key, equals, value = line.partition("=")
            if not equals or key not in keys:
                raise ControlError(errno.EINVAL, "the request has a line that it should not have")
            self._values.setdefault(key, []).append(unquote(value))

    def all(self, key: str) -> list[str]:
        return self._values.get(key, [])

    def text(self, key: str) -> str:
        values = self.all(key)
        if values == [""]:
            raise ControlError(errno.EINVAL, f"the {key} is empty")
        if len(values) != 1:
            raise ControlError(errno.EINVAL, f"the request needs one {key}")
        return values[0]

    def number(self, key: str, default: int, least: int, most: int) -> int:
        values = self.all(key)
        if not values:
            return default
        text = values[-1]
        if text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most:
            return int(text)
        raise ControlError(errno.EINVAL, f"{key}: expected a number from {least} to {most}")
