"""What a registry tells, as peers and allowed IPs of the running tunnel.

Changes are collected for a turn of the loop and applied as one plan, so that five hundred
clients at a start, or a storm of them, cost a few plans and not a thousand. Whoever answers a
client waits for :meth:`Roster.in_force` first: a lease is in the table of allowed IPs before
its client hears of it, and out of it before anybody else does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import groupby
from typing import Final, Protocol

from nvpn.errors import ControlError
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Change,
    Owner,
    Plan,
    RemoveAllowedIp,
    RemovePeer,
    ReplaceAllowedIps,
    SetCandidates,
    SetName,
    SetPersistentKeepalive,
    SetPresharedKey,
)
from nvpn.model.guest_name import guest_name
from nvpn.model.keys import PublicKey
from nvpn.registry.model import (
    ClientAdmitted,
    ClientRenamed,
    ClientRevoked,
    InvitationGone,
    InvitationMade,
    LeaseEnded,
    LeaseGiven,
    RegistryChange,
)
from nvpn.registry.registry import Registry

_log: Final = logging.getLogger(__name__)


class Peers(Protocol):
    """What of :class:`nvpn.backend.api.TunnelBackend` is used."""

    async def apply(self, plan: Plan) -> None:
        """Raises ControlError."""


def changes_for(change: RegistryChange, is_of_file: Callable[[PublicKey], bool]) -> list[Change]:
    """What a change of the registry means for the tunnel.

    Args:
        is_of_file: whether the configuration names the key: then it is a peer by that, and
            only what it leases is the registry's.
    """
    key = change.key
    if isinstance(change, LeaseGiven):
        return [AddAllowedIp(key, prefix, Owner.LEASE) for prefix in change.prefixes]
    if isinstance(change, LeaseEnded):
        return [RemoveAllowedIp(key, prefix) for prefix in change.prefixes]
    if is_of_file(key):
        return []
    if isinstance(change, ClientAdmitted):
        return _known(key, change.name)
    if isinstance(change, InvitationMade):
        return _known(key, guest_name(change.name))
    if isinstance(change, ClientRenamed):
        return [SetName(key, change.name)]
    assert isinstance(change, ClientRevoked | InvitationGone)
    return [RemovePeer(key)]


def everybody(registry: Registry, is_of_file: Callable[[PublicKey], bool]) -> list[Change]:
    """All that the registry says, for a tunnel whose file has changed."""
    told: list[RegistryChange] = [
        ClientAdmitted(one.public_key, one.name) for one in registry.clients()
    ]
    told += [
        InvitationMade(one.public_key, one.name)
        for one in registry.invitations()
        if registry.is_answered(one.public_key)
    ]
    told += [
        LeaseGiven(one.client, registry.routed(one.client, one.prefixes))
        for one in registry.leases()
    ]
    return [change for one in told for change in changes_for(one, is_of_file)]


def hand_back(plan: Plan, name_of: Callable[[PublicKey], str | None]) -> Plan:
    """A reload's plan, but that peers which the file names no more stay if they are clients.

    So they keep their sessions, and lose what the file gave them.

    Args:
        name_of: what a client is called; None for who is none.
    """
    kept: list[Change] = []
    for change in plan:
        name = name_of(change.peer) if isinstance(change, RemovePeer) else None
        if name is None:
            kept.append(change)
            continue
        key = _key_of(change)
        kept += [*_known(key, name), SetPresharedKey(key, None), SetPersistentKeepalive(key, 0)]
        kept += [SetCandidates(key, ()), ReplaceAllowedIps(key)]
    return tuple(kept)


class Roster:
    """Applies what the registry tells, in order.

    Args:
        is_of_file: whether the configuration names a key.
        farewell: called with the keys that a plan is about to remove, and waited for; what
            they leased is taken away before.
    """

    def __init__(
        self,
        backend: Peers,
        *,
        loop: asyncio.AbstractEventLoop,
        is_of_file: Callable[[PublicKey], bool],
        farewell: Callable[[Collection[PublicKey]], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._loop = loop
        self._is_of_file = is_of_file
        self._farewell = farewell
        self._pending: list[Change] = []
        # Done when the changes that came last are in force.
        self._latest: asyncio.Future[None] | None = None
        self._applying: asyncio.Task[None] | None = None
        self._is_closed = False

    def tell(self, change: RegistryChange) -> None:
        """The registry has changed. Never raises."""
        self.add(changes_for(change, self._is_of_file))

    def add(self, changes: Sequence[Change]) -> None:
        """More to be applied, after all before."""
        if self._is_closed or not changes:
            return
        if not self._pending:
            self._latest = self._loop.create_future()
        self._pending += changes
        if self._applying is None:
            self._applying = self._loop.create_task(self._apply_all())

    async def in_force(self) -> None:
        """Until all that was told so far is in force."""
        if self._latest is not None:
            await asyncio.shield(self._latest)

    async def close(self) -> None:
        """Apply nothing more, and let nobody wait for it."""
        self._is_closed = True
        self._pending.clear()
        if self._applying is not None:
            self._applying.cancel()
            await asyncio.gather(self._applying, return_exceptions=True)
        if self._latest is not None and not self._latest.done():
            self._latest.set_result(None)

    async def _apply_all(self) -> None:
        try:
            while self._pending:
                plan, self._pending = tuple(self._pending), []
                done = self._latest
                try:
                    await self._apply(plan)
                finally:
                    if done is not None and not done.done():
                        done.set_result(None)
        finally:
            self._applying = None

    async def _apply(self, plan: Plan) -> None:
        leaving = [change.peer for change in plan if isinstance(change, RemovePeer)]
        if not leaving:
            await self._do(plan)
            return
        at = next(at for at, change in enumerate(plan) if isinstance(change, RemovePeer))
        await self._do(plan[:at])
        await self._farewell(leaving)
        await self._do(plan[at:])

    async def _do(self, plan: Plan) -> None:
        if not plan:
            return
        try:
            await self._backend.apply(plan)
        except ControlError as error:
            _log.warning("%s; trying one after another", error)
            await self._apply_singly(plan)

    async def _apply_singly(self, plan: Plan) -> None:
        """One client that there is no room for is not to keep out the others."""
        for key, changes in groupby(plan, key=_key_of):
            try:
                await self._backend.apply(tuple(changes))
            except ControlError as error:
                _log.error("%s", error, extra={"peer": key.short})


def _known(key: PublicKey, name: str) -> list[Change]:
    return [AddPeer(key, Owner.LEASE), SetName(key, name)]


def _key_of(change: Change) -> PublicKey:
    peer = getattr(change, "peer", None)
    assert isinstance(peer, PublicKey)  # nothing of the roster's is about the device
    return peer
