"""Who has been silent for long: by what came from each, and our own clock."""

from __future__ import annotations

import asyncio

from nvpn.daemon.server.idle import IdleReleaser, IdleWatch
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.snapshot import PeerSnapshot
from nvpn.registry.model import Ending, LeaseEnded
from tests.support.registry import Clocks, Office, Shelf, key_of, meanwhile, settings_of
from tests.support.scenarios import A, B

TIMEOUT = 60 * SECOND


def test_a_client_that_sends_nothing_is_idle_after_the_timeout() -> None:
    watch = IdleWatch()
    for second in (0, 20, 40):
        assert watch.look({A: 100, B: 100}, TIMEOUT, second * SECOND) == ()
    assert watch.look({A: 100, B: 132}, TIMEOUT, 59 * SECOND) == ()
    assert watch.look({A: 100, B: 132}, TIMEOUT, 60 * SECOND) == (A,)
    assert watch.look({A: 100, B: 132}, TIMEOUT, 89 * SECOND) == (A,)
    assert watch.look({A: 100, B: 132}, TIMEOUT, 118 * SECOND) == (A,)
    assert watch.look({A: 100, B: 132}, TIMEOUT, 119 * SECOND) == (A, B)


def test_a_client_that_came_back_begins_anew() -> None:
    watch = IdleWatch()
    for second in (0, 30):
        assert watch.look({A: 100}, TIMEOUT, second * SECOND) == ()
    assert watch.look({A: 100}, TIMEOUT, 60 * SECOND) == (A,)
    assert watch.look({}, TIMEOUT, 61 * SECOND) == ()
    assert watch.look({A: 100}, TIMEOUT, 62 * SECOND) == ()
    # Its peer was made anew: the count is another one.
    for second in (92, 121):
        assert watch.look({A: 0}, TIMEOUT, second * SECOND) == ()
    assert watch.look({A: 0}, TIMEOUT, 151 * SECOND) == ()
    assert watch.look({A: 0}, TIMEOUT, 152 * SECOND) == (A,)


def test_what_this_host_slept_through_is_nobodys_silence() -> None:
    watch = IdleWatch()
    for second in (0, 15, 30, 45, 7200, 7214):
        assert watch.look({A: 100}, TIMEOUT, second * SECOND) == ()
    assert watch.look({A: 100}, TIMEOUT, 7215 * SECOND) == (A,)


class Counts:
    """How much came from each peer."""

    def __init__(self) -> None:
        self.received: dict[PublicKey, int] = {}

    def peer(self, key: PublicKey) -> PeerSnapshot | None:
        count = self.received.get(key)
        return None if count is None else PeerSnapshot(key, rx_bytes=count)


def test_leases_of_the_silent_end_and_those_for_good_do_not() -> None:
    async def scenario() -> None:
        counts = Counts()
        async with Office() as office:
            idle = IdleReleaser(office.registry, counts, office.clocks)
            silent, talkative = await office.join(1), await office.join(2)
            phone = key_of(3)
            await office.registry.admit(phone, "phone")
            for client in (silent, talkative):
                await office.registry.lease(client)
            counts.received = {silent: 10, talkative: 10, phone: 0}

            async def wait() -> None:
                for _ in range(3):
                    await idle.release(60)
                    office.clocks.pass_by(21)

            await wait()
            counts.received[talkative] = 42
            office.heard()
            await idle.release(60)
            (ended,) = office.heard()
            assert isinstance(ended, LeaseEnded)
            assert (ended.key, ended.why) == (silent, Ending.IDLE)
            office.store.is_away = True
            await wait()
            await idle.release(60)  # the store is away: later
            office.store.is_away = False
            await idle.release(60)
            assert [one.key for one in office.heard() if isinstance(one, LeaseEnded)] == [
                talkative
            ]
            assert office.registry.lease_of(phone) is not None

    asyncio.run(scenario())


async def fall_silent(idle: IdleReleaser, clocks: Clocks) -> None:
    for _ in range(3):
        await idle.release(60)
        clocks.pass_by(21)


def test_who_is_silent_here_because_it_is_at_another_server_keeps_its_lease() -> None:
    async def scenario() -> None:
        shelf, clocks, counts = Shelf(), Clocks(), Counts()
        here, there = (
            Office(
                shelf,
                clocks=clocks,
                settings=settings_of("10.8.0.0/24", server=name),
                is_shared=True,
            )
            for name in ("here", "there")
        )
        async with here, there:
            client = await here.join(1)
            await here.registry.lease(client)
            counts.received = {client: 10}
            idle = IdleReleaser(here.registry, counts, clocks)
            await idle.release(60)
            await there.store.settle()
            await there.registry.lease(client)
            await here.store.settle()
            await fall_silent(idle, clocks)
            await idle.release(60)
            assert here.registry.lease_of(client) is not None

    asyncio.run(scenario())


def test_who_is_heard_just_as_it_was_found_silent_keeps_its_lease() -> None:
    async def scenario() -> None:
        counts = Counts()
        settings = settings_of("10.8.0.0/24", lease_seconds=120)
        async with Office(settings=settings) as office:
            silent, asks, speaks = [await office.join(number) for number in (1, 2, 3)]
            idle = IdleReleaser(office.registry, counts, office.clocks)
            holders = (silent, asks, speaks)
            for client in holders:
                await office.registry.lease(client)
                counts.received[client] = 10
            # In this order, of which the registry knows none.
            office.registry.holders = lambda: holders  # type: ignore[method-assign]
            await fall_silent(idle, office.clocks)

            async def happens() -> None:
                await office.registry.lease(asks)
                counts.received[speaks] += 1

            meanwhile(office.store, happens)
            office.heard()
            await idle.release(60)
            assert [one.key for one in office.heard()] == [silent]

    asyncio.run(scenario())
