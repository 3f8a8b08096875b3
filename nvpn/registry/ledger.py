"""The mirror of a store, kept true: commits go out, news come in, and both are told once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from nvpn.errors import Unavailable
from nvpn.model.clock import MILLISECOND, SECOND, Now
from nvpn.model.keys import PublicKey
from nvpn.registry.ends import NEVER, Ends
from nvpn.registry.mirror import Difference, Mirror
from nvpn.registry.model import Ending, RegistryChange
from nvpn.registry.records import AddressLease, Value
from nvpn.registry.store import Changes, Condition, Edit, Store
from nvpn.registry.telling import tell
from nvpn.resilience.backoff import Backoff
from nvpn.resilience.policy import RetryPolicy

PUT_OFF: Final = 60 * SECOND
"""What the store was too far away for is tried again after this long, and so long clients that
ask meanwhile may go on, so that they have the time to renew when it is back."""

SAFETY: Final = 30 * SECOND
"""So much earlier than others may lease an address anew its client must be without it: for news
that come late, and whoever is slow to act."""

_DRIFT: Final = 1000
"""Of a hold, this part at least: so clocks may run apart by a two-thousandth."""

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
        # What each commit that is under way ends, and why.
        self._endings: list[tuple[frozenset[AddressLease], Ending]] = []
        # Addresses that we let go of, although the store says that they are leased.
        self._lapsed: set[bytes] = set()

    async def open(self) -> None:
        """Read everything, then follow. Raises what Store.load does."""
        self._learn(await self._store.load(), watched=True)
        self._store.watch(lambda changes: self._learn(changes, watched=True))

    async def close(self) -> None:
        """Let go of the store."""
        await self._store.close()

    async def commit(
        self,
        conditions: Iterable[Condition],
        edits: Sequence[Edit],
        *,
        ending: Iterable[AddressLease] = (),
        why: Ending = Ending.RELEASED,
    ) -> bool:
        """Whether it was done; the mirror knows by then what happened instead.

        Args:
            ending: the leases that end by this.
            why: they do.

        Raises:
            Unavailable: see Store.commit.
        """
        endings = (frozenset(ending), why)
        self._endings.append(endings)
        try:
            commit = await self._store.commit(tuple(conditions), edits)
            self._learn(commit.changes)
        finally:
            self._endings.remove(endings)
        return commit.done

    @property
    def is_shared(self) -> bool:
        """Whether others may lease what we let go of."""
        return self._store.is_shared

    # --- leases in force --------------------------------------------------------------------

    def leases(self) -> list[AddressLease]:
        """All that are in force here."""
        return self._in_force(self.mirror.leases.values())

    def held_by(self, client: PublicKey) -> list[AddressLease]:
        """The client's that are in force here, IPv4 first."""
        return self._in_force(self.mirror.held_by(client))

    def lapse(self, leases: Iterable[AddressLease]) -> None:
        """Let go of these before others may lease them anew; what the store has of them stays."""
        gone = self._in_force(leases)
        self._lapsed.update(one.address for one in gone)
        for change in tell([Difference(one, None) for one in gone], lambda _: Ending.EXPIRED):
            self._on_change(change)

    def _in_force(self, leases: Iterable[AddressLease]) -> list[AddressLease]:
        return [one for one in leases if one.address not in self._lapsed]

    def tries(self) -> Tries:
        """For an operation whose commits may meet those of others."""
        return Tries(Backoff(CONFLICTS, self.random), self._sleep)

    # --- news -----------------------------------------------------------------------------

    def _learn(self, changes: Changes, *, watched: bool = False) -> None:
        differences = self.mirror.apply(changes, watched=watched)
        now = self.clocks()
        for one in differences:
            self._set_end(one.before, one.after, now)
        news = list(map(self._as_told, differences))
        why = Ending.MOVED if changes.is_anew else None
        for change in tell(news, lambda lease: why or self._why(lease, now)):
            self._on_change(change)

    def _as_told(self, one: Difference) -> Difference:
        """What lapsed has ended already, and is given anew if it is still the client's."""
        if isinstance(one.before, AddressLease) and one.before.address in self._lapsed:
            self._lapsed.remove(one.before.address)
            return replace(one, before=None)
        return one

    def _set_end(self, before: Value | None, after: Value | None, now: Now) -> None:
        promised = 0
        if isinstance(before, AddressLease):
            if isinstance(after, AddressLease) and after.client == before.client:
                promised = self.ends.good_until(before.address) or 0
            self.ends.discard(before.address)
        if isinstance(after, AddressLease) and after.seconds:
            self.ends.set(after.address, *self._end(after, now))
            if after.server == self.server:
                # The answer may have been lost, and its client told to go on for a while.
                self.ends.put_off(after.address, min(promised, now.boot + PUT_OFF))

    def _end(self, lease: AddressLease, now: Now) -> tuple[int, int]:
        """When a lease that we just heard of is over for everybody, and for how long it may be
        promised while we hear nothing, by our boot clock.

        What we gave ends ``seconds`` after we sent it: not after we heard that it was done, which
        may be long after others did. Others end it one hold later, if we do not. So our client
        may have it nearly as long if we cannot reach the store; but what another server gave,
        that one may end at its time.

        Wall clocks are read once, for how old the news is. One that is wrong or jumps makes no
        lease longer than it was given for, and never ends another server's.
        """
        whole = lease.seconds * SECOND
        end = now.boot + min(lease.expires_at - now.wall, whole)
        if not self.is_shared:
            return end, NEVER
        hold = lease.hold * SECOND
        safety = max(SAFETY, hold // _DRIFT)
        if lease.server == self.server:
            return end, end + hold - safety
        return now.boot + whole + hold, end - safety

    def _why(self, lease: AddressLease, now: Now) -> Ending:
        for ended, why in self._endings:
            if lease in ended:
                return why
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
