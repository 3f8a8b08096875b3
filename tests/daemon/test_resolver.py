"""Names become addresses in the background, whatever the resolver does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from nvpn.config.model import HostPort
from nvpn.daemon import resolver as module
from nvpn.daemon.resolver import AT_ONCE, EndpointResolver, look_up
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey

ALICE = PublicKey(bytes(range(32)))
BOB = PublicKey(bytes(range(1, 33)))


class World:
    """A resolver of names that answers as the test wants."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.asked: list[str] = []
        self.found: list[tuple[PublicKey | str, ...]] = []
        self.resolver = EndpointResolver(
            lambda peer, found: self.found.append((peer, *map(str, found))),
            spawn=asyncio.get_running_loop().create_task,
            look_up=self.look_up,
        )

    def look_up(self, wanted: HostPort) -> tuple[Endpoint, ...]:
        self.asked.append(wanted.host)
        if wanted.is_literal:
            return look_up(wanted)
        if wanted.host not in self.answers:
            raise OSError(-2, "Name or service not known")
        return (Endpoint.parse(f"{self.answers[wanted.host]}:{wanted.port}"),)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


def test_addresses_need_no_asking_and_no_waiting() -> None:
    async def test() -> None:
        world = World()
        world.resolver.want({ALICE: (HostPort("192.0.2.1", 7),), BOB: (HostPort("::1", 8),)})

        assert {str(endpoint) for (endpoint,) in world.resolver.known.values()} == {
            "192.0.2.1:7",
            "[::1]:8",
        }
        assert await world.resolver.wait(0) == {}
        assert world.found == []

    run(test)


def test_a_name_that_resolves_in_time_is_known_after_the_wait() -> None:
    async def test() -> None:
        world = World()
        world.answers["a.example"] = "192.0.2.1"
        world.resolver.want({ALICE: (HostPort("a.example", 7),)})

        assert await world.resolver.wait(5) == {}
        assert [*map(str, world.resolver.known[ALICE])] == ["192.0.2.1:7"]
        assert world.found == []

    run(test)


def test_a_name_that_does_not_resolve_costs_one_attempt_and_is_tried_again(monkeypatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.02)

    async def test() -> None:
        world = World()
        world.resolver.want({ALICE: (HostPort("a.example", 7),)})

        assert await world.resolver.wait(5) == {ALICE: "name or service not known"}
        await until(lambda: len(world.asked) >= 3)
        world.answers["a.example"] = "192.0.2.1"
        await until(lambda: bool(world.found))
        assert world.found == [(ALICE, "192.0.2.1:7")]

    run(test)


def test_a_resolver_that_hangs_holds_nobody_up_and_no_more_than_eight_threads() -> None:
    release = threading.Event()
    running: list[int] = []

    async def test() -> None:
        def hang(wanted: HostPort) -> tuple[Endpoint, ...]:
            running.append(1)
            release.wait(10)
            raise OSError("timed out")

        peers = {
            PublicKey(bytes([number]) * 32): (HostPort(f"{number}.example", 1),)
            for number in range(40)
        }
        resolver = EndpointResolver(
            lambda peer, endpoint: None,
            spawn=asyncio.get_running_loop().create_task,
            look_up=hang,
        )
        resolver.want(peers)

        missing = await resolver.wait(0.1)

        assert set(missing) == set(peers)
        assert set(missing.values()) == {"no answer yet"}
        assert len(running) == AT_ONCE
        resolver.close()
        release.set()

    run(test)


def test_a_name_nobody_wants_any_more_is_dropped_and_others_are_left_alone() -> None:
    async def test() -> None:
        world = World()
        world.answers = {"a.example": "192.0.2.1", "b.example": "192.0.2.2"}
        world.resolver.want({ALICE: (HostPort("a.example", 1),), BOB: (HostPort("b.example", 1),)})
        await world.resolver.wait(5)

        world.resolver.want({BOB: (HostPort("b.example", 1),)})
        await world.resolver.wait(5)

        assert set(world.resolver.known) == {BOB}
        assert sorted(world.asked) == ["a.example", "b.example"]

    run(test)


def test_a_silent_peer_s_name_is_looked_up_again() -> None:
    async def test() -> None:
        world = World()
        world.answers["a.example"] = "192.0.2.1"
        world.resolver.want({ALICE: (HostPort("a.example", 1),)})
        await world.resolver.wait(5)

        world.answers["a.example"] = "192.0.2.99"
        world.resolver.look_again(ALICE)
        world.resolver.look_again(BOB)

        await until(lambda: bool(world.found))
        assert world.found == [(ALICE, "192.0.2.99:1")]

    run(test)


def test_a_peer_may_be_in_several_places_and_some_of_them_are_better_than_none() -> None:
    async def test() -> None:
        world = World()
        world.answers["b.example"] = "192.0.2.2"
        places = (HostPort("a.example", 1), HostPort("b.example", 2), HostPort("192.0.2.3", 3))
        world.resolver.want({ALICE: places})

        assert await world.resolver.wait(5) == {}
        found = [str(endpoint) for endpoint in world.resolver.known[ALICE]]
        assert found == ["192.0.2.2:2", "192.0.2.3:3"]

    run(test)
