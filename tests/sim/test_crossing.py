"""Initiations that cross: every order of arrival, and against a peer with a single slot."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nvpn.datapath.python.peer import Peer as DatapathPeer
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.wire.messages import MessageType
from tests.support.kernel_like import KernelLike
from tests.support.sim import Flight, Host, Weather, World, inner

pytestmark = pytest.mark.once

RTT = 100 * MILLISECOND


class Encounter:
    """Two hosts that know each other; "left" has the smaller public key.

    ``kernel``: which of them, if any, has the kernel's single handshake slot.
    """

    def __init__(self, seed: int, kernel: str | None, weather: Weather, delays: int = 0) -> None:
        self.world = World(seed, weather)
        names = sorted(("one", "two"), key=lambda name: probe(seed, name).public)
        self.left, self.right = (
            Host(
                self.world,
                name,
                f"192.0.2.{number}:51820",
                engine=KernelLike if kernel == side else None,
            )
            for name, number, side in zip(names, (1, 2), ("left", "right"), strict=True)
        )
        for host, other, address in (
            (self.left, self.right, "10.0.0.2/32"),
            (self.right, self.left, "10.0.0.1/32"),
        ):
            if isinstance(host.engine, KernelLike):
                host.engine.befriend(other, address)
            else:
                host.meet(other, address)
        self.left.delays = self.right.delays = delays

    def left_sends(self) -> None:
        self.left.send(inner("10.0.0.1", "10.0.0.2", b"from the left"))

    def right_sends(self) -> None:
        self.right.send(inner("10.0.0.2", "10.0.0.1", b"from the right"))

    @property
    def settled(self) -> bool:
        return bool(self.left.delivered and self.right.delivered)

    def sessions(self) -> tuple[DatapathPeer, DatapathPeer]:
        (left,) = self.left.core.peers.values()
        (right,) = self.right.core.peers.values()
        return left, right

    def assert_one_session(self) -> None:
        """Both send in the same session, which the next handshake does not disturb."""
        left, right = (peer.slots.current for peer in self.sessions())
        assert left is not None and right is not None
        assert (left.our_index, left.their_index) == (right.their_index, right.our_index)


def probe(seed: int, name: str) -> Host:
    return Host(World(seed), name, "192.0.2.9:9")


ENDS = pytest.mark.parametrize("kernel", [None, "left", "right"], ids=["ours", "left", "right"])


@ENDS
@pytest.mark.parametrize("delays", [0, 3 * MILLISECOND], ids=["prompt", "lagging"])
def test_crossing_initiations_settle_within_one_and_a_half_round_trips(
    kernel: str | None, delays: int
) -> None:
    for seed in range(100):
        pair = Encounter(seed, kernel, Weather(latency=RTT // 2), delays)
        begin = pair.world.time
        offset = pair.world.random.randrange(RTT)
        pair.world.at(begin, pair.left_sends)
        pair.world.at(begin + offset, pair.right_sends)
        pair.world.run_until(begin + offset + RTT * 3 // 2 + 6 * delays)
        assert all(peer.slots.current for peer in pair.sessions()), (seed, offset)
        pair.world.run_until(begin + offset + RTT * 2 + 8 * delays)
        assert pair.settled, (seed, offset)
        pair.world.run(2)
        pair.assert_one_session()


@ENDS
def test_they_settle_in_one_session_whatever_the_delays(kernel: str | None) -> None:
    for seed in range(150):
        weather = Weather(latency=10 * MILLISECOND, jitter=140 * MILLISECOND)
        pair = Encounter(seed, kernel, weather)
        begin = pair.world.time
        pair.world.at(begin, pair.left_sends)
        pair.world.at(begin + pair.world.random.randrange(200 * MILLISECOND), pair.right_sends)
        # Two round trips at the worst delay, after the later start.
        pair.world.run_until(begin + 800 * MILLISECOND)
        assert pair.settled, seed
        pair.world.run(2)
        pair.assert_one_session()


@ENDS
def test_every_order_of_arrival_ends_with_one_session(kernel: str | None) -> None:
    runs = 0

    def check(pair: Encounter) -> None:
        nonlocal runs
        runs += 1
        assert pair.settled
        pair.assert_one_session()

    explore(lambda: Encounter(5, kernel, Weather()), check)
    assert runs > 5


def explore(make: Callable[[], Encounter], check: Callable[[Encounter], None]) -> None:
    """Play every order in which messages can arrive, from the start for each."""
    todo: list[tuple[int, ...]] = [()]
    while todo:
        choices = todo.pop()
        pair = make()
        waiting: list[Flight] = []
        pair.world.send = waiting.append  # type: ignore[method-assign]
        pair.left_sends()
        pair.right_sends()
        for choice in choices:
            arrive(pair, waiting.pop(choice))
        if waiting:
            assert len(choices) < 30, "they never stop talking"
            todo += [(*choices, choice) for choice in range(len(waiting))]
        else:
            # Nothing is under way any more: an answer that was held back goes out now.
            pair.world.run(1.5)
            while waiting:
                arrive(pair, waiting.pop(0))
            check(pair)


def arrive(pair: Encounter, flight: Flight) -> None:
    target = pair.left if flight.target.remote == pair.left.outer.remote else pair.right
    pair.world.time += MILLISECOND
    target.receive(flight.datagram, flight.source)


@ENDS
def test_with_loss_they_settle_by_a_later_try(kernel: str | None) -> None:
    late = 0
    for seed in range(60):
        pair = Encounter(seed, kernel, Weather(latency=RTT // 2, loss=0.3))
        pair.world.at(pair.world.time, pair.left_sends)
        pair.world.at(pair.world.time + RTT // 4, pair.right_sends)
        # A real program repeats itself; so does every TCP.
        pair.world.every(1, pair.left_sends, until=60)
        pair.world.every(1, pair.right_sends, until=60)
        pair.world.run(0.4)
        late += not pair.settled
        pair.world.run(45)
        assert pair.settled, seed
    assert late > 5


def test_an_initiation_that_never_arrives_delays_the_answer_to_the_other_by_a_second() -> None:
    pair = Encounter(1, None, Weather(latency=RTT // 2))
    lost = pair.world.hold_next(MessageType.INITIATION, pair.right.name)
    pair.left_sends()
    pair.right_sends()
    pair.world.run(0.9)
    assert lost and not pair.settled
    pair.world.run(0.3)
    assert pair.settled
    pair.assert_one_session()


def test_a_stale_initiation_of_ours_does_not_delay_an_answer() -> None:
    pair = Encounter(1, None, Weather(latency=RTT // 2))
    pair.world.blocked.add((pair.right.name, pair.left.name))
    pair.right_sends()
    pair.world.run(3)
    pair.world.blocked.clear()
    begin = pair.world.time
    pair.left_sends()
    pair.world.run_until(begin + RTT * 2)
    assert pair.settled


def test_the_next_handshake_after_a_crossing_loses_nothing() -> None:
    pair = Encounter(2, None, Weather(latency=RTT // 2))
    pair.world.every(0.01, pair.left_sends, until=240)
    pair.world.every(0.01, pair.right_sends, until=240)
    pair.world.run(245)
    assert len(pair.right.delivered) == len(pair.left.delivered) == 24_001
    assert len(pair.world.sent(MessageType.INITIATION)) >= 3
    assert pair.world.time > 240 * SECOND
