"""Leases: who gets which address, for how long, and what happens when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from nvpn.config.model import Reservation
from nvpn.errors import Unavailable
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.registry.model import (
    ClientAdmitted,
    Ending,
    FilePeer,
    Lease,
    LeaseEnded,
    LeaseGiven,
    Refusal,
    RegistryRefused,
)
from nvpn.registry.pools import Pools
from tests.support.registry import (
    DAY,
    LEASE_SECONDS,
    Office,
    Shelf,
    address,
    key_of,
    settings_of,
    texts,
)


def run(story: Callable[[Office], Awaitable[None]], **office: object) -> None:
    async def tell() -> None:
        async with Office(**office) as here:  # type: ignore[arg-type]
            await story(here)

    asyncio.run(tell())


async def refusal(asked: Awaitable[object]) -> Refusal:
    with pytest.raises(RegistryRefused) as caught:
        await asked
    assert caught.value.code == caught.value.refusal.value
    return caught.value.refusal


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(Prefix.parse, texts))


def packed(lease: Lease) -> tuple[bytes, ...]:
    return tuple(one.packed for one in lease.prefixes)


def test_a_client_gets_one_address_of_each_family() -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        here.heard()
        lease = await here.registry.lease(client)
        four, six = texts(lease)
        assert four.startswith("10.8.0.") and four.endswith("/24")
        assert six.startswith("fd42::") and six.endswith("/64")
        assert here.heard() == [LeaseGiven(client, lease.prefixes)]
        assert {one.length for one in lease.prefixes} == {32, 128}
        assert here.registry.remaining(lease) == LEASE_SECONDS
        assert here.registry.leases() == (lease,)

    run(story, settings=settings_of("10.8.0.0/24", "fd42::/64"))


def test_strangers_get_nothing() -> None:
    async def story(here: Office) -> None:
        assert await refusal(here.registry.lease(key_of(9))) is Refusal.NOT_ADMITTED
        assert not here.registry.may_speak(key_of(9))
        assert here.registry.leases() == ()

    run(story)


def test_it_gets_the_same_address_again_after_release_and_expiry() -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        first = await here.registry.lease(client)
        await here.registry.release(client)
        here.heard()
        assert texts(await here.registry.lease(client)) == texts(first)
        here.clocks.pass_by(LEASE_SECONDS)
        await here.registry.expire()
        assert here.heard() == [
            LeaseGiven(client, first.prefixes),
            LeaseEnded(client, first.prefixes, Ending.EXPIRED),
        ]
        # Others do not take what it may want again while there is anything else.
        for number in range(2, 50):
            other = await here.registry.lease(await here.join(number), (first.addresses[0][0],))
            assert texts(other) != texts(first)
        assert texts(await here.registry.lease(client)) == texts(first)

    run(story)


def test_a_wish_is_granted_unless_somebody_has_it() -> None:
    async def story(here: Office) -> None:
        one, other = await here.join(1), await here.join(2)
        wish = (address("10.8.0.77"),)
        assert texts(await here.registry.lease(one, wish)) == ["10.8.0.77/24"]
        assert texts(await here.registry.lease(other, wish)) != ["10.8.0.77/24"]
        await here.registry.release(one)
        await here.registry.release(other)
        # Its own last address counts more than any wish.
        assert texts(await here.registry.lease(one, (address("10.8.0.99"),))) == ["10.8.0.77/24"]

    run(story)


@pytest.mark.parametrize(
    "wish",
    ["10.8.0.0", "10.8.0.1", "10.8.0.255", "10.8.0.50", "192.0.2.1", "127.0.0.1", "fd42::5", "::"],
)
def test_a_wish_for_what_is_not_to_be_had_is_passed_over(wish: str) -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        lease = await here.registry.lease(client, (address(wish),))
        assert len(lease.addresses) == 1
        assert not texts(lease)[0].startswith(f"{wish}/")
        assert texts(lease)[0].startswith("10.8.0.")

    boss = Reservation(name="boss", addresses=(address("10.8.0.50"),))
    run(story, settings=settings_of("10.8.0.0/24", reservations=(boss,)))


def test_reservations_are_kept_by_key_and_by_name() -> None:
    settings = settings_of(
        "10.8.0.0/29",
        reservations=(
            Reservation(public_key=key_of(1), addresses=(address("10.8.0.6"),)),
            Reservation(name="boss", addresses=(address("10.8.0.5"),)),
        ),
    )

    async def story(here: Office) -> None:
        others = [await here.join(number) for number in (11, 12, 13)]
        got = [texts(await here.registry.lease(one))[0] for one in others]
        assert set(got) == {"10.8.0.2/29", "10.8.0.3/29", "10.8.0.4/29"}
        assert texts(await here.registry.lease(await here.join(1))) == ["10.8.0.6/29"]
        assert texts(await here.registry.lease(await here.join(2, "boss"))) == ["10.8.0.5/29"]

    run(story, settings=settings)


def test_an_exhausted_pool_says_no_until_something_comes_back() -> None:
    async def story(here: Office) -> None:
        clients = [await here.join(number) for number in range(1, 7)]
        for client in clients[:5]:
            await here.registry.lease(client)
        here.heard()
        assert await refusal(here.registry.lease(clients[5])) is Refusal.EXHAUSTED
        assert here.heard() == []
        await here.registry.release(clients[2])
        lease = await here.registry.lease(clients[5])
        assert len(lease.addresses) == 1
        # And who gave it back is the one who goes without.
        assert await refusal(here.registry.lease(clients[2])) is Refusal.EXHAUSTED

    run(story, settings=settings_of("10.8.0.0/29"))


def test_in_a_full_pool_nobody_is_searched_for_an_address_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches: list[int] = []
    walk = Pools.walk

    def counted(pools: Pools, version: int, client: PublicKey) -> Iterator[bytes]:
        searches.append(version)
        return walk(pools, version, client)

    monkeypatch.setattr(Pools, "walk", counted)

    async def story(here: Office) -> None:
        clients = [await here.join(number) for number in range(1, 4)]
        for client in clients[:2]:
            await here.registry.lease(client)
        assert await refusal(here.registry.lease(clients[2])) is Refusal.EXHAUSTED
        searches.clear()
        for _ in range(10):
            # It has an IPv6 address, and could have an IPv4 one if there were any.
            assert len((await here.registry.lease(clients[1])).addresses) == 1
            assert await refusal(here.registry.lease(clients[2])) is Refusal.EXHAUSTED
        assert searches == []
        await here.registry.release(clients[0])
        assert "10.8.0.2/30" in texts(await here.registry.lease(clients[1]))

    run(story, settings=settings_of("10.8.0.0/30", "fd42::/126"))


def test_of_remembered_addresses_the_longest_unused_is_taken() -> None:
    async def story(here: Office) -> None:
        clients = [await here.join(number) for number in range(1, 6)]
        before = {}
        for client in clients:
            here.clocks.pass_by(1)
            before[client] = texts(await here.registry.lease(client))
        for client in clients:
            await here.registry.release(client)
        late = await here.join(6)
        assert texts(await here.registry.lease(late)) == before[clients[0]]
        for client in clients[1:]:
            assert texts(await here.registry.lease(client)) == before[client]

    run(story, settings=settings_of("10.8.0.0/29"))


def test_one_family_that_is_full_leaves_the_other() -> None:
    async def story(here: Office) -> None:
        first, second = await here.join(1), await here.join(2)
        assert len((await here.registry.lease(first)).addresses) == 2
        assert len((await here.registry.lease(second)).addresses) == 1
        await here.registry.release(first)
        here.clocks.pass_by(LEASE_SECONDS / 2)
        # What the first had last is the only one of its family, and it is not there.
        assert len((await here.registry.lease(second)).addresses) == 2

    run(story, settings=settings_of("10.8.0.0/30", "fd42::/64"))


def test_renewing_keeps_the_address_and_starts_the_time_anew() -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        first = await here.registry.lease(client)
        for _ in range(10):
            here.clocks.pass_by(LEASE_SECONDS / 2)
            await here.registry.expire()
            lease = await here.registry.lease(client)
            assert lease.addresses == first.addresses
            assert lease.given_at == first.given_at
            assert here.registry.remaining(lease) == LEASE_SECONDS
        assert not any(isinstance(one, LeaseEnded) for one in here.heard())

    run(story)


def test_asking_again_and_again_writes_nothing() -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        await here.registry.lease(client)
        commits = here.store.shelf.commits
        for _ in range(100):
            here.clocks.pass_by(0.1)
            await here.registry.lease(client, (address("10.8.0.9"),))
        assert here.store.shelf.commits == commits

    run(story)


def test_a_lease_ends_exactly_when_it_is_over() -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        await here.registry.expire()
        await here.registry.lease(client)
        over = here.clocks.boot + LEASE_SECONDS * 10**9
        assert here.registry.next_expiry() == over
        here.clocks.pass_by(LEASE_SECONDS - 1)
        await here.registry.expire()
        assert here.registry.lease_of(client) is not None
        here.clocks.pass_by(1)
        assert here.clocks.boot == over
        await here.registry.expire()
        assert here.registry.lease_of(client) is None

    run(story)


# --- clocks -------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [400 * DAY, -400 * DAY])
def test_a_wall_clock_that_jumps_neither_ends_nor_prolongs_a_lease(jump: int) -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        lease = await here.registry.lease(client)
        here.clocks.wall += jump
        await here.registry.expire()
        assert here.registry.lease_of(client) == lease
        here.clocks.pass_by(LEASE_SECONDS)
        await here.registry.expire()
        assert here.registry.lease_of(client) is None

    run(story)


@pytest.mark.parametrize(
    ("asleep", "left"), [(600, 3000), (7200, 0), (-400 * 86400, LEASE_SECONDS)]
)
def test_after_a_restart_the_wall_clock_tells_what_is_left(asleep: int, left: int) -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        await here.registry.lease(client)
        here.clocks.pass_by(asleep)
        here.clocks.boot = 5  # the machine was started anew
        async with Office(here.store.shelf, clocks=here.clocks) as anew:
            found = anew.registry.lease_of(client)
            assert found is not None
            assert anew.registry.remaining(found) == left
            told = anew.heard()
            assert told[-1] == LeaseGiven(client, found.prefixes)
            assert ClientAdmitted(client, "client1") in told
            await anew.registry.expire()
            assert (anew.registry.lease_of(client) is None) == (not left)

    run(story)


# --- ending -------------------------------------------------------------------------------


def test_ending_says_why() -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        for why in (Ending.RELEASED, Ending.IDLE):
            lease = await here.registry.lease(client)
            here.heard()
            await here.registry.release(client, why)
            assert here.heard() == [LeaseEnded(client, lease.prefixes, why)]
            await here.registry.release(client, why)
            assert here.heard() == []

    run(story)


def test_a_server_that_goes_takes_back_what_it_gave_and_nothing_else() -> None:
    async def story(here: Office) -> None:
        mine = [await here.join(number) for number in range(1, 80)]
        for client in mine:
            await here.registry.lease(client)
        static = await here.registry.admit(key_of(99), "phone")
        settings = replace(here.settings, server="the other one")
        async with Office(here.store.shelf, settings=settings, seed=2) as other:
            theirs = await other.registry.lease(await other.join(500))
            await here.store.settle()
            here.heard()
            await here.registry.return_leases()
            assert {one.key for one in here.heard()} == set(mine)  # type: ignore[union-attr]
            assert set(here.registry.leases()) == {static, theirs}
            await other.store.settle()
            assert set(other.registry.leases()) == {static, theirs}

    run(story)


def test_other_pools_end_the_leases_outside_of_them() -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        old = await here.registry.lease(client)
        here.heard()
        await here.registry.reconfigure(settings_of("10.9.0.0/24"), {})
        assert here.heard() == [LeaseEnded(client, old.prefixes, Ending.MOVED)]
        assert texts(await here.registry.lease(client))[0].startswith("10.9.0.")

    run(story)


def test_what_a_phone_has_for_good_comes_back_with_its_pool() -> None:
    async def story(here: Office) -> None:
        phone, laptop = key_of(99), await here.join(1)
        had = await here.registry.admit(phone, "phone")
        await here.registry.lease(laptop)
        assert here.registry.stranded() == ()
        await here.registry.reconfigure(settings_of("10.9.0.0/24"), {})
        assert here.registry.lease_of(phone) is None
        (stranded,) = here.registry.stranded()
        assert (stranded.name, stranded.addresses) == ("phone", packed(had))
        here.heard()
        await here.registry.reconfigure(settings_of("10.8.0.0/24"), {})
        back = here.registry.lease_of(phone)
        assert back is not None
        assert (back.addresses, back.expires_at) == (had.addresses, None)
        assert here.heard() == [LeaseGiven(phone, had.prefixes)]
        assert here.registry.stranded() == ()

    run(story)


def test_what_a_phone_had_does_not_come_back_when_it_is_somebody_elses() -> None:
    async def story(here: Office) -> None:
        phone, laptop = key_of(99), key_of(1)
        had = await here.registry.admit(phone, "phone")
        await here.registry.reconfigure(settings_of("10.9.0.0/24"), {})
        peer = FilePeer("laptop", had.prefixes)
        await here.registry.reconfigure(settings_of("10.8.0.0/24"), {laptop: peer})
        assert here.registry.lease_of(phone) is None
        assert [one.name for one in here.registry.stranded()] == ["phone"]
        await here.registry.revoke("phone")
        await here.registry.reconfigure(settings_of("10.8.0.0/24"), {})
        assert here.registry.lease_of(phone) is None
        assert here.registry.stranded() == ()

    run(story)


def test_an_address_that_is_reserved_for_another_moves_to_it() -> None:
    async def story(here: Office) -> None:
        client, boss = await here.join(1), await here.join(2, "boss")
        lease = await here.registry.lease(client)
        wanted = lease.addresses[0].address
        reservation = Reservation(name="boss", addresses=(wanted,))
        await here.registry.reconfigure(replace(here.settings, reservations=(reservation,)), {})
        assert (await here.registry.lease(boss)).addresses == lease.addresses
        assert (await here.registry.lease(client)).addresses != lease.addresses

    run(story)


# --- peers of the file ----------------------------------------------------------------------

FIXED, BARE, SITE = key_of(21), key_of(22), key_of(23)
FILE_PEERS = {
    FIXED: FilePeer("fixed", prefixes("10.8.0.9/32", "192.168.1.0/24")),
    BARE: FilePeer("bare"),
    SITE: FilePeer("site", prefixes("192.168.2.0/24")),
}


def test_peers_of_the_file_get_what_the_file_says_or_else_a_lease() -> None:
    async def story(here: Office) -> None:
        fixed = await here.registry.lease(FIXED)
        assert texts(fixed) == ["10.8.0.9/24"]
        assert fixed.expires_at is None and here.registry.remaining(fixed) is None
        assert here.heard() == []
        for peer in (BARE, SITE):
            lease = await here.registry.lease(peer)
            assert texts(lease)[0].startswith("10.8.0.")
            assert here.heard() == [LeaseGiven(peer, lease.prefixes)]
        assert here.registry.clients() == ()
        assert here.registry.may_speak(BARE)

    run(story, file_peers=FILE_PEERS)


def test_what_a_peer_of_the_file_has_is_leased_to_nobody() -> None:
    async def story(here: Office) -> None:
        clients = [await here.join(number) for number in range(1, 13)]
        got = {texts(await here.registry.lease(one))[0] for one in clients}
        assert "10.8.0.9/28" not in got and len(got) == 12

    run(story, settings=settings_of("10.8.0.0/28"), file_peers=FILE_PEERS)


def test_a_peer_that_leaves_the_file_loses_its_lease() -> None:
    async def story(here: Office) -> None:
        lease = await here.registry.lease(BARE)
        here.heard()
        await here.registry.reconfigure(here.settings, {FIXED: FILE_PEERS[FIXED]})
        assert here.heard() == [LeaseEnded(BARE, lease.prefixes, Ending.MOVED)]
        assert await refusal(here.registry.lease(BARE)) is Refusal.NOT_ADMITTED

    run(story, file_peers=FILE_PEERS)


def test_a_reservation_leases_to_a_peer_with_fixed_addresses() -> None:
    reservation = Reservation(public_key=FIXED, addresses=(address("10.8.0.40"),))

    async def story(here: Office) -> None:
        assert texts(await here.registry.lease(FIXED)) == ["10.8.0.40/24"]

    settings = settings_of("10.8.0.0/24", reservations=(reservation,))
    run(story, settings=settings, file_peers=FILE_PEERS)


# --- the store is away ------------------------------------------------------------------------


def test_while_the_store_is_away_nobody_new_comes_and_nobody_goes() -> None:
    async def story(here: Office) -> None:
        client, late = await here.join(1), await here.join(2)
        lease = await here.registry.lease(client)
        here.heard()
        here.store.is_away = True
        here.clocks.pass_by(LEASE_SECONDS / 2)
        assert await here.registry.lease(client) == lease
        with pytest.raises(Unavailable):
            await here.registry.lease(late)
        # Its time comes, and nothing can be written: it stays, and nobody spins.
        here.clocks.pass_by(LEASE_SECONDS / 2)
        for _ in range(3):
            await here.registry.expire()
            after = here.registry.next_expiry()
            assert after is not None and after >= here.clocks.boot + 59 * 10**9
            here.clocks.pass_by(61)
        assert here.registry.lease_of(client) == lease
        # Who asks is told that it may stay for a while.
        assert here.registry.remaining(await here.registry.lease(client)) == 60
        assert here.heard() == []
        here.store.is_away = False
        await here.registry.lease(client)
        await here.registry.expire()
        assert here.registry.lease_of(client) is not None
        await here.registry.lease(late)

    run(story)


def test_an_address_given_while_another_is_being_given_is_another() -> None:
    async def story(here: Office) -> None:
        clients = [await here.join(number) for number in range(1, 201)]
        leases = await asyncio.gather(*map(here.registry.lease, clients))
        assert len({lease.addresses for lease in leases}) == 200
        # Nobody met anybody: what one is getting is left alone by the others.
        assert here.store.shelf.commits == 200 + 2 * 200

    run(story, lag=lambda: 2)


def test_leases_survive_in_the_store_what_the_registry_forgets() -> None:
    shelf = Shelf()

    async def story(here: Office) -> None:
        await here.registry.lease(await here.join(1))

    run(story, shelf=shelf)

    async def again(here: Office) -> None:
        assert len(here.registry.leases()) == 1
        assert len(here.heard()) == 3  # the invitation, the client, the lease

    run(again, shelf=shelf)
