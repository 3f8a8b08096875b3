"""Servers on one store: each says where it is, and knows the others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from nvpn.config.model import HostPort
from nvpn.model.clock import SECOND
from nvpn.registry.model import RegistrySettings, Server, ServerChanged
from nvpn.registry.records import server_key
from nvpn.registry.servers import FORGOTTEN
from tests.support.registry import Clocks, Office, Shelf, key_of, settings_of

WEEK = 7 * 86_400 * SECOND


def server(number: int, *hosts: str) -> Server:
    places = hosts or (f"server{number}.example",)
    return Server(
        key_of(number), f"server{number}", tuple(HostPort(host, 51820) for host in places)
    )


def of(one: Server, *, silent: bool = False) -> RegistrySettings:
    announced = None if silent else one
    return settings_of("10.8.0.0/24", server=one.public_key.base64, announced=announced)


def announced(shelf: Shelf) -> list[str]:
    return [key for key in shelf.records if key.startswith("server/")]


def play(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_servers_find_each_other_and_hear_of_changes() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        one, two = server(1), server(2)
        async with Office(shelf, settings=of(one)) as north:
            await north.registry.expire()
            assert north.registry.other_servers() == ()
            async with Office(shelf, settings=of(two)) as south:
                await south.registry.expire()
                await north.store.settle()
                assert north.registry.other_servers() == (two,)
                assert south.registry.other_servers() == (one,)
                # They are nobody's clients.
                both = [ServerChanged(one.public_key), ServerChanged(two.public_key)]
                assert north.heard() == south.heard() == both

                moved = server(1, "other.example", "192.0.2.1")
                await north.registry.reconfigure(of(moved), {})
                await south.store.settle()
                assert south.registry.other_servers() == (moved,)
                assert south.heard() == [ServerChanged(one.public_key)]
                south.clocks.pass_by(WEEK / 2 / SECOND)
                await south.registry.expire()
                assert south.heard() == [], "that one is there still is no news"
            # One that goes down may be back any moment.
            assert north.registry.other_servers() == (two,)

    play(scenario())


def test_a_server_is_announced_for_a_week_and_again_every_day() -> None:
    async def scenario() -> None:
        shelf, clocks = Shelf(), Clocks()
        async with Office(shelf, settings=of(server(1)), clocks=clocks) as north:
            await north.registry.expire()
            first = shelf.records[server_key(key_of(1))]
            expires_at = shelf.expiries[first.key]
            assert expires_at == clocks.wall + FORGOTTEN == clocks.wall + WEEK
            for _ in range(23):
                clocks.pass_by(3600)
                await north.registry.expire()
            assert shelf.records[first.key] == first, "nothing is written without need"
            clocks.pass_by(3600)
            await north.registry.expire()
            assert shelf.expiries[first.key] == clocks.wall + WEEK

            # A wall clock that was wrong does not keep it from being written.
            clocks.wall -= 3 * WEEK
            clocks.pass_by(3600)
            await north.registry.expire()
            assert shelf.expiries[first.key] == clocks.wall + WEEK

    play(scenario())


def test_a_server_that_cannot_be_reached_any_more_or_has_another_key_takes_its_record_back() -> (
    None
):
    async def scenario() -> None:
        shelf = Shelf()
        async with Office(shelf, settings=of(server(1))) as north:
            await north.registry.expire()
            await north.registry.reconfigure(of(server(3)), {})
            assert announced(shelf) == [server_key(key_of(3))]
            assert north.registry.other_servers() == ()
            await north.registry.reconfigure(of(server(3), silent=True), {})
            assert announced(shelf) == []
            await north.registry.reconfigure(of(server(3)), {})
        # The same after a restart with another file.
        async with Office(shelf, settings=of(server(3), silent=True)) as again:
            assert announced(shelf) != []
            await again.registry.expire()
            assert announced(shelf) == []

    play(scenario())


def test_what_could_not_be_said_is_said_when_the_store_is_back() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with Office(shelf, settings=of(server(1))) as north:
            north.store.is_away = True
            await north.registry.expire()
            north.store.is_away = False
            due = north.registry.next_expiry()
            assert due is not None and due <= north.clocks.boot + 60 * SECOND
            north.clocks.pass_by(60)
            await north.registry.expire()
            assert server_key(key_of(1)) in shelf.records

    play(scenario())


def test_the_servers_go_around_in_a_ring_so_that_not_all_clients_go_to_the_same_one() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        servers = sorted(
            (server(number) for number in range(5)), key=lambda one: one.public_key.base64
        )
        offices = [Office(shelf, settings=of(one)) for one in servers]
        for office in offices:
            await office.registry.open()
            await office.registry.expire()
        for place, office in enumerate(offices):
            await office.store.settle()
            ring = servers[place + 1 :] + servers[:place]
            assert office.registry.other_servers() == tuple(ring)
            await office.registry.close()

    play(scenario())


def test_what_somebody_else_wrote_there_is_replaced_if_it_stands_for_us() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with Office(shelf, settings=of(server(2))) as south:
            await south.registry.expire()
        false = replace(server(1), endpoints=(HostPort("false.example", 1),))
        async with Office(shelf, settings=of(false)) as liar:
            await liar.registry.expire()
        async with Office(shelf, settings=of(server(1))) as north:
            await north.registry.expire()
            async with Office(shelf, settings=of(server(2))) as again:
                assert again.registry.other_servers() == (server(1),)

    play(scenario())
