"""All breakers of a tunnel by the names of the services, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from nvpn.resilience.breaker import Breaker, BreakerSnapshot
from nvpn.resilience.policy import Policies

MAX_BREAKERS: Final = 256
_SECOND: Final = 1_000_000_000


class Breakers:
    """Breakers, made when they are first asked for, and the policies that they follow.

    Never more than a bound: then one that knows of no trouble goes for a new one, or else
    the one that was asked for longest ago. Ask for a breaker by its name each time.

    Args:
        on_change: told of every change of state of any of them.
    """

    def __init__(
        self,
        policies: Policies | None = None,
        *,
        on_change: Callable[[BreakerSnapshot], None] | None = None,
        capacity: int = MAX_BREAKERS,
    ) -> None:
        self._policies = policies or Policies()
        self._on_change: Final = on_change
        self._capacity: Final = capacity
        # By when they were last asked for, oldest first.
        self._breakers: dict[str, Breaker] = {}

    @property
    def policies(self) -> Policies:
        """What is in force."""
        return self._policies

    def change(self, policies: Policies) -> None:
        """Other figures for all of them; what happened is kept."""
        self._policies = policies
        for breaker in self._breakers.values():
            breaker.policy = policies.breaker

    def get(self, name: str) -> Breaker:
        """The breaker of a service."""
        breaker = self._breakers.pop(name, None)
        if breaker is None:
            if len(self._breakers) >= self._capacity:
                del self._breakers[self._least_missed()]
            breaker = Breaker(name, self._policies.breaker, on_change=self._on_change)
        self._breakers[name] = breaker
        return breaker

    def retry_now(self, name: str, now: int) -> None:
        """Something changed that may have helped the service, if it is known at all."""
        if name in self._breakers:
            self._breakers[name].retry_now(now)

    def forget(self, name: str) -> None:
        """The service is not used any more."""
        self._breakers.pop(name, None)

    def snapshots(self, now: int) -> tuple[BreakerSnapshot, ...]:
        """All of them, by name.

        Args:
            now: boot nanoseconds.
        """
        return tuple(self._breakers[name].snapshot(now) for name in sorted(self._breakers))

    def _least_missed(self) -> str:
        untroubled = (name for name, one in self._breakers.items() if one.is_untroubled)
        return next(untroubled, None) or next(iter(self._breakers))


def describe(snapshots: Iterable[BreakerSnapshot]) -> list[dict[str, Any]]:
    """For ``nvpn show --json``: what JSON can say, times in seconds."""
    return [
        {
            "name": one.name,
            "state": one.state.value,
            "failures": one.failures,
            "retry_in_seconds": None if one.retry_in is None else round(one.retry_in / _SECOND, 3),
        }
        for one in snapshots
    ]
