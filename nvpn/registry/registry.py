"""The registry: who is a client here, and which addresses each one holds.

Everything it knows is a mirror in memory of what its store has. An operation reads the
mirror, decides, and commits its edits under the condition that nothing it read has changed; if
something has, it looks again. So two servers on one store follow the same rules without
speaking to each other, and what happened is told from the mirror alone (``on_change``),
whoever did it.

While the store is away nothing new is given, and who asks keeps what it has. On a store that
nobody shares, leases that are over then are put off until it is back. On a shared one others may
lease what is over: they wait for a hold longer than whoever gave it, who has let go by then
(ledger.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from nvpn.errors import Unavailable
from nvpn.model.clock import SECOND, Now
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.registry.admissions import INVITATION_KEPT, REVOCATION_KEPT, Admissions
from nvpn.registry.guests import is_answered
from nvpn.registry.leasing import Leasing
from nvpn.registry.ledger import PUT_OFF, Ledger
from nvpn.registry.model import (
    Client,
    Ending,
    FilePeer,
    Invitation,
    Lease,
    NewInvitation,
    Origin,
    RegistryChange,
    RegistrySettings,
    Server,
)
from nvpn.registry.records import client_key, invitation_key
from nvpn.registry.servers import Servers
from nvpn.registry.store import Delete, Store
from nvpn.registry.telling import is_welcome

_log: Final = logging.getLogger(__name__)

CLEANING_INTERVAL: Final = 3600 * SECOND
MAX_FORMER: Final = 10_000
"""Revoked clients that are remembered, and former peers of the file: the last ones."""


class Registry:
    """All operations raise RegistryRefused (no, and why) or Unavailable (the store is away).

    Args:
        settings: what may be leased.
        file_peers: the peers of the configuration file.
        clocks: both clocks.
        random: so many random bytes; they become one-time keys.
        on_change: told on the loop what changed, in order, whoever did it, and before the
            operation that did it returns. What ``open`` finds is told as if it were new. It
            must not raise.
    """

    def __init__(
        self,
        store: Store,
        settings: RegistrySettings,
        *,
        file_peers: Mapping[PublicKey, FilePeer],
        clocks: Callable[[], Now],
        random: Callable[[int], bytes],
        on_change: Callable[[RegistryChange], None],
    ) -> None:
        self._ledger: Final = Ledger(
            store, server=settings.server, clocks=clocks, random=random, on_change=on_change
        )
        self._admissions: Final = Admissions(self._ledger, file_peers)
        self._leasing: Final = Leasing(self._ledger, self._admissions, settings)
        self._servers: Final = Servers(self._ledger, settings)
        self._next_cleaning = 0

    async def open(self) -> None:
        """Read what the store has, and follow it. Raises what Store.load does."""
        await self._ledger.open()
        self._next_cleaning = self._ledger.clocks().boot

    async def close(self) -> None:
        """Let go of the store. Leases stay as they are."""
        await self._ledger.close()

    async def reconfigure(
        self, settings: RegistrySettings, file_peers: Mapping[PublicKey, FilePeer]
    ) -> None:
        """Go by these from now on; leases that they do not allow end (``Ending.MOVED``).

        While the store is away they end later.
        """
        self._admissions.configure(file_peers)
        self._leasing.configure(settings)
        self._servers.configure(settings)
        await self._clean()

    # --- invitations ------------------------------------------------------------------------

    async def invite(self, name: str, *, expires_at: int, uses: int = 1) -> NewInvitation:
        """Let somebody come. ``expires_at`` is Unix nanoseconds.

        A client that comes is called ``name``; ``name-2``, ``name-3``, … where that is taken.
        The same name cannot be invited twice, nor one that somebody has, unless ``uses`` is
        more than 1.
        """
        return await self._admissions.invite(name, expires_at=expires_at, uses=uses)

    async def enrol(self, one_time: PublicKey, client: PublicKey, host: str = "") -> Client:
        """Admit who holds an invitation's key; the same client again is the same client.

        ``host`` is what the client calls itself.
        """
        return await self._admissions.enrol(one_time, client, host)

    async def revoke_invitation(self, name_or_key: str) -> Invitation:
        """Nobody comes with it any more; those who came stay."""
        return await self._admissions.revoke_invitation(name_or_key)

    # --- clients ----------------------------------------------------------------------------

    async def admit(self, client: PublicKey, name: str) -> Lease:
        """Admit a client that asks for nothing, and give it addresses for good."""
        return await self._leasing.admit(client, name)

    async def revoke(self, name_or_key: str) -> Client:
        """Throw a client out: its lease ends, and it gets no other."""
        return await self._admissions.revoke(name_or_key)

    async def rename(self, old: str, new: str) -> Client:
        """Call a client something else. ``old`` may be its key."""
        return await self._admissions.rename(old, new)

    # --- leases -----------------------------------------------------------------------------

    async def lease(
        self, client: PublicKey, wanted: tuple[bytes, ...] = (), host: str = ""
    ) -> Lease:
        """Give a client its addresses, or renew them.

        ``wanted`` are 4 or 16 bytes each. ``host`` is what the client calls itself.
        A client that asks again soon gets the same lease, and nothing is written. One that
        holds a lease keeps it while the store is away.
        """
        return await self._leasing.lease(client, wanted, host)

    async def release(self, client: PublicKey, why: Ending = Ending.RELEASED) -> None:
        """Take its addresses back; it gets the same ones next time if it can.

        What was given for good stays until the client is revoked, and what it gets in this very
        moment, here or of another server, is its own.
        """
        await self._leasing.release(client, why)

    async def return_leases(self) -> None:
        """Take back what this server gave or renewed last: it goes away."""
        await self._leasing.return_leases()

    async def expire(self) -> None:
        """End what is over, and announce ourselves. Silent when the store is away: it is tried
        again later.
        """
        now = self._ledger.clocks()
        await self._leasing.expire(now)
        if now.boot >= self._next_cleaning:
            await self._clean()

    def next_expiry(self) -> int | None:
        """When ``expire`` has something to do, boot-clock nanoseconds."""
        end = self._ledger.ends.next()
        return self._next_cleaning if end is None else min(end, self._next_cleaning)

    # --- what there is ----------------------------------------------------------------------

    @property
    def server(self) -> str:
        """Who we are in the leases that we gave or renewed last."""
        return self._ledger.server

    def remaining(self, lease: Lease) -> int | None:
        """Seconds that the lease is good for, None: for ever."""
        return self._leasing.remaining(lease)

    def may_speak(self, key: PublicKey) -> bool:
        """Whether this is a client, a peer of the file, or neither."""
        known = self._ledger.mirror.clients.get(key)
        return key in self._admissions.file_peers or is_welcome(known)

    def clients(self) -> tuple[Client, ...]:
        """Who was admitted and not revoked, by name."""
        welcome = filter(is_welcome, self._ledger.mirror.clients.values())
        return tuple(sorted(welcome, key=lambda one: one.name))

    def invitations(self) -> tuple[Invitation, ...]:
        """All that are remembered, by name; their state tells what they are good for."""
        return tuple(sorted(self._ledger.mirror.invitations.values(), key=lambda one: one.name))

    def is_answered(self, one_time: PublicKey) -> bool:
        """Whether an invitation's key is to be a peer: guests may come by it, or are to hear
        why not.
        """
        mirror, wall = self._ledger.mirror, self._ledger.clocks().wall
        invitation = mirror.invitations.get(one_time)
        return invitation is not None and is_answered(invitation, mirror.clients, wall)

    def leases(self) -> tuple[Lease, ...]:
        """What is given now, by client."""
        holders = sorted(self.holders(), key=bytes)
        leases = map(self._leasing.lease_of, holders)
        return tuple(lease for lease in leases if lease is not None)

    def holders(self) -> tuple[PublicKey, ...]:
        """Who holds a lease now, in no order. Cheap, unlike :meth:`leases`."""
        return tuple({one.client for one in self._ledger.leases()})

    def leased_addresses(self) -> tuple[bytes, ...]:
        """All that are held now, in no order. Cheap, unlike :meth:`leases`."""
        return tuple(one.address for one in self._ledger.leases())

    def lease_of(self, client: PublicKey) -> Lease | None:
        """What this client holds."""
        return self._leasing.lease_of(client)

    def stranded(self) -> tuple[Client, ...]:
        """Clients with addresses for good of which this server may not lease all: their pool has
        gone. They cannot ask for others, and get them back when it is there again.
        """
        return self._leasing.stranded.clients()

    def other_servers(self) -> tuple[Server, ...]:
        """Those of the same store that were there in the last week, the next after us first."""
        return self._servers.others()

    def routed(self, key: PublicKey, prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
        """Those that this server, too, would lease to this client.

        Servers on one store have peers of their own in their files, and what one leases may
        be such a peer's at another.
        """
        leases = self._ledger.mirror.leases
        return tuple(
            prefix
            for prefix in prefixes
            if (lease := leases.get(prefix.packed)) is not None
            and lease.client == key
            and self._leasing.may_hold(lease)
        )

    # --- details ----------------------------------------------------------------------------

    async def _clean(self) -> None:
        """Announce ourselves, end what may not be held any more, and forget what nobody asks
        about.
        """
        mirror, wall = self._ledger.mirror, self._ledger.clocks().wall
        old = [
            invitation_key(one.public_key)
            for one in mirror.invitations.values()
            if one.expires_at + INVITATION_KEPT <= wall
        ]
        former = sorted(
            (one for one in mirror.clients.values() if self._is_former(one)),
            key=lambda one: max(one.revoked_at, one.last_seen),
            reverse=True,
        )
        old += [
            client_key(one.public_key)
            for place, one in enumerate(former)
            if place >= MAX_FORMER or max(one.revoked_at, one.last_seen) + REVOCATION_KEPT <= wall
        ]
        # As they are now: who comes back while we are at it is to be kept.
        unneeded = list(map(mirror.unchanged, old))
        self._next_cleaning = self._ledger.clocks().boot + CLEANING_INTERVAL
        try:
            await self._servers.announce()
            await self._leasing.sweep()
            for condition in unneeded:
                await self._ledger.commit((condition,), (Delete(condition.key),))
        except Unavailable as error:
            self._next_cleaning = self._ledger.clocks().boot + PUT_OFF
            _log.info("the registry cannot be cleaned now: %s", error)

    def _is_former(self, client: Client) -> bool:
        if client.origin is Origin.FILE:
            return client.public_key not in self._admissions.file_peers
        return bool(client.revoked_at)
