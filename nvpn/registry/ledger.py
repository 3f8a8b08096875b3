"""The mirror of a store, kept true: commits go out, news come in, and both are told once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from nvpn.errors import Unavailable
from nvpn.model.clock import MILLISECOND, SECOND, Now
from nvpn.model.keys import PublicKey
from nvpn.registry.ends import Ends
from nvpn.registry.mirror import Mirror
from nvpn.registry.model import Ending, RegistryChange
from nvpn.registry.records import AddressLease
from nvpn.registry.store import Changes, Condition, Edit, Store
from nvpn.registry.telling import tell
from nvpn.resilience.backoff import Backoff
from nvpn.resilience.policy import RetryPolicy

OTHERS_GRACE: Final = 60 * SECOND
"""How much later than its own server we end a lease: that one is to do it if it lives."""

CONFLICTS: Final = RetryPolicy(
    max_attempts=30, initial=5 * MILLISECOND, maximum=250 * MILLISECOND, jitter=1.0
)
"""Somebody else was faster. We know by then what they did, so the next try is a good one;
the waits are for those who would meet again and again."""


class Ledger:
    """What the registry's rules are written over.

    Args:
        server: who we are, as it stands in leases that we gave.
        on_change: see Registry.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        server: str,
        clocks: Callable[[], Now],
        random: Callable[[int], bytes],
        on_change: Callable[[RegistryChange], None],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.mirror: Final = Mirror()
        self.ends: Final = Ends()
        self.server = server
        self.clocks: Final = clocks
        self.random: Final = random
        self._store: Final = store
        self._on_change: Final = on_change
        self._sleep: Final = sleep
        # Why we are ending leases of these clients just now.
        self._reasons: dict[PublicKey, Ending] = {}

    async def open(self) -> None:
        """Read everything, then follow. Raises what Store.load does."""
        self._learn(await self._store.load(), watched=True, loaded=True)
        self._store.watch(lambda changes: self._learn(changes, watched=True))

    async def close(self) -> None:
        """Let go of the store."""
        await self._store.close()

    async def commit(
        self,
        conditions: Iterable[Condition],
        edits: Sequence[Edit],
        *,
        ending: Iterable[PublicKey] = (),
        why: Ending = Ending.RELEASED,
    ) -> bool:
        """Whether it was done; the mirror knows by then what happened instead.

        Args:
            ending: the clients whose leases end by this.
            why: they do.

        Raises:
            Unavailable: see Store.commit.
        """
        reasons = dict.fromkeys(ending, why)
        self._reasons.update(reasons)
        try:
            commit = await self._store.commit(tuple(conditions), edits)
            self._learn(commit.changes)
        finally:
            for client in reasons:
                self._reasons.pop(client, None)
        return commit.done

    def tries(self) -> Tries:
        """For an operation whose commits may meet those of others."""
        return Tries(Backoff(CONFLICTS, self.random), self._sleep)

    # --- news -----------------------------------------------------------------------------

    def _learn(self, changes: Changes, *, watched: bool = False, loaded: bool = False) -> None:
        differences = self.mirror.apply(changes, watched=watched)
        now = self.clocks()
        for one in differences:
            if isinstance(one.before, AddressLease):
                self.ends.discard(one.before.address)
            if isinstance(one.after, AddressLease) and one.after.seconds:
                self.ends.set(one.after.address, self._end(one.after, now, loaded=loaded))
        for change in tell(differences, lambda lease: self._why(lease, now)):
            self._on_change(change)

    def _end(self, lease: AddressLease, now: Now, *, loaded: bool) -> int:
        """When a lease that we just heard of ends, by our boot clock.

        Wall clocks are compared with nothing but themselves, once, for what we gave in an
        earlier life: neither one that jumps later nor another server's that is wrong ends a
        lease early, and none makes it longer than it was given for.
        """
        whole = lease.seconds * SECOND
        if lease.server != self.server:
            return now.boot + whole + OTHERS_GRACE
        if loaded:
            whole = max(0, min(lease.expires_at - now.wall, whole))
        return now.boot + whole

    def _why(self, lease: AddressLease, now: Now) -> Ending:
        known = self._reasons.get(lease.client)
        if known is not None:
            return known
        client = self.mirror.clients.get(lease.client)
        if client is not None and client.revoked_at:
            return Ending.REVOKED
        if lease.seconds and lease.expires_at <= now.wall:
            return Ending.EXPIRED
        return Ending.RELEASED


class Tries:
    """Waits between the tries of one operation, each longer than the last."""

    def __init__(self, backoff: Backoff, sleep: Callable[[float], Awaitable[object]]) -> None:
        self._backoff: Final = backoff
        self._sleep: Final = sleep

    async def again(self) -> None:
        """Wait a moment. Raises Unavailable when there were too many."""
        delay = self._backoff.next_delay()
        if delay is None:
            raise Unavailable("others change the same records of the registry all the time")
        await self._sleep(delay / SECOND)
