"""How long to wait before the next attempt: longer each time, and never in step with others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nvpn.resilience.policy import RetryPolicy

_RANDOM_BITS: Final = 32


class Backoff:
    """The waits of one operation that is tried again and again.

    Exponential, with as much jitter as the policy says. Its default is *equal* jitter, half
    of each wait: what spreads a thousand clients of a service that comes back is nearly as
    good as with full jitter, and no wait is close to nothing, so that a question is not
    repeated before its answer can have come.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        policy: may be changed at any time, and holds from the next wait on.
        random: gives that many random bytes; when it raises OSError waits have no jitter.
    """

    __slots__ = ("_attempts", "_random", "policy")

    def __init__(self, policy: RetryPolicy, random: Callable[[int], bytes]) -> None:
        self.policy = policy
        self._random: Final = random
        self._attempts = 0

    @property
    def attempts(self) -> int:
        """Attempts that failed so far, as far as :meth:`next_delay` was asked."""
        return self._attempts

    def next_delay(self) -> int | None:
        """An attempt failed: nanoseconds until the next one; None when it was the last."""
        policy = self.policy
        if policy.max_attempts and self._attempts + 1 >= policy.max_attempts:
            return None
        self._attempts += 1
        return _spread(_wait_after(policy, self._attempts), policy.jitter, self._random)

    def last_delay(self) -> int:
        """How long to wait for an answer to the last attempt: as if another were to follow."""
        policy = self.policy
        return _spread(_wait_after(policy, self._attempts + 1), policy.jitter, self._random)

    def reset(self) -> None:
        """An attempt succeeded: the next failure is a first one."""
        self._attempts = 0


def _wait_after(policy: RetryPolicy, attempts: int) -> int:
    """Nanoseconds after that many failed attempts, before jitter."""
    try:
        wait = policy.initial * policy.multiplier ** (attempts - 1)
    except OverflowError:
        return policy.maximum
    return policy.maximum if wait >= policy.maximum else int(wait)


def _spread(wait: int, jitter: float, random: Callable[[int], bytes]) -> int:
    span = int(wait * jitter)
    if not span:
        return wait
    try:
        drawn = int.from_bytes(random(_RANDOM_BITS // 8), "little")
    except OSError:
        return wait
    return wait - (drawn * span >> _RANDOM_BITS)
