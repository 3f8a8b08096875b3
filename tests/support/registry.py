"""A registry's surroundings: a store in memory that several share, and clocks in our hands."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from nvpn.errors import Unavailable
from nvpn.model.clock import SECOND, Now
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.prefixes import Interface, Prefix, parse_address
from nvpn.registry.model import Client, FilePeer, Origin, RegistryChange, RegistrySettings
from nvpn.registry.records import put_client, put_name
from nvpn.registry.registry import Registry
from nvpn.registry.store import Changes, Commit, Condition, Edit, Put, Record, Store

LEASE_SECONDS: Final = 3600
WALL: Final = 1_700_000_000 * SECOND
DAY: Final = 86_400 * SECOND


class Clocks:
    """Both clocks; time passes when told to."""

    def __init__(self) -> None:
        self.boot = 1000 * SECOND
        self.wall = WALL

    def __call__(self) -> Now:
        return Now(self.boot, self.wall)

    def pass_by(self, seconds: float) -> None:
        self.boot += int(seconds * SECOND)
        self.wall += int(seconds * SECOND)


class Shelf:
    """What lies in the store, whoever looks at it."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.expiries: dict[str, int | None] = {}
        self.revision = 0
        self.stores: list[MemoryStore] = []
        self.commits = 0

    def commit(self, conditions: Sequence[Condition], edits: Sequence[Edit]) -> Commit:
        keys = dict.fromkeys([one.key for one in conditions])
        if not all(self._revision_of(one.key) == one.revision for one in conditions):
            records = tuple(self.records[key] for key in keys if key in self.records)
            missing = tuple(key for key in keys if key not in self.records)
            return Commit(False, Changes(self.revision, records, missing))
        self.commits += 1
        self.revision += 1
        assert len({edit.key for edit in edits}) == len(edits) <= 64
        for edit in edits:
            if isinstance(edit, Put):
                self.records[edit.key] = Record(edit.key, edit.value, self.revision)
                self.expiries[edit.key] = edit.expires_at
            else:
                self.records.pop(edit.key, None)
        written = tuple(self.records[one.key] for one in edits if isinstance(one, Put))
        missing = tuple(one.key for one in edits if not isinstance(one, Put))
        changes = Changes(self.revision, written, missing)
        for store in self.stores:
            store.hear(changes)
        return Commit(True, changes)

    def _revision_of(self, key: str) -> int:
        return self.records[key].revision if key in self.records else 0


class MemoryStore:
    """One server's way to the shelf. ``lag`` draws how many turns of the loop things take.

    While it ``is_away``, nothing is committed; while it ``loses_answers``, commits are done and
    nobody hears so from them. ``cut`` is both ways.
    """

    def __init__(
        self, shelf: Shelf, *, lag: Callable[[], int] = lambda: 0, is_shared: bool = False
    ) -> None:
        self.shelf = shelf
        self.is_shared = is_shared
        self.is_away = False
        self.loses_answers = False
        self._lag = lag
        self._changed: Callable[[Changes], None] | None = None
        self._unheard: list[Changes] | None = None
        self._news: asyncio.Queue[Changes] = asyncio.Queue()
        self._telling: asyncio.Task[None] | None = None
        self._trouble: Exception | None = None

    def describe(self) -> str:
        return "memory"

    async def load(self) -> Changes:
        self._check()
        return Changes(self.shelf.revision, tuple(self.shelf.records.values()), whole=True)

    async def commit(self, conditions: Sequence[Condition], edits: Sequence[Edit]) -> Commit:
        self._check()
        await self._wait()
        self._check()
        commit = self.shelf.commit(conditions, edits)
        await self._wait()
        if self.loses_answers:
            raise Unavailable("the answer is lost")
        return commit

    def watch(self, changed: Callable[[Changes], None]) -> None:
        self._changed = changed
        self.shelf.stores.append(self)
        self._telling = asyncio.ensure_future(self._tell())

    def hear(self, changes: Changes) -> None:
        if self._unheard is None:
            self._news.put_nowait(changes)
        else:
            self._unheard.append(changes)

    def cut(self) -> None:
        """Nothing goes there or comes from there."""
        self.is_away, self._unheard = True, []

    def join(self) -> None:
        """As before the cut; what happened meanwhile is told."""
        unheard, self._unheard = self._unheard, None
        self.is_away = False
        for changes in unheard or ():
            self.hear(changes)

    async def settle(self) -> None:
        """Until everything was told. Raises what whoever was told did."""
        await self._news.join()
        if self._trouble is not None:
            raise self._trouble

    async def close(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self.shelf.stores.remove(self)

    async def _tell(self) -> None:
        assert self._changed is not None
        while True:
            changes = await self._news.get()
            await self._wait()
            try:
                self._changed(changes)
            except Exception as error:
                self._trouble = error
            self._news.task_done()

    async def _wait(self) -> None:
        for _ in range(self._lag()):
            await asyncio.sleep(0)

    def _check(self) -> None:
        if self.is_away:
            raise Unavailable("the memory is away")


class Office:
    """A registry with its clocks, its store, and what it told."""

    def __init__(
        self,
        shelf: Shelf | None = None,
        *,
        settings: RegistrySettings | None = None,
        file_peers: Mapping[PublicKey, FilePeer] | None = None,
        clocks: Clocks | None = None,
        lag: Callable[[], int] = lambda: 0,
        seed: int = 1,
        is_shared: bool = False,
    ) -> None:
        self.clocks = clocks or Clocks()
        self.store = MemoryStore(shelf or Shelf(), lag=lag, is_shared=is_shared)
        self.told: list[RegistryChange] = []
        self.settings = settings or settings_of("10.8.0.0/24")
        self.registry = Registry(
            self.store,
            self.settings,
            file_peers=file_peers or {},
            clocks=self.clocks,
            random=random.Random(seed).randbytes,
            on_change=self.told.append,
        )

    async def __aenter__(self) -> Office:
        await self.registry.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.registry.close()

    async def join(self, number: int, name: str = "") -> PublicKey:
        """Invite a client and let it come."""
        client = key_of(number)
        invited = await self.registry.invite(
            name or f"client{number}", expires_at=self.clocks.wall + DAY
        )
        await self.registry.enrol(invited.invitation.public_key, client)
        return client

    def heard(self) -> list[RegistryChange]:
        """What was told since the last time."""
        told, self.told[:] = list(self.told), []
        return told


def branches(
    pool: str = "10.8.0.0/24", lease_seconds: int = LEASE_SECONDS
) -> tuple[Office, Office]:
    """Two servers on one shelf with the same clocks, called east and west."""
    shelf, clocks = Shelf(), Clocks()
    east, west = (
        Office(
            shelf,
            clocks=clocks,
            settings=settings_of(pool, lease_seconds=lease_seconds, server=name),
            seed=seed,
            is_shared=True,
        )
        for seed, name in enumerate(("east", "west"))
    )
    return east, west


def meanwhile(store: Store, happens: Callable[[], Awaitable[object]]) -> None:
    """Once, when the next commit is on its way and has not come to the store."""
    commit = store.commit

    async def commit_later(conditions: Sequence[Condition], edits: Sequence[Edit]) -> Commit:
        store.commit = commit  # type: ignore[method-assign]
        await happens()
        return await commit(conditions, edits)

    store.commit = commit_later  # type: ignore[method-assign]


async def admit_all(store: Store, keys: Sequence[PublicKey]) -> None:
    """Put clients there as if each had been invited and had come."""
    for at in range(0, len(keys), 25):
        edits: list[Edit] = []
        for number, key in enumerate(keys[at : at + 25], at):
            name = f"client{number}"
            edits += [put_client(Client(key, name, Origin.JOINED, WALL)), put_name(name, key)]
        await store.commit((), edits)


def settings_of(*pools: str, **others: object) -> RegistrySettings:
    """These pools, a lease of an hour, and the server's own address first in each."""
    prefixes = tuple(map(Prefix.parse, pools))
    fields: dict[str, object] = {
        "own": tuple(
            Interface((one.network + 1).to_bytes(one.bits // 8, "big"), one.length)
            for one in prefixes
            if one.length < one.bits - 1
        ),
        "lease_seconds": LEASE_SECONDS,
        "server": "this server",
    }
    return RegistrySettings(prefixes, **{**fields, **others})  # type: ignore[arg-type]


def key_of(number: int) -> PublicKey:
    """The public key of a client of this number."""
    return PrivateKey(hashlib.sha256(number.to_bytes(8, "big")).digest()).public()


def address(text: str) -> bytes:
    return parse_address(text)


def texts(lease: object) -> list[str]:
    """The addresses of a lease, as people write them."""
    return [str(one) for one in lease.addresses]  # type: ignore[attr-defined]
