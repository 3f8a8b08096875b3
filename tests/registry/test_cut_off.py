"""A server that cannot reach the store which others still reach: no address is leased twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nvpn.errors import Unavailable
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.registry.model import Ending, Lease, LeaseEnded, LeaseGiven, RegistryRefused
from tests.support.registry import (
    LEASE_SECONDS,
    Clocks,
    Office,
    Shelf,
    branches,
    settings_of,
    texts,
)

LEASE = 600
SAFETY = 30


@dataclass
class Scene:
    """Two servers with a single address to lease, and a client that has it from the first."""

    east: Office
    west: Office
    client: PublicKey
    other: PublicKey
    lease: Lease

    @property
    def clocks(self) -> Clocks:
        return self.east.clocks


def play(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def tell() -> None:
        east, west = branches("10.8.0.0/30", LEASE)
        async with east, west:
            client, other = await east.join(1), await east.join(2)
            lease = await east.registry.lease(client)
            await settle(east, west)
            for one in (east, west):
                one.heard()
            await story(Scene(east, west, client, other, lease))

    asyncio.run(tell())


async def settle(*offices: Office) -> None:
    for one in offices:
        await one.store.settle()


async def wait(clocks: Clocks, seconds: float, *offices: Office) -> None:
    """Time passes, and each server does what falls due."""
    until = clocks.boot + int(seconds * SECOND)
    while True:
        dues = [(one.registry.next_expiry(), one) for one in offices]
        due, first = min(((at, one) for at, one in dues if at is not None), key=lambda it: it[0])
        if due > until:
            break
        clocks.pass_by(max(0, due - clocks.boot) / SECOND)
        await first.registry.expire()
        await settle(*offices)
    clocks.pass_by((until - clocks.boot) / SECOND)


def ends(office: Office) -> list[LeaseEnded]:
    return [one for one in office.heard() if isinstance(one, LeaseEnded)]


def test_who_asks_keeps_its_lease_until_shortly_before_others_may_have_it() -> None:
    async def story(scene: Scene) -> None:
        east, west, clocks = scene.east, scene.west, scene.clocks
        here, there, lease = scene.client, scene.other, scene.lease
        east.store.cut()
        begun = clocks.boot
        while clocks.boot - begun < (2 * LEASE - SAFETY - 1) * SECOND:
            told = await east.registry.lease(here)
            assert told.addresses == lease.addresses
            left = east.registry.remaining(told)
            assert left is not None and left >= 1
            assert clocks.boot + left * SECOND <= begun + (2 * LEASE - SAFETY) * SECOND
            await wait(clocks, max(1, left // 2), east)
            with pytest.raises(RegistryRefused):
                await west.registry.lease(there)
        assert ends(east) == []
        await wait(clocks, 2, east, west)
        assert ends(east) == [LeaseEnded(here, lease.prefixes, Ending.EXPIRED)]
        with pytest.raises(Unavailable, match="lease is over and cannot be renewed now: the"):
            await east.registry.lease(here)
        with pytest.raises(RegistryRefused):
            await west.registry.lease(there)
        await wait(clocks, SAFETY, east, west)
        assert (await west.registry.lease(there)).addresses == lease.addresses
        # It is back: it hears that the address is another's, and has told that it ended.
        east.store.join()
        await settle(east, west)
        assert east.heard() == [LeaseGiven(there, lease.prefixes)]
        with pytest.raises(RegistryRefused):
            await east.registry.lease(here)

    play(story)


def test_who_does_not_ask_has_its_lease_for_no_longer_than_it_was_given() -> None:
    async def story(scene: Scene) -> None:
        east, west, clocks = scene.east, scene.west, scene.clocks
        client, lease = scene.client, scene.lease
        east.store.cut()
        await wait(clocks, LEASE - 1, east)
        assert ends(east) == []
        await wait(clocks, 1, east)
        assert ends(east) == [LeaseEnded(client, lease.prefixes, Ending.EXPIRED)]
        assert east.registry.lease_of(client) is None
        assert east.registry.leases() == () == east.registry.holders()
        assert east.registry.leased_addresses() == ()
        # It may have been at another server in between, and lost it there.
        with pytest.raises(Unavailable, match="over"):
            await east.registry.lease(client)
        # There it gets what it had, at once.
        assert (await west.registry.lease(client)).addresses == lease.addresses

    play(story)


@pytest.mark.parametrize("who", ["east", "west"])
def test_what_lapsed_is_told_again_when_the_store_is_back_and_its_client_asks(who: str) -> None:
    async def story(scene: Scene) -> None:
        east, west, clocks = scene.east, scene.west, scene.clocks
        client, lease = scene.client, scene.lease
        east.store.cut()
        await wait(clocks, LEASE + 1, east)
        east.heard()
        if who == "west":
            await west.registry.lease(client)
            east.store.join()
            await settle(east, west)
        else:
            east.store.join()
            assert await east.registry.lease(client) == east.registry.lease_of(client)
        assert east.heard() == [LeaseGiven(client, lease.prefixes)]
        assert east.registry.leases() == (east.registry.lease_of(client),)

    play(story)


def test_what_lapsed_ends_in_the_store_when_it_is_back_and_is_not_told_twice() -> None:
    async def story(scene: Scene) -> None:
        east, west, clocks = scene.east, scene.west, scene.clocks
        client, lease = scene.client, scene.lease
        east.store.cut()
        await wait(clocks, LEASE + 1, east)
        east.heard()
        west.heard()
        east.store.join()
        await wait(clocks, 61, east)
        assert east.heard() == []
        await settle(east, west)
        assert west.heard() == [LeaseEnded(client, lease.prefixes, Ending.EXPIRED)]

    play(story)


def test_who_comes_from_a_server_that_died_with_the_store_has_no_more_than_it_had() -> None:
    async def story(scene: Scene) -> None:
        west, clocks = scene.west, scene.clocks
        client, lease = scene.client, scene.lease
        west.store.cut()
        clocks.pass_by(LEASE / 2)
        told = await west.registry.lease(client)
        assert told.addresses == lease.addresses
        # East may live, and end it at its time: unlike its own it is not put off.
        assert west.registry.remaining(told) == LEASE / 2 - SAFETY
        await wait(clocks, LEASE / 2 - SAFETY - 1, west)
        assert west.heard() == []
        await wait(clocks, 1, west)
        assert ends(west) == [LeaseEnded(client, lease.prefixes, Ending.EXPIRED)]
        with pytest.raises(Unavailable, match="over"):
            await west.registry.lease(client)

    play(story)


@pytest.mark.parametrize("asks_at", [LEASE / 2, LEASE - 10])
def test_what_another_server_gave_is_that_ones_to_end(asks_at: float) -> None:
    async def story(scene: Scene) -> None:
        east, west, clocks = scene.east, scene.west, scene.clocks
        client = scene.client
        west.store.cut()
        clocks.pass_by(asks_at)
        try:
            await west.registry.lease(client)
        except Unavailable:
            assert asks_at > LEASE - SAFETY
        west.store.join()
        east.heard()
        await wait(clocks, LEASE - asks_at - 1, east, west)
        assert ends(west) and not ends(east)
        assert east.registry.lease_of(client) and not west.registry.lease_of(client)
        await wait(clocks, 1, east, west)
        assert ends(east) and not ends(west)

    play(story)


def test_what_it_heard_late_it_counts_from_when_it_was_written() -> None:
    async def story(scene: Scene) -> None:
        east, clocks, client = scene.east, scene.clocks, scene.client
        await east.registry.release(client)
        east.store.loses_answers = True
        east.store.cut()
        east.store.is_away = False  # what it says arrives, and no answer comes
        with pytest.raises(Unavailable):
            await east.registry.lease(client)
        clocks.pass_by(LEASE - 10)
        east.store.join()
        await settle(east)
        lease = east.registry.lease_of(client)
        assert lease is not None and east.registry.remaining(lease) == 10

    play(story)


def test_who_gave_its_address_back_elsewhere_is_not_to_return_to_a_server_that_cannot_know() -> (
    None
):
    """What remains, as nvpn-server(7) says."""

    async def story(scene: Scene) -> None:
        east, west, clocks = scene.east, scene.west, scene.clocks
        client, other, lease = scene.client, scene.other, scene.lease
        east.store.cut()
        await west.registry.lease(client)
        await west.registry.release(client)
        assert (await west.registry.lease(other)).addresses == lease.addresses
        assert (await east.registry.lease(client)).addresses == lease.addresses
        # For no longer than it would have had it if it had not gone.
        await wait(clocks, 2 * LEASE - SAFETY, east)
        assert east.registry.lease_of(client) is None

    play(story)


def test_nobody_lapses_from_a_store_that_is_ours_alone() -> None:
    async def story() -> None:
        clocks = Clocks()
        async with Office(clocks=clocks) as here:
            client = await here.join(1)
            lease = await here.registry.lease(client)
            here.store.is_away = True
            here.heard()
            await wait(clocks, 10 * LEASE_SECONDS, here)
            assert here.heard() == []
            assert texts(await here.registry.lease(client)) == texts(lease)

    asyncio.run(story())


# --- any story --------------------------------------------------------------------------------


@dataclass
class Visitor:
    """A client: where it was answered last, and what it was told there.

    It uses its address for as long as it was told; ``until`` then its server keeps it for sure.
    """

    key: PublicKey
    at: Server | None = None
    until: float = 0
    uses_until: float = 0
    renews_at: float | None = None


class Server:
    """A server with its own clocks, which run a little wrong, and who may send from where."""

    def __init__(self, shelf: Shelf, name: str, rate: float, wrong_by: int) -> None:
        self.clocks = Clocks()
        self.clocks.wall += wrong_by * SECOND
        self.rate = rate
        self.shelf, self.name = shelf, name
        self.holders: dict[Prefix, PublicKey] = {}
        self.is_cut = False
        # Who was elsewhere since it was cut off.
        self.unknown: set[PublicKey] = set()

    async def open(self) -> None:
        self.office = Office(
            self.shelf,
            clocks=self.clocks,
            settings=settings_of("10.8.0.0/30", lease_seconds=LEASE, server=self.name),
            is_shared=True,
        )
        self.holders.clear()
        await self.office.registry.open()

    def pass_by(self, seconds: float) -> None:
        self.clocks.pass_by(seconds * self.rate)

    def due_in(self) -> float:
        due = self.office.registry.next_expiry()
        assert due is not None
        return max(0.0, (due - self.clocks.boot) / SECOND / self.rate + 1e-6)


@dataclass
class Town:
    """Servers on one shelf, and clients that go from one to the other. ``now`` is in seconds."""

    servers: list[Server]
    visitors: list[Visitor] = field(default_factory=list)
    hungry: list[Visitor] = field(default_factory=list)
    now: float = 0

    async def do(self, kind: str, where: int, who: int) -> None:
        server = self.servers[where]
        if kind == "ask":
            await self.ask(self.visitors[who], server)
        elif kind == "sleep":
            self.visitors[who].renews_at = None
        elif kind == "leave":
            await self.leave(self.visitors[who])
        elif kind == "cut":
            server.is_cut = True
            server.office.store.cut()
        elif kind == "deafen":
            server.is_cut = True
            server.office.store.cut()
            server.office.store.is_away, server.office.store.loses_answers = False, True
        elif kind == "lose":
            server.office.store.loses_answers = not server.office.store.loses_answers
        elif kind == "join" and server.is_cut:
            server.office.store.join()
            server.office.store.loses_answers = False
            server.is_cut = False
            server.unknown.clear()
        elif kind == "restart" and not server.is_cut:
            await server.office.registry.close()
            await server.open()
            for one in self.visitors:
                if one.at is server:
                    one.until = 0  # it remembers what it gave, not what it put off
        await self.look()

    async def ask(self, visitor: Visitor, server: Server) -> None:
        if visitor.key in server.unknown:
            return  # what remains: see above
        self.meet(visitor, server)
        registry = server.office.registry
        try:
            lease = await registry.lease(visitor.key)
        except (Unavailable, RegistryRefused):
            visitor.renews_at = None
            return
        left = registry.remaining(lease)
        assert left is not None and left > 0
        visitor.at, visitor.until = server, self.now + left
        visitor.uses_until = visitor.until
        visitor.renews_at = self.now + max(1, left // 2)

    async def leave(self, visitor: Visitor) -> None:
        if visitor.at is not None:
            self.meet(visitor, visitor.at)
            try:
                await visitor.at.office.registry.release(visitor.key)
            except Unavailable:
                pass
        visitor.at = visitor.renews_at = None

    def meet(self, visitor: Visitor, server: Server) -> None:
        if not server.is_cut:
            for other in self.servers:
                if other.is_cut:
                    other.unknown.add(visitor.key)

    async def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            server = min(self.servers, key=Server.due_in)
            awake = [one for one in self.visitors if one.renews_at is not None]
            first = min(awake, key=lambda one: one.renews_at or 0, default=None)
            step = min(until - self.now, HUNGER)
            if first is not None and first.renews_at is not None:
                step = min(step, max(0, first.renews_at - self.now))
            step = min(step, server.due_in())
            is_due = step == server.due_in()
            self.now += step
            for one in self.servers:
                one.pass_by(step)
            if is_due:
                await server.office.registry.expire()
            elif self.now >= until:
                return
            elif first is not None and first.at is not None and first.renews_at == self.now:
                await self.ask(first, first.at)
            else:
                await self.try_to_get_what_is_free()
            await self.look()

    async def try_to_get_what_is_free(self) -> None:
        for server, visitor in zip(self.servers, self.hungry, strict=True):
            if not server.is_cut:
                await self.ask(visitor, server)
                await self.look()
                await self.leave(visitor)
                await self.look()

    async def look(self) -> None:
        """No address is in force for two clients, each at the server where it is."""
        for server in self.servers:
            if not server.is_cut:
                await server.office.store.settle()
            for change in server.office.heard():
                if isinstance(change, LeaseGiven):
                    for prefix in change.prefixes:
                        assert prefix not in server.holders
                        server.holders[prefix] = change.key
                elif isinstance(change, LeaseEnded):
                    for prefix in change.prefixes:
                        assert server.holders.pop(prefix) == change.key
        everybody = [*self.visitors, *self.hungry]
        for visitor in everybody:
            if visitor.at is not None and visitor.key not in visitor.at.holders.values():
                # It was told that it may have it for so long; clocks run a little wrong.
                assert self.now > visitor.until - 0.02 * LEASE
        held = [
            prefix
            for visitor in everybody
            if visitor.at is not None and self.now <= visitor.uses_until
            for prefix, key in visitor.at.holders.items()
            if key == visitor.key
        ]
        assert len(set(held)) == len(held), "an address is leased twice"


HUNGER = 20
KINDS = ("ask", "sleep", "leave", "cut", "deafen", "join", "lose", "restart")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 1),
        st.integers(0, 1),
        st.sampled_from((0, 0, 0, 1, 45, LEASE / 2, LEASE - SAFETY, LEASE, 2 * LEASE)),
    ),
    max_size=16,
)


@pytest.mark.once
@settings(max_examples=50)
@given(steps=STEPS, wrong_by=st.sampled_from((0, 0, -7200, 7200)))
@example(  # it stays where it is
    steps=[("ask", 0, 0, 0), ("cut", 0, 0, 3 * LEASE)],
    wrong_by=0,
)
@example(  # it sleeps there
    steps=[("ask", 0, 0, 0), ("sleep", 0, 0, 0), ("cut", 0, 0, 3 * LEASE)],
    wrong_by=0,
)
@example(  # it goes to the one that is cut off
    steps=[("ask", 1, 0, 0), ("cut", 0, 0, 0), ("ask", 0, 0, 3 * LEASE)],
    wrong_by=0,
)
@example(  # it is refused by the other one, and goes on as it was told by the one before
    steps=[
        *[("lose", 0, 0, 0), ("ask", 1, 1, 0), ("ask", 0, 1, 0)],
        *[("cut", 1, 0, 2 * LEASE)],
    ],
    wrong_by=-7200,
)
@example(  # what is heard late
    steps=[
        *[("deafen", 0, 0, 0), ("ask", 0, 0, LEASE / 2), ("join", 0, 0, 0)],
        *[("ask", 0, 0, 0), ("cut", 0, 0, 3 * LEASE)],
    ],
    wrong_by=0,
)
def test_whoever_is_cut_off_no_address_is_in_force_for_two(
    steps: list[tuple[str, int, int, float]], wrong_by: int
) -> None:
    """A step is what happens, to which server and client, and how long nothing does then."""

    async def story() -> None:
        shelf = Shelf()
        east, west = Server(shelf, "east", 0.99, 0), Server(shelf, "west", 1.01, wrong_by)
        town = Town([east, west])
        await east.open()
        await west.open()
        clients = [Visitor(await east.office.join(number)) for number in range(4)]
        town.visitors, town.hungry = clients[:2], clients[2:]
        for kind, where, who, seconds in steps:
            await town.do(kind, where, who)
            await town.wait(seconds)
        for server in town.servers:
            await server.office.registry.close()

    asyncio.run(story())
