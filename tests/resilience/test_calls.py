"""What may fail is run under both policies, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from nvpn.errors import Refused, Unavailable
from nvpn.resilience.breaker import Breaker, BreakerState
from nvpn.resilience.calls import call
from nvpn.resilience.policy import BreakerPolicy, RetryPolicy

_T = TypeVar("_T")
SECOND = 1_000_000_000
RETRY = RetryPolicy(max_attempts=4, initial=SECOND, maximum=60 * SECOND, jitter=0.0)
BREAKER = BreakerPolicy(failure_threshold=10, reset_timeout=30 * SECOND)


class World:
    """A service that does what the test says next, and a clock that moves when we sleep."""

    def __init__(self, *outcomes: str | Exception, policy: BreakerPolicy = BREAKER) -> None:
        self.outcomes = list(outcomes)
        self.breaker = Breaker("etcd", policy)
        self.now = 0
        self.began_at: list[float] = []

    async def work(self) -> str:
        self.began_at.append(self.now / SECOND)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    async def call(self, work: Callable[[], Awaitable[_T]], **options: Any) -> _T:
        options = {"retry": RETRY, "breaker": self.breaker, "clock": lambda: self.now, **options}
        return await call(work, sleep=self.sleep, **options)

    @property
    def failures(self) -> int:
        return self.breaker.snapshot(self.now).failures

    @property
    def state(self) -> BreakerState:
        return self.breaker.snapshot(self.now).state


def test_an_answer_needs_no_second_attempt() -> None:
    world = World("42")
    assert asyncio.run(world.call(world.work)) == "42"
    assert world.began_at == [0]


def test_attempts_follow_each_other_with_growing_waits_until_one_succeeds() -> None:
    world = World(Unavailable("no"), Unavailable("no"), Unavailable("no"), "42")
    assert asyncio.run(world.call(world.work)) == "42"
    assert world.began_at == [0, 1, 3, 7]
    assert world.failures == 0


def test_after_the_last_attempt_its_own_sentence_is_raised() -> None:
    world = World(*(Unavailable(f"no answer {number}") for number in range(9)))
    with pytest.raises(Unavailable, match="no answer 3"):
        asyncio.run(world.call(world.work))
    assert world.began_at == [0, 1, 3, 7]
    assert world.failures == 4


def test_a_refusal_is_an_answer() -> None:
    world = World(Unavailable("no answer"), Refused("the pool is exhausted"))
    with pytest.raises(Refused, match="the pool is exhausted"):
        asyncio.run(world.call(world.work))
    assert world.began_at == [0, 1]
    assert world.failures == 0


def test_an_open_breaker_is_not_attempted_and_says_when_it_will_be() -> None:
    world = World(policy=BreakerPolicy(failure_threshold=1, reset_timeout=30 * SECOND))
    attempt = world.breaker.attempt(0)
    assert attempt is not None
    attempt.failed(0)
    with pytest.raises(Unavailable) as error:
        asyncio.run(world.call(world.work))
    assert world.began_at == []
    assert str(error.value) == "etcd failed too often and is left alone; it is tried again in 30 s"


def test_a_breaker_that_opens_between_attempts_ends_them() -> None:
    world = World(
        *(Unavailable("no answer") for _ in range(9)),
        policy=BreakerPolicy(failure_threshold=2, reset_timeout=30 * SECOND),
    )
    with pytest.raises(Unavailable) as error:
        asyncio.run(world.call(world.work))
    assert world.began_at == [0, 1]
    assert str(error.value) == (
        "etcd failed too often and is left alone (no answer); it is tried again in 28 s"
    )


def test_while_another_probes_nobody_else_does() -> None:
    world = World(policy=BreakerPolicy(failure_threshold=1, reset_timeout=30 * SECOND))
    attempt = world.breaker.attempt(0)
    assert attempt is not None
    attempt.failed(0)
    world.now = 30 * SECOND
    assert world.breaker.attempt(world.now) is not None
    with pytest.raises(Unavailable, match="is left alone; it is being tried at the moment"):
        asyncio.run(world.call(world.work))


def test_a_mistake_of_our_own_is_no_failure_of_the_service() -> None:
    world = World(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(world.call(world.work))
    assert world.failures == 0


def test_without_a_breaker_attempts_are_made_all_the_same() -> None:
    world = World(Unavailable("no"), "42")
    assert asyncio.run(world.call(world.work, breaker=None)) == "42"


@pytest.mark.parametrize("is_probe", [False, True])
def test_cancelling_ends_it_at_once_and_gives_a_probe_s_slot_back(is_probe: bool) -> None:
    async def test() -> None:
        world = World(policy=BreakerPolicy(failure_threshold=1, reset_timeout=30 * SECOND))
        if is_probe:
            attempt = world.breaker.attempt(0)
            assert attempt is not None
            attempt.failed(0)
            world.now = 30 * SECOND
        hanging = asyncio.Event()

        async def hang() -> None:
            hanging.set()
            await asyncio.Event().wait()

        calling = asyncio.ensure_future(world.call(hang))
        await hanging.wait()
        assert (world.breaker.attempt(world.now) is None) == is_probe
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert world.state is (BreakerState.HALF_OPEN if is_probe else BreakerState.CLOSED)
        assert world.breaker.attempt(world.now) is not None

    asyncio.run(asyncio.wait_for(test(), 60))


def test_cancelling_between_attempts_ends_it_too() -> None:
    async def test() -> None:
        world = World(Unavailable("no answer"))
        sleeping = asyncio.Event()

        async def sleep(seconds: float) -> None:
            sleeping.set()
            await asyncio.Event().wait()

        calling = asyncio.ensure_future(
            call(world.work, retry=RETRY, breaker=world.breaker, clock=lambda: 0, sleep=sleep)
        )
        await sleeping.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling

    asyncio.run(asyncio.wait_for(test(), 60))
