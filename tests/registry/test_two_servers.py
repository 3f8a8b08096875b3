"""Two servers on one store, in any interleaving: no address is held twice, nothing is lost."""

from __future__ import annotations

import asyncio
import functools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.errors import Unavailable
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface, Prefix
from nvpn.registry.ledger import PUT_OFF
from nvpn.registry.mirror import Mirror
from nvpn.registry.model import (
    ClientAdmitted,
    ClientRevoked,
    LeaseEnded,
    LeaseGiven,
    RegistryChange,
    RegistryRefused,
)
from nvpn.registry.records import AddressLease, read
from nvpn.registry.store import Changes, Record
from tests.support.registry import (
    LEASE_SECONDS,
    Clocks,
    Office,
    Shelf,
    address,
    key_of,
    settings_of,
)

CLIENTS = 8
KINDS = (
    "lease",
    "release",
    "join",
    "revoke",
    "rename",
    "expire",
    "wait",
    "away",
    "lose",
    "return",
)


@dataclass
class Table:
    """What a server makes of what it is told: who may send from where."""

    holders: dict[Prefix, PublicKey] = field(default_factory=dict)
    clients: set[PublicKey] = field(default_factory=set)

    def take(self, change: RegistryChange) -> None:
        if isinstance(change, LeaseGiven):
            assert change.key in self.clients, "a lease for somebody unknown"
            for prefix in change.prefixes:
                assert prefix not in self.holders, "two hold one address"
                self.holders[prefix] = change.key
        elif isinstance(change, LeaseEnded):
            for prefix in change.prefixes:
                assert self.holders.pop(prefix) == change.key
        elif isinstance(change, ClientAdmitted):
            assert change.key not in self.clients
            self.clients.add(change.key)
        elif isinstance(change, ClientRevoked):
            self.clients.remove(change.key)
            assert change.key not in self.holders.values()


class Shop(Office):
    """A server that others compete with."""

    def __init__(self, shelf: Shelf, clocks: Clocks, draw: random.Random, name: str) -> None:
        pools = settings_of("10.8.0.0/29", "fd42::/125", server=name)
        super().__init__(
            shelf,
            settings=pools,
            clocks=clocks,
            lag=lambda: draw.randrange(4),
            seed=draw.randrange(1 << 30),
            is_shared=True,
        )
        self.table = Table()

    def check(self) -> None:
        for change in self.heard():
            self.table.take(change)

    async def do(self, kind: str, number: int) -> None:
        client = key_of(number)
        registry = self.registry
        try:
            if kind == "lease":
                lease = await registry.lease(client, (address("10.8.0.4"),))
                self.check()
                for prefix in lease.prefixes:
                    # Told before it is answered, unless it has ended again by now.
                    assert self.table.holders.get(prefix, client) == client
            elif kind == "release":
                await registry.release(client)
            elif kind == "join":
                await self.join(number)
            elif kind == "revoke":
                await registry.revoke(f"client{number}")
            elif kind == "rename":
                await registry.rename(f"client{number}", f"client{number % CLIENTS + 1}")
            elif kind == "expire":
                await registry.expire()
            elif kind == "wait":
                self.clocks.pass_by(LEASE_SECONDS / 3)
            elif kind == "away":
                self.store.is_away = not self.store.is_away
            elif kind == "lose":
                self.store.loses_answers = not self.store.loses_answers
            else:
                await registry.return_leases()
        except (RegistryRefused, Unavailable):
            pass


Branch = functools.partial(Office, is_shared=True)

STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 1), st.integers(1, CLIENTS)), max_size=60
)


@pytest.mark.once
@settings(max_examples=150)
@given(steps=STEPS, width=st.integers(1, 12), seed=st.integers(0, 1 << 30))
def test_whatever_two_servers_do_each_address_has_one_holder(
    steps: list[tuple[str, int, int]], width: int, seed: int
) -> None:
    asyncio.run(compete(steps, width, random.Random(seed)))


async def compete(steps: list[tuple[str, int, int]], width: int, draw: random.Random) -> None:
    shelf, clocks = Shelf(), Clocks()
    shops = [Shop(shelf, clocks, draw, name) for name in ("east", "west")]
    async with shops[0], shops[1]:
        for number in range(1, CLIENTS - 1):
            await shops[0].do("join", number)
        for at in range(0, len(steps), width):
            together = steps[at : at + width]
            await asyncio.gather(*(shops[who].do(kind, number) for kind, who, number in together))
            check_store(shelf)
        # What a server that was cut off let go of it ends in the store when it tries again.
        clocks.pass_by(PUT_OFF / SECOND)
        for shop in shops:
            shop.store.is_away = shop.store.loses_answers = False
            await shop.do("expire", 1)
        for shop in shops:
            await shop.store.settle()
            shop.check()
            check_mirror(shop, shelf)


def check_store(shelf: Shelf) -> None:
    families = [
        (value.client, len(value.address))
        for record in shelf.records.values()
        if isinstance(value := read(record.key, record.value), AddressLease)
    ]
    assert len(set(families)) == len(families), "a client holds two addresses of one family"
    names = [one for one in shelf.records if one.startswith("name/")]
    owners = {shelf.records[one].value for one in names}
    assert len(owners) == len(names), "a client has two names"


def check_mirror(shop: Shop, shelf: Shelf) -> None:
    """What a server believes is what the store has."""
    held = {
        Prefix.of(value.address, len(value.address) * 8): value.client
        for record in shelf.records.values()
        if isinstance(value := read(record.key, record.value), AddressLease)
    }
    assert shop.table.holders == held
    leases = shop.registry.leases()
    assert {prefix: one.client for one in leases for prefix in one.prefixes} == held
    assert {one.public_key for one in shop.registry.clients()} == shop.table.clients
    for lease in leases:
        assert shop.registry.remaining(lease) is not None


def test_a_client_moves_from_a_server_to_the_other_with_its_address() -> None:
    async def story() -> None:
        shelf, clocks = Shelf(), Clocks()
        one = Branch(shelf, clocks=clocks, settings=settings_of("10.8.0.0/24", server="one"))
        two = Branch(
            shelf, clocks=clocks, settings=settings_of("10.8.0.0/24", server="two"), seed=2
        )
        async with one, two:
            client = await one.join(1)
            first = await one.registry.lease(client)
            await two.store.settle()
            assert LeaseGiven(client, first.prefixes) in two.heard()
            second = await two.registry.lease(client)
            assert (second.addresses, second.server) == (first.addresses, "two")
            await one.store.settle()
            # It is the other's now: who goes does not take it back.
            await one.registry.return_leases()
            assert two.registry.lease_of(client) == second

    asyncio.run(story())


def test_no_server_leases_the_address_of_another() -> None:
    async def story() -> None:
        shelf = Shelf()
        own = {name: (Interface(address(text), 29),) for name, text in OWN.items()}
        one = Branch(shelf, settings=settings_of("10.8.0.0/29", own=own["one"], server="one"))
        async with one:
            early = await one.join(1)
            lease = await one.registry.lease(early, (address("10.8.0.2"),))
            two = Branch(
                shelf, settings=settings_of("10.8.0.0/29", own=own["two"], server="two"), seed=2
            )
            async with two:
                # The second server comes, and its address has been leased to somebody.
                await one.registry.expire()
                await two.registry.expire()
                for office in (one, two):
                    await office.store.settle()
                    assert (
                        LeaseEnded(early, lease.prefixes, office.told[-1].why) == office.told[-1]
                    )  # type: ignore[union-attr]
                clients = [await one.join(number) for number in range(2, 6)]
                await two.store.settle()
                got = [(await two.registry.lease(each)).addresses[0] for each in clients]
                assert {str(each) for each in got} == {f"10.8.0.{n}/29" for n in range(3, 7)}
                with pytest.raises(RegistryRefused):
                    await two.registry.lease(early)
                # It moves, and its old address is free.
                await two.registry.reconfigure(
                    settings_of("10.8.0.0/29", own=(), server="two"), {}
                )
                assert str((await two.registry.lease(early)).addresses[0]) == "10.8.0.2/29"

    asyncio.run(story())


OWN = {"one": "10.8.0.1", "two": "10.8.0.2"}


@pytest.mark.parametrize("wrong_by", [-7200, 7200])
def test_a_server_whose_clock_is_wrong_ends_nobody_elses_leases(wrong_by: int) -> None:
    async def story() -> None:
        shelf, right, wrong = Shelf(), Clocks(), Clocks()
        wrong.wall += wrong_by * 10**9
        one = Branch(shelf, clocks=right, settings=settings_of("10.8.0.0/24", server="one"))
        async with one:
            client = await one.join(1)
            lease = await one.registry.lease(client)
            two = Branch(shelf, clocks=wrong, settings=settings_of("10.8.0.0/24", server="two"))
            async with two:
                for clocks in (right, wrong):
                    clocks.pass_by(LEASE_SECONDS - 1)
                await two.registry.expire()
                assert two.registry.lease_of(client) is not None
                # Its own server has died, or is cut off: after a hold the other ends it.
                wrong.pass_by(LEASE_SECONDS)
                await two.registry.expire()
                assert two.registry.lease_of(client) is not None
                wrong.pass_by(1)
                await two.registry.expire()
                assert two.registry.lease_of(client) is None
                await one.store.settle()
                assert LeaseEnded(client, lease.prefixes, one.told[-1].why) == one.told[-1]  # type: ignore[union-attr]

    asyncio.run(story())


def test_after_a_gap_everything_is_told_and_nothing_twice() -> None:
    async def story() -> None:
        shelf = Shelf()
        async with Branch(shelf) as here:
            stays, goes, comes = [await here.join(number) for number in (1, 2, 3)]
            kept = await here.registry.lease(stays)
            gone = await here.registry.lease(goes)
            await here.store.settle()
            here.heard()
            # While nobody listened, one lease ended and another was given.
            records = dict(shelf.records)
            ended = records.pop(f"lease/{gone.addresses[0]}".split("/24")[0])
            fields = ended.value.replace(goes.hex.encode(), comes.hex.encode())
            records["lease/10.8.0.200"] = Record("lease/10.8.0.200", fields, shelf.revision + 2)
            here.store.hear(Changes(shelf.revision + 2, tuple(records.values()), whole=True))
            await here.store.settle()
            told = here.heard()
            assert [type(one) for one in told] == [LeaseEnded, LeaseGiven]
            assert [one.key for one in told] == [goes, comes]  # type: ignore[union-attr]
            assert here.registry.lease_of(stays) == kept

    asyncio.run(story())


def test_news_that_overtake_each_other_leave_the_latest() -> None:
    mirror = Mirror()
    value = b"{}"
    mirror.apply(Changes(5, (Record("name/a", value, 5),)))
    mirror.apply(Changes(7, missing=("name/a",)))
    # The watch tells of the fifth and sixth commit after the seventh was answered.
    mirror.apply(Changes(5, (Record("name/a", value, 5),)), watched=True)
    mirror.apply(Changes(6, (Record("name/a", value, 6),)), watched=True)
    assert not mirror.has("name/a")
    mirror.apply(Changes(7, missing=("name/a",)), watched=True)
    mirror.apply(Changes(8, (Record("name/a", value, 8),)), watched=True)
    assert mirror.has("name/a")
    assert mirror.unchanged("name/a").revision == 8


def test_an_answer_that_the_watch_overtook_brings_nothing_back() -> None:
    mirror = Mirror()
    written = Changes(5, (Record("name/a", b"{}", 5),))
    mirror.apply(written, watched=True)
    mirror.apply(Changes(6, missing=("name/a",)), watched=True)
    # Only now does the commit that wrote it hear that it did.
    assert mirror.apply(written) == []
    assert not mirror.has("name/a")


def test_where_revisions_begin_anew_the_lower_ones_count() -> None:
    mirror = Mirror()
    records = [Record(f"name/{one}", b"{}", 50) for one in "abc"]
    mirror.apply(Changes(60, tuple(records), whole=True), watched=True)
    mirror.apply(Changes(70, missing=("name/c",)), watched=True)
    anew = tuple(Record(f"name/{one}", b"{}", 5) for one in "ac")
    mirror.apply(Changes(7, anew, whole=True, is_anew=True), watched=True)
    assert [mirror.unchanged(f"name/{one}").revision for one in "abc"] == [5, 0, 5]
    mirror.apply(Changes(8, (Record("name/a", b"{}", 8),)))
    assert mirror.unchanged("name/a").revision == 8
