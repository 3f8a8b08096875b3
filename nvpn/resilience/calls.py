"""Runs what may fail under a retry policy and a breaker. The one part here that waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from nvpn.errors import Refused, Unavailable
from nvpn.model.clock import boot_ns
from nvpn.resilience.backoff import Backoff
from nvpn.resilience.breaker import Attempt, Breaker
from nvpn.resilience.policy import RetryPolicy

_T = TypeVar("_T")
_SECOND: Final = 1_000_000_000


async def call(
    work: Callable[[], Awaitable[_T]],
    *,
    retry: RetryPolicy,
    breaker: Breaker | None = None,
    clock: Callable[[], int] = boot_ns,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    random: Callable[[int], bytes] = os.urandom,
) -> _T:
    """What the work returns, at the latest from its last attempt: only what is Unavailable is
    worth another one.

    Cancelling it ends it at once, and gives a probe's slot back.

    Args:
        work: started anew for each attempt; bounds its own time.
        breaker: of the service that the work uses.
        clock: boot nanoseconds.
        sleep: waits that many seconds.
        random: gives that many random bytes.

    Raises:
        Unavailable: the attempts are used up, or the breaker is open: then, too, when it
            opened between two of them.
        Refused: the service answered no, and so it works: no further attempt, no failure.
        Exception: any other of the work's; the breaker learns nothing.
    """
    backoff = Backoff(retry, random)
    last: Unavailable | None = None
    while True:
        attempt = None
        if breaker is not None:
            attempt = breaker.attempt(clock())
            if attempt is None:
                raise _left_alone(breaker, clock(), last) from last
        try:
            return await _judge(work, attempt, clock)
        except Unavailable as error:
            last = error
        delay = backoff.next_delay()
        if delay is None:
            raise last
        await sleep(delay / _SECOND)


async def _judge(
    work: Callable[[], Awaitable[_T]],
    attempt: Attempt | None,
    clock: Callable[[], int],
) -> _T:
    """Run the work, and tell the breaker how it went."""
    try:
        result = await work()
    except BaseException as error:
        if attempt is not None:
            if isinstance(error, Refused):
                attempt.succeeded(clock())
            elif isinstance(error, Unavailable):
                attempt.failed(clock())
            else:
                attempt.abandoned()
        raise
    if attempt is not None:
        attempt.succeeded(clock())
    return result


def _left_alone(breaker: Breaker, now: int, last: Unavailable | None) -> Unavailable:
    rest = breaker.retry_in(now)
    when = (
        f"it is tried again in {max(1, round(rest / _SECOND))} s"
        if rest
        else "it is being tried at the moment"
    )
    why = f" ({last})" if last is not None else ""
    return Unavailable(f"{breaker.name} failed too often and is left alone{why}; {when}")
