"""Who holds which addresses: giving, renewing, ending."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from nvpn.errors import Unavailable
from nvpn.model.clock import SECOND, Now
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.registry.admissions import Admissions, clean_host
from nvpn.registry.allocation import choose, version_of
from nvpn.registry.ledger import PUT_OFF, Ledger
from nvpn.registry.model import (
    Client,
    Ending,
    FilePeer,
    Lease,
    Origin,
    Refusal,
    RegistryRefused,
    RegistrySettings,
)
from nvpn.registry.pools import Pools
from nvpn.registry.records import (
    AddressLease,
    ServerAddress,
    client_key,
    lease_key,
    name_key,
    put_client,
    put_lease,
    put_name,
    put_server_address,
)
from nvpn.registry.store import Condition, Delete, Edit
from nvpn.registry.stranded import Stranded
from nvpn.registry.telling import is_welcome

_log: Final = logging.getLogger(__name__)

_FRESH: Final = 0.95
"""A lease with more of its time before it than this is as good as a new one."""

_AT_ONCE: Final = 32
"""Clients whose leases end in one commit."""

_MAX_WISHES: Final = 8


class Leasing:
    """The rules of leases. See Registry for what each operation is."""

    def __init__(self, ledger: Ledger, admissions: Admissions, settings: RegistrySettings) -> None:
        self._ledger: Final = ledger
        self._admissions: Final = admissions
        # What is being given right now: the mirror learns it when it is done.
        self._pending: Final[dict[bytes, PublicKey]] = {}
        # Families of which nothing was free when so many records had gone.
        self._full: Final[dict[int, int]] = {}
        self.stranded: Final = Stranded(ledger, may_hold=self.may_hold)
        self.settings = settings
        self._pools = Pools(settings, _fixed(admissions.file_peers))

    def configure(self, settings: RegistrySettings) -> None:
        """Go by these, and by the peers that the admissions know, from now on."""
        self.settings = settings
        self._ledger.server = settings.server
        self._full.clear()
        self._pools = Pools(settings, _fixed(self._admissions.file_peers))

    # --- giving -----------------------------------------------------------------------------

    async def lease(self, client: PublicKey, wanted: tuple[bytes, ...], host: str) -> Lease:
        """See Registry.lease."""
        tries = self._ledger.tries()
        while True:
            now, settings = self._ledger.clocks(), self.settings
            record = self._holder(client, now)
            if isinstance(record, Lease):
                return record
            record = replace(record, host=clean_host(host) or record.host, last_seen=now.wall)
            given = await self._give(record, wanted[:_MAX_WISHES], now)
            # What is to be leased may have changed while it was written.
            if given is not None and self.settings is settings:
                return given
            await tries.again()

    async def admit(self, client: PublicKey, name: str) -> Lease:
        """See Registry.admit."""
        tries = self._ledger.tries()
        while True:
            self._admissions.check_new(client, name)
            now = self._ledger.clocks()
            record = Client(client, name, Origin.STATIC, now.wall)
            given = await self._give(record, (), now)
            if given is not None:
                return given
            await tries.again()

    def _holder(self, client: PublicKey, now: Now) -> Client | Lease:
        """The record of who asks, or what the file gives it. Raises RegistryRefused."""
        known = self._ledger.mirror.clients.get(client)
        peer = self._admissions.file_peers.get(client)
        if peer is None:
            if known is None or not is_welcome(known):
                raise RegistryRefused(
                    Refusal.NOT_ADMITTED,
                    "this server admits nobody under this key: ask for an invitation",
                )
            return known
        fixed = _single_addresses(peer)
        if fixed and not self._pools.reserved_for(client, peer.name):
            return Lease(
                client,
                tuple(map(self._pools.interface, fixed)),
                now.wall,
                None,
                self._ledger.server,
            )
        if known is not None and not known.revoked_at:
            return known
        return Client(client, peer.name, Origin.FILE, now.wall)

    async def _give(self, record: Client, wanted: tuple[bytes, ...], now: Now) -> Lease | None:
        """The lease, or None: somebody was faster."""
        ledger, client = self._ledger, record.public_key
        held = ledger.mirror.held_by(client)
        reserved = self._pools.reserved_for(client, self._name(record))
        chosen = choose(
            client,
            reserved=reserved,
            wanted=wanted,
            pools=self._pools,
            mirror=ledger.mirror,
            is_pending=lambda one: self._pending.get(one, client) != client,
            full=[one for one, at in self._full.items() if at == ledger.mirror.removals],
        )
        if not self._pending:
            got = {*map(version_of, chosen), *map(version_of, reserved)}
            none_left = (one for one in self._pools.families if one not in got)
            self._full.update(dict.fromkeys(none_left, ledger.mirror.removals))
        if not chosen:
            raise RegistryRefused(Refusal.EXHAUSTED, "this server has no address left to lease")
        if {one.address for one in held} == set(chosen) and self._is_fresh(held, now):
            return self.lease_of(client)
        conditions, edits = self._transaction(record, held, chosen, now)
        self._pending.update(dict.fromkeys(chosen, client))
        try:
            left = (one for one in held if one.address not in chosen)
            done = await ledger.commit(conditions, edits, ending=left, why=Ending.MOVED)
        except Unavailable as error:
            self._keep_a_while(client)
            if (lease := self.lease_of(client)) is not None:
                return lease
            if not ledger.mirror.held_by(client):
                raise
            raise Unavailable(f"the lease is over and cannot be renewed now: {error}") from None
        finally:
            for address in chosen:
                if self._pending.get(address) == client:
                    del self._pending[address]
        return self.lease_of(client) if done else None

    def _transaction(
        self,
        record: Client,
        held: tuple[AddressLease, ...],
        chosen: tuple[bytes, ...],
        now: Now,
    ) -> tuple[list[Condition], list[Edit]]:
        mirror, client = self._ledger.mirror, record.public_key
        seconds = 0 if record.origin is Origin.STATIC else self.settings.lease_seconds
        given_at = {one.address: one.given_at for one in held}
        edits: list[Edit] = [
            put_lease(
                AddressLease(
                    address,
                    client,
                    given_at.get(address, now.wall),
                    seconds,
                    now.wall + seconds * SECOND if seconds else 0,
                    self._ledger.server,
                )
            )
            for address in chosen
        ]
        edits += [Delete(lease_key(one)) for one in given_at if one not in chosen]
        families = {len(one) for one in chosen}
        before = tuple(one for one in record.addresses if len(one) not in families)
        edits.append(put_client(replace(record, addresses=chosen + before)))
        conditions = [mirror.unchanged(edit.key) for edit in edits]
        if record.origin is Origin.STATIC and not mirror.has(name_key(record.name)):
            conditions.append(Condition(name_key(record.name), 0))
            edits.append(put_name(record.name, client))
        for other, lost in self._losers(client, chosen):
            kept = tuple(one for one in other.addresses if one not in lost)
            conditions.append(mirror.unchanged(client_key(other.public_key)))
            edits.append(put_client(replace(other, addresses=kept)))
        return conditions, edits

    def _losers(
        self, client: PublicKey, chosen: tuple[bytes, ...]
    ) -> Iterable[tuple[Client, set[bytes]]]:
        """Who had one of these last, and does not get it again."""
        mirror = self._ledger.mirror
        lost: dict[PublicKey, set[bytes]] = {}
        for address in chosen:
            other = mirror.last_holder(address)
            if other is not None and other != client:
                lost.setdefault(other, set()).add(address)
        return [(mirror.clients[other], addresses) for other, addresses in lost.items()]

    def _is_fresh(self, held: tuple[AddressLease, ...], now: Now) -> bool:
        whole = self.settings.lease_seconds
        for one in held:
            end = self._ledger.ends.good_until(one.address)
            if end is None:
                continue
            left = (end - now.boot) / SECOND
            if one.server != self._ledger.server or not _FRESH * whole < left <= whole:
                return False
        return True

    def _keep_a_while(self, client: PublicKey) -> None:
        """Who is here, and asks, keeps what it has while the store is away, if it may."""
        ends, now = self._ledger.ends, self._ledger.clocks().boot
        over = []
        for one in self._ledger.held_by(client):
            ends.put_off(one.address, now + PUT_OFF)
            end = ends.good_until(one.address)
            if end is not None and end < now + SECOND:
                over.append(one)
        self._ledger.lapse(over)

    def _name(self, record: Client) -> str:
        peer = self._admissions.file_peers.get(record.public_key)
        return record.name if peer is None else peer.name

    # --- ending -----------------------------------------------------------------------------

    async def release(self, client: PublicKey, why: Ending) -> None:
        """See Registry.release."""
        held = self._ledger.mirror.held_by(client)
        await self._end_all((one for one in held if one.seconds), why)

    async def return_leases(self) -> None:
        """See Registry.return_leases."""
        mine = [
            one
            for one in self._ledger.mirror.leases.values()
            if one.seconds and one.server == self._ledger.server
        ]
        await self._end_all(mine, Ending.SHUTDOWN)

    async def expire(self, now: Now) -> None:
        """End what is over. What cannot be ended now is put off, and on a shared store lapses: its
        client has not asked, and may be at another server.
        """
        mirror, ends, again = self._ledger.mirror, self._ledger.ends, now.boot + PUT_OFF
        due = ends.take_due(now.boot, again)
        over: list[AddressLease] = []
        promised: list[AddressLease] = []
        for address in due:
            kind = over if ends.is_over(address, now.boot) else promised
            kind.append(mirror.leases[address])
        # Other servers gave these, and may end them.
        self._ledger.lapse(promised)
        try:
            await self._end_all(over, Ending.EXPIRED)
        except Unavailable as error:
            _log.info("%d leases are over but cannot be ended now: %s", len(due), error)
            if self._ledger.is_shared:
                # Others of them were renewed, or have asked, in the meantime.
                silent = [address for address in due if ends.due(address) == again]
                self._ledger.lapse(mirror.leases[address] for address in silent)

    async def sweep(self) -> None:
        """End those of our leases that the configuration does not allow, and give back those for
        good that it allows again. Raises Unavailable.
        """
        over = [
            one
            for one in self._ledger.mirror.leases.values()
            if one.server == self._ledger.server and not self.may_hold(one)
        ]
        await self._end_all(over, Ending.MOVED)
        await self._claim_own()
        await self.stranded.restore()

    async def _claim_own(self) -> None:
        """Keep our own addresses from other servers' clients. Raises Unavailable."""
        ledger, mirror = self._ledger, self._ledger.mirror
        own = {one.address for one in self.settings.own}
        for address in own:
            tries = ledger.tries()
            while mirror.server_address(address) is None:
                lost = mirror.leases.get(address)
                if await ledger.commit(
                    (mirror.unchanged(lease_key(address)),),
                    (put_server_address(ServerAddress(address, ledger.server)),),
                    ending=() if lost is None else (lost,),
                    why=Ending.MOVED,
                ):
                    break
                await tries.again()
        former = [
            mirror.unchanged(lease_key(one.address))
            for one in mirror.server_addresses()
            if one.owner == ledger.server and one.address not in own
        ]
        for condition in former:
            await ledger.commit((condition,), (Delete(condition.key),))

    def may_hold(self, lease: AddressLease) -> bool:
        """Whether the configuration of this server allows it, whoever gave it."""
        peer = self._admissions.file_peers.get(lease.client)
        client = self._ledger.mirror.clients.get(lease.client)
        name = client.name if client is not None else ""
        if peer is not None:
            name = peer.name
        reserved = self._pools.reserved_for(lease.client, name)
        if peer is not None and not reserved and _single_addresses(peer):
            return False
        if peer is None and not is_welcome(client):
            return False
        return lease.address in reserved or self._pools.is_leasable(lease.address)

    async def _end_all(self, leases: Iterable[AddressLease], why: Ending) -> None:
        """End these, many in one commit, but what has been renewed meanwhile. Raises
        Unavailable.
        """
        over: dict[PublicKey, list[AddressLease]] = {}
        for one in leases:
            over.setdefault(one.client, []).append(one)
        clients = list(over.values())
        groups = [clients[at : at + _AT_ONCE] for at in range(0, len(clients), _AT_ONCE)]
        results = await asyncio.gather(
            *(self._end(group, why) for group in groups), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _end(self, clients: Sequence[Sequence[AddressLease]], why: Ending) -> None:
        """End what each of some clients holds, all in one commit."""
        mirror = self._ledger.mirror
        leases = [one for held in clients for one in held if mirror.leases.get(one.address) == one]
        keys = [lease_key(one.address) for one in leases]
        if not keys or await self._ledger.commit(
            map(mirror.unchanged, keys),
            tuple(map(Delete, keys)),
            ending=leases,
            why=why,
        ):
            return
        # Somebody changed one of them in between; that must not keep the others.
        if len(clients) > 1:
            for held in clients:
                await self._end((held,), why)

    # --- what there is ----------------------------------------------------------------------

    def remaining(self, lease: Lease) -> int | None:
        """See Registry.remaining."""
        if lease.expires_at is None:
            return None
        boot = self._ledger.clocks().boot
        ends = [self._ledger.ends.good_until(one.address) for one in lease.addresses]
        return min((max(0, end - boot) // SECOND for end in ends if end is not None), default=0)

    def lease_of(self, client: PublicKey) -> Lease | None:
        """See Registry.lease_of."""
        held = self._ledger.held_by(client)
        if not held:
            return None
        ends = [one.expires_at for one in held if one.seconds]
        return Lease(
            client,
            tuple(self._pools.interface(one.address) for one in held),
            min(one.given_at for one in held),
            min(ends) if ends else None,
            held[0].server,
        )


def _single_addresses(peer: FilePeer) -> tuple[bytes, ...]:
    return tuple(one.packed for one in peer.fixed if one.length == one.bits)


def _fixed(file_peers: Mapping[PublicKey, FilePeer]) -> list[Prefix]:
    return [prefix for peer in file_peers.values() for prefix in peer.fixed]
