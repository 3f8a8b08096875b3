"""Names become addresses in the background, whatever the resolver does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from nvpn.config.model import HostPort
from nvpn.daemon import resolver as module
from nvpn.daemon.resolver import (
    AT_ONCE,
    MAX_PLACES,
    EndpointResolver,
    arrange,
    changes_for,
    look_up,
)
from nvpn.model.changes import SetCandidates, SetEndpoint
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey

ALICE = PublicKey(bytes(range(32)))
BOB = PublicKey(bytes(range(1, 33)))


class World:
    """A resolver of names that answers as the test wants."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}  # addresses, with blanks between them
        self.ttls: dict[str, int] = {}
        self.asked: list[str] = []
        self.found: list[tuple[PublicKey | str, ...]] = []
        self.resolver = EndpointResolver(
            lambda peer, found: self.found.append((peer, *map(str, found))),
            spawn=asyncio.get_running_loop().create_task,
            look_up=self.look_up,
            ask_ttl=self.ttls.get,
        )

    def look_up(self, wanted: HostPort) -> tuple[Endpoint, ...]:
        self.asked.append(wanted.host)
        if wanted.is_literal:
            return look_up(wanted)
        if wanted.host not in self.answers:
            raise OSError(-2, "Name or service not known")
        return places(*self.answers[wanted.host].split(), port=wanted.port)


def places(*addresses: str, port: int = 1) -> tuple[Endpoint, ...]:
    texts = (f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in addresses)
    return tuple(map(Endpoint.parse, texts))


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
            ask_ttl=lambda name: None,
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
            release.wait(10)
            return places("192.0.2.1")

        resolver = EndpointResolver(
            lambda peer, endpoint: None,
            spawn=asyncio.get_running_loop().create_task,
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
        names = [HostPort("a.example", 1), HostPort("192.0.2.1", 1)]
        assert world.resolver._shortest_ttl(names) == seconds
        assert world.resolver._shortest_ttl(names[1:]) is None

    run(test)


def test_the_same_addresses_in_another_order_are_no_news_and_a_failure_takes_nothing_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)

    async def test() -> None:
        world = World()
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
                release.wait(10)
            return look_up(HostPort("192.0.2.7", 1))

        resolver = EndpointResolver(
            lambda peer, endpoint: None,
            spawn=asyncio.get_running_loop().create_task,
            look_up=hang,
        )
        resolver.want({ALICE: (HostPort("a.example", 1), HostPort("192.0.2.7", 1))})
        assert await resolver.wait(0.02) == {}
        assert resolver.known[ALICE] == places("192.0.2.7")
        resolver.close()
        release.set()

    run(test)


def test_what_no_resolver_understands_does_not_resolve() -> None:
    with pytest.raises(OSError, match="not a name"):
        look_up(HostPort("x" * 64 + ".example", 1))


# --- what was found --------------------------------------------------------------------


def test_families_take_turns_within_a_name_and_endpoints_stay_in_their_order() -> None:
    first = places("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2")
    second = places("192.0.2.9", "2001:db8::1")
    assert arrange([first, (), second]) == places(
        "2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.9"
    )
    assert arrange([]) == ()


def test_of_too_many_addresses_every_endpoint_gives_its_best() -> None:
    many = tuple(f"192.0.2.{number}" for number in range(1, 13))
    two, one = places("198.51.100.1", "198.51.100.2"), places("203.0.113.1")
    chosen = arrange([places(*many), two, one])
    assert len(chosen) == MAX_PLACES
    assert chosen == (*places(*many[:5]), *two, *one)


HERE, THERE, ELSEWHERE = places("192.0.2.1", "192.0.2.2", "192.0.2.3")


def test_a_peer_that_is_nowhere_goes_to_the_first_place() -> None:
    assert changes_for(ALICE, (HERE, THERE), before=(), current=None, boot=7) == (
        SetEndpoint(ALICE, HERE._replace(learned_at=7)),
        SetCandidates(ALICE, (HERE, THERE)),
    )


@pytest.mark.parametrize(
    ("before", "current"),
    [
        ((HERE, THERE), THERE),  # it is where it may be
        ((HERE,), ELSEWHERE),  # it roamed, and knows better
        ((), ELSEWHERE),  # it is remembered from the last run
    ],
)
def test_a_peer_stays_where_it_is_and_may_be_in_the_new_places_too(
    before: tuple[Endpoint, ...], current: Endpoint
) -> None:
    found = (HERE, THERE)
    assert changes_for(ALICE, found, before=before, current=current, boot=7) == (
        SetCandidates(ALICE, found),
    )


def test_a_peer_moves_with_its_name() -> None:
    current = HERE._replace(learned_at=3)
    moved, candidates = changes_for(ALICE, (THERE,), before=(HERE,), current=current, boot=7)
    assert moved == SetEndpoint(ALICE, THERE._replace(learned_at=7))
    assert candidates == SetCandidates(ALICE, (THERE,))
