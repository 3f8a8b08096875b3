"""Circuit breakers: a service that failed several times in a row is left alone for a while.

::

    CLOSED ----- failure_threshold failures in a row -----> OPEN
    OPEN ------- reset_timeout has passed ----------------> HALF_OPEN
    HALF_OPEN -- a probe fails ---------------------------> OPEN
    HALF_OPEN -- success_threshold probes succeed --------> CLOSED

Whoever wants to use the service asks for an :class:`Attempt` first, and says how it went. An
attempt belongs to the state in which it was given: what it says after that state has ended
is about a past that nobody asks for any more, and changes nothing. So an old call that times
out does not open what has closed since, and gives back no slot that another probe holds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nvpn.resilience.policy import BreakerPolicy


class BreakerState(enum.Enum):
    """Whether a service is used. The value is the name shown to operators."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """A breaker at one moment.

    Args:
        failures: in a row, the last ones.
        openings: how often it opened.
        retry_in: nanoseconds until the service is tried again; None unless open.
    """

    name: str
    state: BreakerState
    failures: int
    openings: int
    retry_in: int | None


class Breaker:
    """Says whether a service is worth an attempt, from how the last ones went.

    Every ``now`` is boot nanoseconds. A clock that jumps forwards ends a rest early, one that
    jumps backwards starts it again: neither makes it last longer than the policy says.

    Args:
        name: of the service, for people: ``etcd``, ``dns vpn.example``.
        on_change: told after each change of state; that a rest is over is told by the first
            probe.
    """

    __slots__ = (
        "_era",
        "_failures",
        "_on_change",
        "_opened_at",
        "_openings",
        "_probe",
        "_probed_at",
        "_state",
        "_successes",
        "name",
        "policy",
    )

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        *,
        on_change: Callable[[BreakerSnapshot], None] | None = None,
    ) -> None:
        self.name: Final = name
        self.policy = policy
        self._on_change: Final = on_change
        self._state = BreakerState.CLOSED
        self._era = 0
        self._failures = 0
        self._successes = 0
        self._openings = 0
        self._opened_at = 0
        # The one that is under way while it is half open, and when it began.
        self._probe: Attempt | None = None
        self._probed_at = 0

    @property
    def is_untroubled(self) -> bool:
        """Whether nothing would be lost if this were a new breaker."""
        return self._state is BreakerState.CLOSED and not self._failures

    def attempt(self, now: int) -> Attempt | None:
        """Leave to use the service once; None: do not. Say how it went, whatever happens."""
        if self._state is BreakerState.OPEN and not self._retry_in(now):
            self._enter(BreakerState.HALF_OPEN, now)
        if self._state is BreakerState.OPEN:
            return None
        given = Attempt(self, self._era)
        if self._state is BreakerState.HALF_OPEN:
            if self._probe is not None and not self._is_lost(now):
                return None
            self._probe, self._probed_at = given, now
        return given

    def retry_in(self, now: int) -> int:
        """Nanoseconds until :meth:`attempt` may give leave again; 0 unless open."""
        return self._retry_in(now) if self._state is BreakerState.OPEN else 0

    def retry_now(self, now: int) -> None:
        """Something changed that may have helped: a service left alone may be probed."""
        if self._state is BreakerState.OPEN:
            self._enter(BreakerState.HALF_OPEN, now)

    def snapshot(self, now: int) -> BreakerSnapshot:
        """What it is like now; one whose rest is over is half open."""
        state, retry_in = self._state, None
        if state is BreakerState.OPEN:
            retry_in = self._retry_in(now) or None
            state = BreakerState.OPEN if retry_in else BreakerState.HALF_OPEN
        return BreakerSnapshot(
            self.name,
            state,
            self._failures,
            self._openings,
            retry_in,
        )

    # --- what attempts tell -----------------------------------------------------------

    def _succeeded(self, attempt: Attempt, now: int) -> None:
        if attempt.era != self._era:
            return
        self._abandoned(attempt)
        if self._state is BreakerState.CLOSED:
            self._failures = 0
            return
        self._successes += 1
        if self._successes >= self.policy.success_threshold:
            self._enter(BreakerState.CLOSED, now)

    def _failed(self, attempt: Attempt, now: int) -> None:
        if attempt.era != self._era:
            return
        self._failures += 1
        if (
            self._state is BreakerState.HALF_OPEN
            or self._failures >= self.policy.failure_threshold
        ):
            self._enter(BreakerState.OPEN, now)

    def _abandoned(self, attempt: Attempt) -> None:
        if attempt is self._probe:
            self._probe = None

    # --- states -----------------------------------------------------------------------

    def _enter(self, state: BreakerState, now: int) -> None:
        self._state = state
        self._era += 1
        self._successes = 0
        self._probe = None
        if state is BreakerState.OPEN:
            self._openings += 1
            self._opened_at = now
        elif state is BreakerState.CLOSED:
            self._failures = 0
        if self._on_change is not None:
            self._on_change(self.snapshot(now))

    def _retry_in(self, now: int) -> int:
        # A clock that was set back must not prolong the rest.
        self._opened_at = min(self._opened_at, now)
        return max(0, self._opened_at + self.policy.reset_timeout - now)

    def _is_lost(self, now: int) -> bool:
        """A probe that nobody hears of any more keeps its slot no longer than a rest takes.

        What it says after all still counts: it may be that the service is that slow.
        """
        return not 0 <= now - self._probed_at < self.policy.reset_timeout


class Attempt:
    """Leave to use a service once. How it went is said once; what is said later is ignored."""

    __slots__ = ("_breaker", "era")

    def __init__(self, breaker: Breaker, era: int) -> None:
        self._breaker: Breaker | None = breaker
        self.era: Final = era

    def succeeded(self, now: int) -> None:
        """The service answered, be it that it refused."""
        if (breaker := self._end()) is not None:
            breaker._succeeded(self, now)

    def failed(self, now: int) -> None:
        """The service did not answer, or said that it cannot."""
        if (breaker := self._end()) is not None:
            breaker._failed(self, now)

    def abandoned(self) -> None:
        """Nobody knows: it was cancelled, or something of our own went wrong."""
        if (breaker := self._end()) is not None:
            breaker._abandoned(self)

    def _end(self) -> Breaker | None:
        breaker, self._breaker = self._breaker, None
        return breaker
