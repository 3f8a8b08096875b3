"""Who may come and who came: invitations, clients and their names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from nvpn.model.clock import SECOND
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.registry.ledger import Ledger
from nvpn.registry.model import (
    Client,
    Ending,
    FilePeer,
    Invitation,
    InvitationState,
    NewInvitation,
    Origin,
    Refusal,
    RegistryRefused,
)
from nvpn.registry.records import (
    client_key,
    invitation_key,
    lease_key,
    name_key,
    put_client,
    put_invitation,
    put_name,
)
from nvpn.registry.store import Condition, Delete, Edit, Put
from nvpn.registry.telling import is_welcome

MAX_KNOWN: Final = 10_000
"""Clients and invitations together."""

MAX_USES: Final = 1_000
MAX_NAME: Final = 64
"""Characters."""

DAY: Final = 86_400 * SECOND
INVITATION_KEPT: Final = DAY
"""How long after its end an invitation is remembered, so that its guest hears why not."""

REVOCATION_KEPT: Final = 365 * DAY


class Admissions:
    """The rules of coming and going. See Registry for what each operation is."""

    def __init__(self, ledger: Ledger, file_peers: Mapping[PublicKey, FilePeer]) -> None:
        self._ledger: Final = ledger
        # Many who come at once by one invitation would meet in its record again and again.
        self._enrolling: Final = asyncio.Lock()
        # Names of invitations that are being written.
        self._inviting: Final[set[str]] = set()
        self.configure(file_peers)

    def configure(self, file_peers: Mapping[PublicKey, FilePeer]) -> None:
        """These are the peers of the file from now on."""
        self.file_peers = file_peers
        self._file_names = {peer.name for peer in file_peers.values()}

    # --- invitations ------------------------------------------------------------------------

    async def invite(self, name: str, *, expires_at: int, uses: int) -> NewInvitation:
        """See Registry.invite."""
        _check_name(name)
        if not 1 <= uses <= MAX_USES:
            raise _no(f"an invitation is for 1 to {MAX_USES} uses, not {uses}")
        now = self._ledger.clocks()
        if expires_at <= now.wall:
            raise _no("an invitation that has expired already is of no use")
        self.check_room()
        if uses == 1:
            self._check_free(name)
        secret = PrivateKey(self._ledger.random(32))
        made = Invitation(secret.public(), name, now.wall, expires_at, uses)
        condition = Condition(invitation_key(made.public_key), 0)
        self._inviting.add(name)
        try:
            done = await self._ledger.commit((condition,), (_put_invitation(made),))
        finally:
            self._inviting.discard(name)
        if not done:
            raise _no("the random numbers of this system repeat themselves")
        return NewInvitation(made, secret)

    async def enrol(self, one_time: PublicKey, client: PublicKey, host: str) -> Client:
        """See Registry.enrol."""
        async with self._enrolling:
            return await self._enrol(one_time, client, host)

    async def _enrol(self, one_time: PublicKey, client: PublicKey, host: str) -> Client:
        mirror = self._ledger.mirror
        tries = self._ledger.tries()
        while True:
            invitation = mirror.invitations.get(one_time)
            if invitation is None:
                raise _not_admitted("this server knows no such invitation")
            known = mirror.clients.get(client)
            if known is not None and is_welcome(known) and known.invitation == one_time:
                return known
            now = self._ledger.clocks()
            self._check_open(invitation, client, now.wall)
            # Whose it is, is nobody's business: any guest may ask with any key.
            if is_welcome(known) or client in self.file_peers or client == one_time:
                raise _no("this key belongs to somebody else here: make another")
            self.check_room(coming=True)
            name = self._free_name(invitation.name)
            admitted = Client(
                client,
                name,
                Origin.JOINED,
                now.wall,
                host=clean_host(host),
                last_seen=now.wall,
                addresses=known.addresses if known else (),
                invitation=one_time,
            )
            conditions = (
                mirror.unchanged(invitation_key(one_time)),
                mirror.unchanged(client_key(client)),
                Condition(name_key(name), 0),
            )
            spent = replace(invitation, enrolled=(*invitation.enrolled, client))
            edits = (_put_invitation(spent), put_client(admitted), put_name(name, client))
            if await self._ledger.commit(conditions, edits):
                return admitted
            await tries.again()

    async def revoke_invitation(self, name_or_key: str) -> Invitation:
        """See Registry.revoke_invitation."""
        mirror = self._ledger.mirror
        tries = self._ledger.tries()
        while True:
            now = self._ledger.clocks()
            invitation = self._find_invitation(name_or_key, now.wall)
            revoked = replace(invitation, revoked_at=now.wall)
            condition = mirror.unchanged(invitation_key(invitation.public_key))
            if await self._ledger.commit((condition,), (_put_invitation(revoked),)):
                return revoked
            await tries.again()

    # --- clients ----------------------------------------------------------------------------

    async def revoke(self, name_or_key: str) -> Client:
        """See Registry.revoke."""
        mirror = self._ledger.mirror
        tries = self._ledger.tries()
        while True:
            client = self.find(name_or_key)
            now = self._ledger.clocks()
            gone = replace(client, revoked_at=now.wall, addresses=())
            leases = mirror.held_by(client.public_key)
            held = [lease_key(lease.address) for lease in leases]
            keys = [client_key(client.public_key), *held]
            edits: list[Edit] = list(map(Delete, held))
            edits += [
                put_client(gone, expires_at=now.wall + REVOCATION_KEPT),
                Delete(name_key(client.name)),
            ]
            if await self._ledger.commit(
                map(mirror.unchanged, keys),
                edits,
                ending=leases,
                why=Ending.REVOKED,
            ):
                return gone
            await tries.again()

    async def rename(self, old: str, new: str) -> Client:
        """See Registry.rename."""
        _check_name(new)
        mirror = self._ledger.mirror
        tries = self._ledger.tries()
        while True:
            client = self.find(old)
            if client.name == new:
                return client
            self._check_free(new)
            renamed = replace(client, name=new)
            conditions = (
                mirror.unchanged(client_key(client.public_key)),
                Condition(name_key(new), 0),
            )
            edits = (
                put_client(renamed),
                put_name(new, client.public_key),
                Delete(name_key(client.name)),
            )
            if await self._ledger.commit(conditions, edits):
                return renamed
            await tries.again()

    def find(self, name_or_key: str) -> Client:
        """The client of this name or base64 key. Raises RegistryRefused."""
        mirror = self._ledger.mirror
        client = mirror.client_named(name_or_key) if name_or_key else None
        if client is None:
            try:
                client = mirror.clients.get(PublicKey.from_base64(name_or_key))
            except ValueError:
                pass
        if client is None or not is_welcome(client):
            raise _no(f"no client is called {name_or_key!r}")
        return client

    def check_new(self, client: PublicKey, name: str) -> None:
        """Whether somebody here may admit this key under this name. Raises RegistryRefused."""
        _check_name(name)
        known = self._ledger.mirror.clients.get(client)
        if client in self.file_peers:
            raise _no("this key belongs to a peer of the file")
        if known is not None and is_welcome(known):
            raise _no(f"this key belongs to the client {known.name!r} already")
        self._check_free(name)
        self.check_room()

    def check_room(self, *, coming: bool = False) -> None:
        """Whether one more may be known; who comes has been counted. Raises RegistryRefused."""
        mirror = self._ledger.mirror
        known = sum(map(is_welcome, mirror.clients.values())) + len(mirror.invitations)
        if known >= MAX_KNOWN + (1 if coming else 0):
            raise _no(
                f"this server knows {MAX_KNOWN} clients and invitations, which is as many as it"
                " may: revoke some"
            )

    # --- details ----------------------------------------------------------------------------

    def _check_open(self, invitation: Invitation, client: PublicKey, wall: int) -> None:
        name = invitation.name
        if client in invitation.enrolled:
            raise _not_admitted("this client was revoked: ask for a new invitation")
        match invitation.state(wall):
            case InvitationState.REVOKED:
                raise RegistryRefused(
                    Refusal.INVITATION_REVOKED,
                    f"the invitation for {name} was revoked: ask for a new one",
                )
            case InvitationState.USED:
                raise RegistryRefused(
                    Refusal.INVITATION_USED,
                    f"the invitation for {name} has been used: ask for a new one",
                )
            case InvitationState.EXPIRED:
                raise RegistryRefused(
                    Refusal.INVITATION_EXPIRED,
                    f"the invitation for {name} has expired: ask for a new one",
                )

    def _find_invitation(self, name_or_key: str, wall: int) -> Invitation:
        """Of several of one name an open one, else the latest."""
        found = [
            one
            for one in self._ledger.mirror.invitations.values()
            if name_or_key in (one.name, one.public_key.base64)
        ]
        if not found:
            raise _no(f"no invitation is called {name_or_key!r}")
        return max(found, key=lambda one: (one.state(wall) is InvitationState.OPEN, one.made_at))

    def _check_free(self, name: str) -> None:
        if self._is_taken(name):
            raise _no(f"somebody here is called {name!r} already: choose another name")
        wall = self._ledger.clocks().wall
        if name in self._inviting or any(
            one.name == name and one.state(wall) is InvitationState.OPEN
            for one in self._ledger.mirror.invitations.values()
        ):
            raise _no(
                f"an open invitation is for {name!r} already: choose another name, or end that"
                " one with nvpn client revoke"
            )

    def _is_taken(self, name: str) -> bool:
        return name in self._file_names or self._ledger.mirror.has(name_key(name))

    def _free_name(self, name: str) -> str:
        number, free = 1, name
        while self._is_taken(free):
            number += 1
            tail = f"-{number}"
            free = name[: MAX_NAME - len(tail)] + tail
        return free


def clean_host(host: str) -> str:
    """What a client calls itself, as far as it can be shown."""
    return "".join(one for one in host[: 4 * MAX_NAME] if one.isprintable())[:MAX_NAME]


def _check_name(name: str) -> None:
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
        raise _no(f"expected a name of 1 to {MAX_NAME} printable characters")


def _put_invitation(invitation: Invitation) -> Put:
    return put_invitation(invitation, expires_at=invitation.expires_at + INVITATION_KEPT)


def _no(sentence: str) -> RegistryRefused:
    return RegistryRefused(Refusal.REFUSED, sentence)


def _not_admitted(sentence: str) -> RegistryRefused:
    return RegistryRefused(Refusal.NOT_ADMITTED, sentence)
