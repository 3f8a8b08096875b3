"""What the backend is told of the places where peers may be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from nvpn.config.model import HostPort, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.daemon.whereabouts import Whereabouts
from nvpn.model.changes import Plan, SetCandidates, SetEndpoint
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.resilience.registry import Breakers
from tests.support.virtual_loop import play_virtually

ALICE, BOB = PublicKey(bytes([1]) * 32), PublicKey(bytes([2]) * 32)
HERE, THERE, ELSEWHERE = (Endpoint.parse(f"192.0.2.{number}:1") for number in (1, 2, 3))


class Backend:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.initiated: list[PublicKey] = []
        self.places: dict[PublicKey, Endpoint] = {}

    async def apply(self, plan: Plan) -> None:
        self.plans.append(plan)
        for change in plan:
            if isinstance(change, SetEndpoint) and change.endpoint is not None:
                self.places[change.peer] = change.endpoint

    def endpoint_of(self, peer: PublicKey) -> Endpoint | None:
        return self.places.get(peer)

    def initiate(self, peer: PublicKey) -> None:
        self.initiated.append(peer)


class World:
    def __init__(self) -> None:
        self.backend = Backend()
        self.moved = 0
        self.whereabouts = Whereabouts(
            self.backend,  # type: ignore[arg-type]
            spawn=asyncio.get_running_loop().create_task,
            on_moved=self._note,
            breakers=Breakers(),
        )

    def _note(self) -> None:
        self.moved += 1

    async def want(self, endpoints: Mapping[PublicKey, tuple[Endpoint, ...]]) -> Plan:
        """What a start or reload with these endpoints tells the backend."""
        peers = []
        for peer, places in endpoints.items():
            first, *others = (HostPort(str(place).rpartition(":")[0], 1) for place in places)
            peers.append(PeerConfig(peer, endpoint=first, other_endpoints=tuple(others)))
        config = TunnelConfig("wg0", Path("wg0.toml"), InterfaceConfig(), tuple(peers))
        assert await self.whereabouts.want(config) == []
        plan = self.whereabouts.plan()
        self.whereabouts.told()
        return plan


def test_every_place_of_a_peer_is_told_once_the_first_among_them() -> None:
    async def test() -> None:
        world = World()
        assert await world.want({ALICE: (HERE, THERE), BOB: (ELSEWHERE,)}) == (
            SetCandidates(ALICE, (HERE, THERE)),
            SetCandidates(BOB, (ELSEWHERE,)),
        )
        assert world.whereabouts.best == {ALICE: HERE, BOB: ELSEWHERE}
        assert await world.want({ALICE: (HERE, THERE), BOB: (HERE,)}) == (
            SetCandidates(BOB, (HERE,)),
        )
        assert await world.want({BOB: (HERE,)}) == (SetCandidates(ALICE, ()),)
        world.whereabouts.close()

    play_virtually(test)


def test_a_peer_that_is_added_anew_is_where_it_was_found() -> None:
    async def test() -> None:
        world = World()
        await world.want({ALICE: (HERE, THERE)})
        moved, candidates = world.whereabouts.place([ALICE, BOB])
        assert isinstance(moved, SetEndpoint) and isinstance(candidates, SetCandidates)
        assert moved.endpoint is not None and moved.endpoint.remote == HERE.remote
        assert [place.remote for place in candidates.endpoints] == [HERE.remote, THERE.remote]
        assert (moved.peer, candidates.peer) == (ALICE, ALICE), "nobody knows where Bob is"
        world.whereabouts.close()

    play_virtually(test)


def test_a_peer_whose_name_moved_is_moved_and_called() -> None:
    async def test() -> None:
        world = World()
        await world.want({ALICE: (HERE,), BOB: (HERE,)})
        world.backend.places = {ALICE: HERE, BOB: ELSEWHERE}
        world.whereabouts._found(ALICE, (THERE,))
        world.whereabouts._found(BOB, (THERE,))
        await asyncio.sleep(0.01)
        assert world.backend.initiated == [ALICE]
        assert world.backend.places[ALICE].remote == THERE.remote
        assert world.backend.places[BOB] == ELSEWHERE, "it roamed, and knows better"
        world.whereabouts.close()

    play_virtually(test)


def test_a_peer_whose_name_moved_as_a_reload_came_into_force_is_moved_all_the_same() -> None:
    async def test() -> None:
        world = World()
        await world.want({ALICE: (HERE,)})
        world.backend.places = {ALICE: HERE}
        world.whereabouts._resolver._known[ALICE] = (THERE,)
        world.whereabouts._found(ALICE, (THERE,))
        world.whereabouts.told()
        await asyncio.sleep(0.01)
        assert world.backend.places[ALICE].remote == THERE.remote
        world.whereabouts.close()

    play_virtually(test)


def test_many_names_that_resolve_at_once_are_one_change_of_paths() -> None:
    async def test() -> None:
        world = World()
        for number in range(100):
            world.whereabouts._found(PublicKey(bytes([number + 3]) * 32), (HERE,))
        await asyncio.sleep(0.3)
        assert len(world.backend.plans) == 100
        assert world.moved == 1
        world.whereabouts._found(ALICE, (HERE,))
        await asyncio.sleep(0.01)
        world.whereabouts.close()
        await asyncio.sleep(0.3)
        assert world.moved == 1

    play_virtually(test)
