"""Names become addresses in the background, whatever the resolver does."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from nvpn.config.model import HostPort
from nvpn.daemon import resolver as module
from nvpn.daemon.places import look_up
from nvpn.daemon.resolver import AT_ONCE, EndpointResolver
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.resilience.breaker import BreakerState
from nvpn.resilience.policy import BreakerPolicy, Policies, RetryPolicy
from nvpn.resilience.registry import Breakers
from tests.support.places import places

ALICE = PublicKey(bytes(range(32)))
BOB = PublicKey(bytes(range(1, 33)))
HASTY = RetryPolicy(initial=10 * MILLISECOND, maximum=SECOND, jitter=0.0)


class World:
    """A resolver of names that answers as the test wants."""

    def __init__(
        self, *, retry: RetryPolicy | None = None, breaker: BreakerPolicy | None = None
    ) -> None:
        self.answers: dict[str, str] = {}  # addresses, with blanks between them
        self.broken: set[str] = set()  # names whose servers fail
        self.ttls: dict[str, int] = {}
        self.asked: list[str] = []
        self.found: list[tuple[PublicKey | str, ...]] = []
        self.now = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.breakers = Breakers(Policies(retry or RetryPolicy(), breaker or BreakerPolicy()))
        self.resolver = EndpointResolver(
            lambda peer, found: self.found.append((peer, *map(str, found))),
            spawn=self._spawn,
            breakers=self.breakers,
            look_up=self.look_up,
            ask_ttl=self.ttls.get,
            clock=lambda: self.now,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.get_running_loop().create_task(work))
        return self.tasks[-1]

    def look_up(self, wanted: HostPort) -> tuple[Endpoint, ...]:
        self.asked.append(wanted.host)
        if wanted.is_literal:
            return look_up(wanted)
        if wanted.host in self.broken:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if wanted.host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return places(*self.answers[wanted.host].split(), port=wanted.port)

    def breaker(self, name: str) -> tuple[BreakerState, int]:
        """Its state and failures."""
        (one,) = (one for one in self.breakers.snapshots(self.now) if one.name == name)
        return one.state, one.failures


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


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


def test_a_name_that_does_not_resolve_costs_one_attempt_and_is_tried_again() -> None:
    async def test() -> None:
        world = World(retry=HASTY)
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
            release.wait(60)
            raise OSError("timed out")

        peers = {
            PublicKey(bytes([number]) * 32): (HostPort(f"{number}.example", 1),)
            for number in range(40)
        }
        resolver = EndpointResolver(
            lambda peer, endpoint: None,
            spawn=asyncio.get_running_loop().create_task,
            breakers=Breakers(),
            look_up=hang,
            ask_ttl=lambda name: None,
        )
        resolver.want(peers)

        missing = await resolver.wait(0.1)
        await until(lambda: len(running) >= AT_ONCE)

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
        wanted = (HostPort("a.example", 1), HostPort("b.example", 2), HostPort("192.0.2.3", 3))
        world.resolver.want({ALICE: wanted})

        assert await world.resolver.wait(5) == {}
        found = [str(endpoint) for endpoint in world.resolver.known[ALICE]]
        assert found == ["192.0.2.2:2", "192.0.2.3:3"]

    run(test)


def test_a_slot_is_taken_until_its_thread_is_done_whoever_gave_up_waiting() -> None:
    release = threading.Event()
    running: list[int] = []

    async def test() -> None:
        def hang(wanted: HostPort) -> tuple[Endpoint, ...]:
            running.append(1)
            release.wait(60)
            return places("192.0.2.1")

        resolver = EndpointResolver(
            lambda peer, endpoint: None,
            spawn=asyncio.get_running_loop().create_task,
            breakers=Breakers(),
            look_up=hang,
            ask_ttl=lambda name: None,
        )
        for life in range(3):  # reloads with ever new names
            resolver.want(
                {
                    PublicKey(bytes([number]) * 32): (HostPort(f"{number}.{life}.example", 1),)
                    for number in range(10)
                }
            )
            await resolver.wait(0.05)
        await until(lambda: len(running) >= AT_ONCE)
        assert len(running) == AT_ONCE
        release.set()
        await until(lambda: len(resolver.known) == 10)
        resolver.close()

    run(test)


# --- looking again ---------------------------------------------------------------------


def test_a_name_is_looked_up_again_when_its_time_to_live_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHORTEST_TTL", 0.02)
    monkeypatch.setattr(module, "_AFTER_EXPIRY", 0.02)

    async def test() -> None:
        world = World()
        world.answers = {"a.example": "192.0.2.1", "b.example": "192.0.2.2"}
        world.ttls.update({"a.example": 0, "b.example": 3600})
        world.resolver.want({ALICE: (HostPort("a.example", 1),), BOB: (HostPort("b.example", 1),)})
        await world.resolver.wait(5)
        world.answers = {"a.example": "192.0.2.9", "b.example": "192.0.2.8"}
        await until(lambda: bool(world.found))
        assert world.found == [(ALICE, "192.0.2.9:1")]
        assert world.asked.count("b.example") == 1

    run(test)


@pytest.mark.parametrize(("ttl", "seconds"), [(None, 300), (0, 30), (60, 61), (604_800, 86_400)])
def test_the_time_to_live_is_taken_within_reason(ttl: int | None, seconds: float) -> None:
    async def test() -> None:
        world = World()
        if ttl is not None:
            world.ttls["a.example"] = ttl
        assert world.resolver._time_to_live(HostPort("a.example", 1)) == seconds
        assert world.resolver._time_to_live(HostPort("fe80::1%eth0", 1)) is None

    run(test)


def test_the_same_addresses_in_another_order_are_no_news_and_a_failure_takes_nothing_away() -> (
    None
):
    async def test() -> None:
        world = World(retry=HASTY)
        world.answers["a.example"] = "192.0.2.1 192.0.2.2"
        world.resolver.want({ALICE: (HostPort("a.example", 1),)})
        await world.resolver.wait(5)

        world.answers["a.example"] = "192.0.2.2 192.0.2.1"
        await look_again(world)
        del world.answers["a.example"]
        await look_again(world, 3)
        assert world.found == []
        assert world.resolver.known[ALICE] == places("192.0.2.1", "192.0.2.2")

        world.answers["a.example"] = "192.0.2.2 192.0.2.3"
        await until(lambda: bool(world.found))
        assert world.found == [(ALICE, "192.0.2.2:1", "192.0.2.3:1")]

    run(test)


async def look_again(world: World, times: int = 1) -> None:
    count = len(world.asked) + times
    world.resolver.look_again(ALICE)
    await until(lambda: len(world.asked) >= count)
    await asyncio.sleep(0.01)


def test_an_address_serves_while_a_name_beside_it_hangs() -> None:
    release = threading.Event()

    async def test() -> None:
        def hang(wanted: HostPort) -> tuple[Endpoint, ...]:
            if not wanted.is_literal:
                release.wait(60)
            return look_up(HostPort("192.0.2.7", 1))

        resolver = EndpointResolver(
            lambda peer, endpoint: None,
            spawn=asyncio.get_running_loop().create_task,
            breakers=Breakers(),
            look_up=hang,
        )
        resolver.want({ALICE: (HostPort("a.example", 1), HostPort("192.0.2.7", 1))})
        assert await resolver.wait(0.02) == {}
        assert resolver.known[ALICE] == places("192.0.2.7")
        resolver.close()
        release.set()

    run(test)


# --- several peers, and names that fail ------------------------------------------------


def test_a_name_is_looked_up_once_however_many_peers_are_behind_it() -> None:
    async def test() -> None:
        world = World()
        peers = [PublicKey(bytes([number]) * 32) for number in range(100)]
        world.answers["a.example"] = "192.0.2.1"
        world.resolver.want({peer: (HostPort("a.example", 1),) for peer in peers})
        assert await world.resolver.wait(5) == {}
        assert world.asked == ["a.example"]
        assert world.resolver.known == dict.fromkeys(peers, places("192.0.2.1"))

        world.answers["a.example"] = "192.0.2.2"
        world.resolver.look_again(peers[7])
        await until(lambda: len(world.found) == 100)
        assert world.asked == ["a.example"] * 2

    run(test)


def test_a_peer_that_comes_later_has_what_is_known_of_its_name_at_once() -> None:
    async def test() -> None:
        world = World()
        world.answers["a.example"] = "192.0.2.1"
        world.resolver.want({ALICE: (HostPort("a.example", 1),)})
        await world.resolver.wait(5)
        both = (HostPort("a.example", 1), HostPort("192.0.2.9", 1))
        world.resolver.want({ALICE: (HostPort("a.example", 1),), BOB: both})
        assert world.resolver.known[BOB] == places("192.0.2.1", "192.0.2.9")
        world.resolver.want({BOB: both[1:]})
        assert world.resolver.known == {BOB: places("192.0.2.9")}
        assert world.found == []

    run(test)


def test_a_name_whose_servers_fail_is_left_alone_and_no_other_with_it() -> None:
    async def test() -> None:
        world = World(retry=HASTY, breaker=BreakerPolicy(failure_threshold=2))
        world.broken = {"broken.example"}
        world.answers["a.example"] = "192.0.2.1"
        world.resolver.want(
            {ALICE: (HostPort("broken.example", 1),), BOB: (HostPort("a.example", 1),)}
        )
        assert await world.resolver.wait(5) == {ALICE: "temporary failure in name resolution"}
        await until(lambda: world.breaker("dns broken.example")[0] is BreakerState.OPEN)
        await asyncio.sleep(0.05)  # five of the first pauses
        assert world.asked.count("broken.example") == 2
        assert world.breaker("dns a.example") == (BreakerState.CLOSED, 0)

    run(test)


def test_after_its_rest_it_is_looked_up_again_and_used_as_before() -> None:
    async def test() -> None:
        policy = BreakerPolicy(failure_threshold=2, reset_timeout=30 * MILLISECOND)
        world = World(retry=HASTY, breaker=policy)
        world.broken = {"a.example"}
        world.resolver.want({ALICE: (HostPort("a.example", 1),)})
        await world.resolver.wait(5)
        await until(lambda: world.breaker("dns a.example")[0] is BreakerState.OPEN)
        world.broken, world.answers["a.example"] = set(), "192.0.2.1"
        world.now += 30 * MILLISECOND
        await until(lambda: bool(world.found))
        assert world.breaker("dns a.example") == (BreakerState.CLOSED, 0)

    run(test)


def test_other_figures_of_a_reload_hold_for_a_name_that_fails_already() -> None:
    async def test() -> None:
        # The second wait would be hours.
        world = World(
            retry=RetryPolicy(
                initial=20 * MILLISECOND, maximum=36_000 * SECOND, multiplier=1e6, jitter=0.0
            )
        )
        world.resolver.want({ALICE: (HostPort("a.example", 1),)})
        await world.resolver.wait(5)
        world.breakers.change(Policies(HASTY))
        await until(lambda: len(world.asked) >= 4)

    run(test)


def test_that_a_name_does_not_exist_is_an_answer() -> None:
    async def test() -> None:
        world = World(retry=HASTY, breaker=BreakerPolicy(failure_threshold=2))
        world.resolver.want({ALICE: (HostPort("a.example", 1),)})
        await until(lambda: len(world.asked) >= 4)
        assert world.breaker("dns a.example") == (BreakerState.CLOSED, 0)

    run(test)


def test_when_the_network_changes_what_failed_is_looked_up_at_once_and_nothing_else() -> None:
    async def test() -> None:
        slow = RetryPolicy(initial=3600 * SECOND, maximum=3600 * SECOND)
        world = World(retry=slow, breaker=BreakerPolicy(1, reset_timeout=3600 * SECOND))
        world.broken = {"a.example"}
        world.answers["b.example"] = "192.0.2.2"
        world.resolver.want({ALICE: (HostPort("a.example", 1),), BOB: (HostPort("b.example", 1),)})
        await world.resolver.wait(5)
        world.broken, world.answers["a.example"] = set(), "192.0.2.1"
        world.resolver.look_again(ALICE)  # a silent peer says so every few seconds: no reason
        await asyncio.sleep(0.02)
        assert world.asked.count("a.example") == 1

        world.resolver.network_changed()
        await until(lambda: bool(world.found))
        assert world.found == [(ALICE, "192.0.2.1:1")]
        assert world.asked.count("b.example") == 1

    run(test)


@pytest.mark.parametrize("turns", range(6))
def test_a_name_that_nobody_wants_any_more_just_as_it_is_to_be_looked_up_is_let_go(
    turns: int,
) -> None:
    async def test() -> None:
        slow = RetryPolicy(initial=3600 * SECOND, maximum=3600 * SECOND)
        world = World(retry=slow)
        world.resolver.want({ALICE: (HostPort("a.example", 1),)})
        await world.resolver.wait(5)
        await asyncio.sleep(0)
        world.resolver.network_changed()
        for _ in range(turns):
            await asyncio.sleep(0)
        world.resolver.want({})
        await asyncio.wait_for(asyncio.wait(world.tasks), 30)

    run(test)


def test_breakers_of_names_that_nobody_wants_any_more_are_forgotten() -> None:
    async def test() -> None:
        world = World()
        here, there = HostPort("a.example", 1), HostPort("a.example", 2)
        world.resolver.want({ALICE: (here,), BOB: (there, HostPort("b.example", 1))})
        await world.resolver.wait(5)
        world.resolver.want({BOB: (there,)})
        assert [one.name for one in world.breakers.snapshots(0)] == ["dns a.example"]
        world.resolver.close()
        assert world.breakers.snapshots(0) == ()
        assert world.resolver.known == {}

    run(test)
