"""A peer that leaves requests unanswered is left alone, and asked again when it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from nvpn.channel.messages import Done, Hello, Release
from nvpn.daemon.channel_port import ChannelPort, PeerRefused
from nvpn.errors import Unavailable
from nvpn.model.clock import MILLISECOND, SECOND, Now
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.resilience.policy import BreakerPolicy, Policies, RetryPolicy
from nvpn.resilience.registry import Breakers

US, ALICE, BOB = (PublicKey(bytes([number]) * 32) for number in (1, 2, 3))


class Backend:
    """Has any peer; what is sent is noted, and reaches those on the same network.

    Args:
        key: whom the others know us as.
    """

    name = "wg0"

    def __init__(self, key: PublicKey, network: dict[PublicKey, Backend]) -> None:
        self.key = key
        self.network = network
        self.sent: list[PublicKey] = []
        self.subscribers: list[Callable[[Notice], None]] = []
        self.received: Callable[[PublicKey, bytes], None] | None = None
        network[key] = self

    def subscribe(self, callback: Callable[[Notice], None]) -> None:
        self.subscribers.append(callback)

    def open_channel(
        self, received: Callable[[PublicKey, bytes], None], *, only: object = None
    ) -> None:
        self.received = received

    def close_channel(self) -> None:
        self.received = None

    def send_channel(self, peer: PublicKey, payload: bytes) -> None:
        self.sent.append(peer)
        there = self.network.get(peer)
        if there is not None and there.received is not None:
            asyncio.get_running_loop().call_soon(there.received, self.key, payload)

    def has_peer(self, peer: PublicKey) -> bool:
        return True

    def data_received_at(self, peer: PublicKey) -> int:
        return 0

    def notice(self, kind: NoticeKind, peer: PublicKey) -> None:
        for subscriber in self.subscribers:
            subscriber(Notice(kind, peer, wall=0))


class World:
    """Us, and whoever else is made on our network."""

    def __init__(
        self, breaker: BreakerPolicy, *, max_attempts: int = 2, pause: int = MILLISECOND
    ) -> None:
        self.network: dict[PublicKey, Backend] = {}
        self.backend = Backend(US, self.network)
        retry = RetryPolicy(max_attempts, pause, pause)
        self.breakers = Breakers(Policies(retry, breaker))
        self.port = make_port(self.backend, self.breakers)

    async def ask(self, peer: PublicKey) -> None:
        await self.port.ask(peer, Release())

    def states(self) -> list[tuple[str, str]]:
        return [(one.name, one.state.value) for one in self.breakers.snapshots(0)]


def make_port(backend: Backend, breakers: Breakers | None) -> ChannelPort:
    loop = asyncio.get_running_loop()
    port = ChannelPort(
        backend,  # type: ignore[arg-type]
        loop=loop,
        introduce=lambda: Hello("me", "1", ()),
        clocks=lambda: Now(int(loop.time() * SECOND), 0),
        breakers=breakers,
    )
    port.open()
    return port


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


PATIENT = BreakerPolicy(failure_threshold=2, reset_timeout=3600 * SECOND)


def test_after_several_silences_a_peer_is_not_asked_any_more_and_others_are() -> None:
    async def test() -> None:
        world = World(PATIENT)
        for _ in range(2):
            with pytest.raises(Unavailable, match="does not answer"):
                await world.ask(ALICE)
        assert world.backend.sent == [ALICE] * 4
        with pytest.raises(Unavailable, match="is left alone; it is tried again in 3600 s"):
            await world.ask(ALICE)
        assert world.backend.sent == [ALICE] * 4
        with pytest.raises(Unavailable, match="does not answer"):
            await world.ask(BOB)
        world.port.close()

    run(test)


def test_one_that_makes_a_handshake_is_asked_again() -> None:
    async def test() -> None:
        world = World(PATIENT)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await world.ask(ALICE)
        world.backend.notice(NoticeKind.HANDSHAKE_COMPLETED, BOB)
        assert world.states() == [(f"channel {ALICE.short}", "open")]
        world.backend.notice(NoticeKind.HANDSHAKE_COMPLETED, ALICE)
        with pytest.raises(Unavailable, match="does not answer"):
            await world.ask(ALICE)
        assert len(world.backend.sent) == 6
        world.port.close()

    run(test)


def test_whoever_says_no_is_there() -> None:
    async def test() -> None:
        # For ever: as often as the channel does by itself, then.
        world = World(PATIENT, max_attempts=0, pause=25 * MILLISECOND)
        far_end = make_port(Backend(ALICE, world.network), None)
        for _ in range(3):
            with pytest.raises(PeerRefused):
                await world.ask(ALICE)
        assert world.states() == [(f"channel {ALICE.short}", "closed")]

        async def release(peer: PublicKey, request: Release) -> Done:
            return Done()

        far_end.serve(Release, release)
        await world.ask(ALICE)
        far_end.close()
        with pytest.raises(Unavailable, match="does not answer"):
            await world.ask(ALICE)
        assert world.states() == [(f"channel {ALICE.short}", "closed")]
        world.port.close()

    run(test)


def test_requests_are_repeated_as_the_policies_in_force_say() -> None:
    async def test() -> None:
        world = World(BreakerPolicy(failure_threshold=100))
        with pytest.raises(Unavailable):
            await world.ask(ALICE)
        assert len(world.backend.sent) == 2
        world.breakers.change(Policies(RetryPolicy(4, MILLISECOND, MILLISECOND)))
        with pytest.raises(Unavailable):
            await world.ask(ALICE)
        assert len(world.backend.sent) == 2 + 4
        world.port.close()

    run(test)
