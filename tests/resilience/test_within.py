from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from nvpn.errors import Unavailable
from nvpn.resilience.within import within
from tests.support.virtual_loop import play_virtually


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """No exception may stay unseen: the daemon would take it for a bug of its own."""
    troubles: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: troubles.append(about))
        await scenario()
        gc.collect()
        await asyncio.sleep(0)

    play_virtually(watched)
    assert troubles == []


async def forty_two(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return 42


def test_what_is_ready_in_time_is_returned() -> None:
    async def scenario() -> None:
        assert await within(1.0, forty_two(0.5)) == 42
        assert await within(None, forty_two(3600)) == 42

    play(scenario)


def test_what_takes_longer_is_cancelled_before_it_is_told() -> None:
    async def scenario() -> None:
        cleaned = False

        async def work() -> None:
            nonlocal cleaned
            try:
                await asyncio.sleep(5)
            finally:
                await asyncio.sleep(0)
                cleaned = True

        with pytest.raises(asyncio.TimeoutError):
            await within(1.0, work())
        assert cleaned

    play(scenario)


def test_what_the_work_raises_is_raised() -> None:
    async def scenario() -> None:
        async def work() -> None:
            raise Unavailable("not now")

        with pytest.raises(Unavailable):
            await within(1.0, work())

    play(scenario)


def test_who_is_cancelled_cancels_the_work_and_waits_for_it() -> None:
    async def scenario() -> None:
        work = asyncio.ensure_future(asyncio.sleep(5))
        waiting = asyncio.ensure_future(within(9.0, work))
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert work.cancelled()

    play(scenario)


@pytest.mark.parametrize("fails", [False, True])
def test_who_is_cancelled_together_with_the_result_is_cancelled(fails: bool) -> None:
    async def scenario() -> None:
        result = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(within(9.0, result))
        await asyncio.sleep(1)
        if fails:
            result.set_exception(Unavailable("not now"))
        else:
            result.set_result(42)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    play(scenario)
