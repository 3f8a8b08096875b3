"""Finds the addresses behind the endpoints' names, without ever holding anything up.

Each name has a search of its own, however many peers are behind it: it looks the name up,
tells what is new, and looks again when the name's time to live has passed, when a peer falls
silent, or, less and less often, while it does not resolve. At most eight look-ups run at once,
on threads; a resolver that hangs costs one of them. An address that was found stays until a
later look-up of its name finds others: a failed one changes nothing.

A name whose servers fail again and again is left alone for a while by a breaker of its own:
one that is broken takes nothing from others. That a name does not exist is an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from dataclasses import dataclass
from random import uniform
from typing import Any, Final, TypeVar

from nvpn.config.model import HostPort
from nvpn.daemon.name_ttl import current_ttl
from nvpn.daemon.places import MAX_PLACES, arrange, look_up
from nvpn.daemon.threads import run_in_thread
from nvpn.model.clock import SECOND, boot_ns
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.resilience.backoff import Backoff
from nvpn.resilience.breaker import Attempt
from nvpn.resilience.policy import RetryPolicy
from nvpn.resilience.registry import Breakers
from nvpn.resilience.within import within

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")

AT_ONCE: Final = 8

SHORTEST_TTL: Final = 30.0
LONGEST_TTL: Final = 86_400.0
UNKNOWN_TTL: Final = 300.0
"""Seconds between look-ups of a name whose time to live nobody tells."""

_AFTER_EXPIRY: Final = 1.0
"""Seconds after which whoever keeps answers has let go of one that expires now."""

_ANSWERS: Final = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)
)
"""Errors by which the name servers say that there is nothing, not that they fail."""


class _Search:
    """One endpoint, what is known of it, and the task that looks."""

    def __init__(self, place: HostPort) -> None:
        self.place: Final = place
        self.peers: list[PublicKey] = []
        self.found: tuple[Endpoint, ...] = ()
        self.task: asyncio.Task[None] | None = None
        self.has_tried = asyncio.Event()
        self.wake = asyncio.Event()
        self.is_failing = False
        self.reason = ""

    @property
    def may_change(self) -> bool:
        """Whether it may come to mean other addresses: a zone, too, is a name."""
        return not self.place.is_literal or "%" in self.place.host


class EndpointResolver:
    """Knows what each peer's configured endpoints resolve to.

    Args:
        on_found: called on the loop with each result after :meth:`wait` that has other
            places than the one before; those until then are in :attr:`known` when it returns.
        spawn: starts a background task of the daemon.
        breakers: where each name has its breaker; its policies say how soon one that does not
            resolve is looked up again, for ever.
        look_up: blocks on a thread; raises OSError for "not now".
        ask_ttl: blocks on a thread; seconds that a name's addresses are good for, or None.
        clock: boot nanoseconds.
        random: gives that many random bytes.
    """

    def __init__(
        self,
        on_found: Callable[[PublicKey, tuple[Endpoint, ...]], None],
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        breakers: Breakers,
        look_up: Callable[[HostPort], tuple[Endpoint, ...]] = look_up,
        ask_ttl: Callable[[str], int | None] = current_ttl,
        clock: Callable[[], int] = boot_ns,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._on_found = on_found
        self._spawn = spawn
        self._breakers = breakers
        self._look_up = look_up
        self._ask_ttl = ask_ttl
        self._clock = clock
        self._random = random
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._wanted: dict[PublicKey, tuple[HostPort, ...]] = {}
        self._searches: dict[HostPort, _Search] = {}
        self._known: dict[PublicKey, tuple[Endpoint, ...]] = {}
        self._told_of_too_many: set[PublicKey] = set()
        self._announces = True

    @property
    def known(self) -> Mapping[PublicKey, tuple[Endpoint, ...]]:
        """What is resolved by now, best first; peers of whom nothing is are missing."""
        return self._known

    def want(self, wanted: Mapping[PublicKey, tuple[HostPort, ...]]) -> None:
        """These, and no others: new ones are looked up, unchanged ones left as they are.

        Args:
            wanted: where each peer may be, best first; never empty.
        """
        self._announces = False
        before, self._wanted = self._wanted, dict(wanted)
        followers: dict[HostPort, list[PublicKey]] = {}
        for peer, places in wanted.items():
            for place in dict.fromkeys(places):
                followers.setdefault(place, []).append(peer)
        self._stop_searching(self._searches.keys() - followers.keys())
        for place, peers in followers.items():
            search = self._searches.get(place) or self._begin_search(place)
            search.peers = peers
        for peer in {**before, **wanted}:
            if before.get(peer) != wanted.get(peer):
                self._known.pop(peer, None)
                self._told_of_too_many.discard(peer)
                if peer in wanted:
                    self._use(peer)

    async def wait(self, seconds: float) -> Mapping[PublicKey, str]:
        """Give the first look-up of each some time.

        Returns of whom nothing is known then, and why; it is searched for in the background.
        """
        first = [
            asyncio.ensure_future(search.has_tried.wait())
            for search in self._searches.values()
            if not search.has_tried.is_set()
        ]
        if first:
            try:
                await asyncio.wait(first, timeout=seconds)
            finally:
                for waiting in first:
                    waiting.cancel()
        self._announces = True
        return {
            peer: self._why_unknown(places)
            for peer, places in self._wanted.items()
            if peer not in self._known
        }

    def look_again(self, peer: PublicKey) -> None:
        """The peer does not answer where we thought it is: its names may have moved."""
        for place in self._wanted.get(peer, ()):
            search = self._searches[place]
            # One that fails is looked up again as it is, and not sooner: a silent peer says
            # so every few seconds.
            if not search.is_failing:
                search.wake.set()

    def network_changed(self) -> None:
        """What did not resolve may do so now."""
        for search in self._searches.values():
            if search.is_failing:
                if not search.place.is_literal:
                    self._breakers.retry_now(_breaker_name(search.place), self._clock())
                search.wake.set()

    def close(self) -> None:
        """Stop looking."""
        self._wanted = {}
        self._known.clear()
        self._stop_searching(set(self._searches))

    # --- one search ---------------------------------------------------------------------

    def _begin_search(self, place: HostPort) -> _Search:
        search = self._searches[place] = _Search(place)
        if place.is_literal:  # needs no asking
            # It may have a zone whose interface is not there yet.
            with contextlib.suppress(OSError):
                search.found = self._look_up(place)
        if search.may_change:
            search.task = self._spawn(self._follow(search))
        else:
            search.has_tried.set()
        return search

    def _stop_searching(self, places: Set[HostPort]) -> None:
        for place in places:
            search = self._searches.pop(place)
            if search.task is not None:
                search.task.cancel()
        in_use = {place.host for place in self._searches} if places else set()
        for place in places:
            if place.host not in in_use:
                self._breakers.forget(_breaker_name(place))

    async def _follow(self, search: _Search) -> None:
        """Look, and look again."""
        backoff = Backoff(self._retry_policy, self._random)
        while True:
            search.wake.clear()
            search.is_failing = not await self._look(search)
            search.has_tried.set()
            if search.is_failing:
                backoff.policy = self._retry_policy  # a reload may have changed it
                delay = backoff.next_delay() or 0
                pause: float | None = max(delay, self._rest(search.place)) / SECOND
            else:
                backoff.reset()
                pause = await self._in_slot(functools.partial(self._time_to_live, search.place))
                if pause is not None:
                    # A hundred names must not come back to the resolver all at once.
                    pause *= uniform(0.9, 1.1)
            with contextlib.suppress(asyncio.TimeoutError):
                await within(pause, search.wake.wait())
                backoff.reset()

    @property
    def _retry_policy(self) -> RetryPolicy:
        return self._breakers.policies.retry.without_limit()

    def _rest(self, place: HostPort) -> int:
        """Nanoseconds for which the name is left alone."""
        if place.is_literal:
            return 0
        return self._breakers.get(_breaker_name(place)).retry_in(self._clock())

    async def _look(self, search: _Search) -> bool:
        """Look up once; whether it was found."""
        attempt = None
        if not search.place.is_literal:
            attempt = self._breakers.get(_breaker_name(search.place)).attempt(self._clock())
            if attempt is None:
                return False
        try:
            search.found = await self._ask(search.place, attempt)
        except OSError as error:
            reason = _describe(error)
            if reason != search.reason:
                search.reason = reason
                _log.warning(
                    "%s does not resolve; trying on in the background",
                    search.place.host,
                    extra={"peer": search.peers[0].short, "reason": reason},
                )
            return False
        search.reason = ""
        for peer in search.peers:
            self._use(peer)
        return True

    async def _ask(self, place: HostPort, attempt: Attempt | None) -> tuple[Endpoint, ...]:
        """The addresses; the breaker hears how it went. Raises OSError."""
        try:
            found = await self._in_slot(functools.partial(self._look_up, place))
        except BaseException as error:
            if attempt is not None:
                if not isinstance(error, OSError):
                    attempt.abandoned()
                elif _is_answer(error):
                    attempt.succeeded(self._clock())
                else:
                    attempt.failed(self._clock())
            raise
        if attempt is not None:
            attempt.succeeded(self._clock())
        return found

    # --- what was found -------------------------------------------------------------------

    def _use(self, peer: PublicKey) -> None:
        """Tell what was found, if that is news. The order alone is none: servers shuffle."""
        addresses = [self._searches[place].found for place in self._wanted[peer]]
        places = arrange(addresses)
        if not places:
            return
        self._tell_of_too_many(peer, len({one for some in addresses for one in some}))
        before = self._known.get(peer, ())
        if {place.remote for place in places} == {place.remote for place in before}:
            return
        self._known[peer] = places
        if self._announces:
            self._on_found(peer, places)

    def _tell_of_too_many(self, peer: PublicKey, count: int) -> None:
        if count > MAX_PLACES and peer not in self._told_of_too_many:
            self._told_of_too_many.add(peer)
            _log.info(
                "%d addresses; the first %d are used",
                count,
                MAX_PLACES,
                extra={"peer": peer.short},
            )

    def _why_unknown(self, places: Sequence[HostPort]) -> str:
        reasons = [self._searches[place].reason for place in places]
        return " and ".join(filter(None, dict.fromkeys(reasons))) or "no answer yet"

    async def _in_slot(self, call: Callable[[], _T]) -> _T:
        """The call's result, from one of the eight threads.

        Cancelling leaves the thread to itself, and its slot with it until it is done.
        """
        await self._slots.acquire()
        running = asyncio.ensure_future(run_in_thread(lambda: _attempt(call), name="resolver"))
        running.add_done_callback(self._free_slot)
        result = await asyncio.shield(running)
        if isinstance(result, _Failed):
            raise result.error
        return result

    def _free_slot(self, done: asyncio.Future[Any]) -> None:
        self._slots.release()

    def _time_to_live(self, place: HostPort) -> float | None:
        """Seconds until it should be looked up again; None for a zone: nobody can tell."""
        if place.is_literal:
            return None
        ttl = self._ask_ttl(place.host)
        if ttl is None:
            return UNKNOWN_TTL
        return min(max(ttl + _AFTER_EXPIRY, SHORTEST_TTL), LONGEST_TTL)


@dataclass(frozen=True, slots=True)
class _Failed:
    """A failure that nobody may be waiting for any more: a value, lest the loop complains."""

    error: OSError


def _attempt(call: Callable[[], _T]) -> _T | _Failed:
    try:
        return call()
    except OSError as error:
        return _Failed(error)


def _describe(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _is_answer(error: OSError) -> bool:
    """Whether the name servers work, and what they say is no. Errors of our own are."""
    return error.errno is None or error.errno in _ANSWERS


def _breaker_name(place: HostPort) -> str:
    return f"dns {place.host}"
