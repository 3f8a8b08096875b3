"""What others do between a decision and its commit, and what becomes of the decision then."""

from __future__ import annotations

import asyncio

import pytest

from nvpn.errors import Unavailable
from nvpn.model.clock import SECOND
from nvpn.registry.model import Ending, LeaseEnded, RegistryRefused
from nvpn.registry.records import client_key
from tests.support.registry import (
    DAY,
    LEASE_SECONDS,
    Office,
    branches,
    meanwhile,
    settings_of,
    texts,
)


def test_who_finds_another_server_while_its_own_stops_keeps_what_it_gets_there() -> None:
    async def story() -> None:
        east, west = branches()
        async with east, west:
            stays, moves = await east.join(1), await east.join(2)
            for client in (stays, moves):
                await east.registry.lease(client)
            await west.store.settle()
            west.heard()
            meanwhile(east.store, lambda: west.registry.lease(moves))
            await east.registry.return_leases()
            await west.store.settle()
            lease = west.registry.lease_of(moves)
            assert lease is not None and lease.server == "west"
            assert [one.key for one in west.heard() if isinstance(one, LeaseEnded)] == [stays]

    asyncio.run(story())


def test_who_renews_at_the_last_moment_keeps_its_lease_and_the_others_leases_end() -> None:
    async def story() -> None:
        async with Office() as here:
            silent, late = await here.join(1), await here.join(2)
            for client in (silent, late):
                await here.registry.lease(client)
            here.clocks.pass_by(LEASE_SECONDS)
            here.heard()
            meanwhile(here.store, lambda: here.registry.lease(late))
            await here.registry.expire()
            ended = [one for one in here.heard() if isinstance(one, LeaseEnded)]
            assert [(one.key, one.why) for one in ended] == [(silent, Ending.EXPIRED)]
            lease = here.registry.lease_of(late)
            assert lease is not None and here.registry.remaining(lease) == LEASE_SECONDS

    asyncio.run(story())


def test_who_is_answered_after_a_reload_is_answered_by_what_holds_then() -> None:
    async def story() -> None:
        async with Office() as here:
            client = await here.join(1)
            other = settings_of("10.9.0.0/24")
            meanwhile(here.store, lambda: here.registry.reconfigure(other, {}))
            (address,) = texts(await here.registry.lease(client))
            assert address.startswith("10.9.0.")

    asyncio.run(story())


def test_who_goes_here_and_comes_to_another_server_keeps_what_it_gets_there() -> None:
    async def story() -> None:
        east, west = branches()
        async with east, west:
            client = await east.join(1)
            await east.registry.lease(client)
            await west.store.settle()
            meanwhile(east.store, lambda: west.registry.lease(client))
            await east.registry.release(client)
            await west.store.settle()
            assert west.registry.lease_of(client) is not None

    asyncio.run(story())


def test_who_comes_back_just_as_it_is_to_be_forgotten_is_not() -> None:
    async def story() -> None:
        async with Office() as here:
            gone, back = await here.join(1), await here.join(2)
            await here.registry.revoke("client1")
            here.clocks.pass_by(1)
            await here.registry.revoke("client2")
            await here.registry.expire()
            here.clocks.pass_by(366 * DAY / SECOND)
            meanwhile(here.store, lambda: here.join(2))
            await here.registry.expire()
            assert [one.public_key for one in here.registry.clients()] == [back]
            assert client_key(gone) not in here.store.shelf.records

    asyncio.run(story())


@pytest.mark.parametrize("why", [Ending.REVOKED, Ending.IDLE])
def test_why_a_lease_ends_is_told_also_if_its_client_asks_meanwhile(why: Ending) -> None:
    async def story() -> None:
        async with Office() as here:
            client = await here.join(1)
            lease = await here.registry.lease(client)
            here.clocks.pass_by(LEASE_SECONDS / 2)
            here.heard()
            has_ended = asyncio.Event()

            async def ask() -> None:
                meanwhile(here.store, has_ended.wait)
                asked.append(asyncio.ensure_future(here.registry.lease(client)))
                await asyncio.sleep(0)

            asked: list[asyncio.Future[object]] = []
            meanwhile(here.store, ask)
            if why is Ending.REVOKED:
                await here.registry.revoke("client1")
            else:
                await here.registry.release(client, why)
            assert here.heard()[0] == LeaseEnded(client, lease.prefixes, why)
            has_ended.set()
            await asyncio.wait(asked)

    asyncio.run(story())


def test_of_two_who_invite_one_name_at_once_one_is_refused() -> None:
    async def story() -> None:
        async with Office() as here:
            expires_at = here.clocks.wall + DAY

            async def invite() -> None:
                with pytest.raises(RegistryRefused, match="already"):
                    await here.registry.invite("laptop", expires_at=expires_at)
                await here.registry.invite("laptop", expires_at=expires_at, uses=2)

            meanwhile(here.store, invite)
            await here.registry.invite("laptop", expires_at=expires_at)
            here.store.is_away = True
            for _ in range(2):
                with pytest.raises(Unavailable):  # the first one leaves nothing behind
                    await here.registry.invite("phone", expires_at=expires_at)

    asyncio.run(story())
