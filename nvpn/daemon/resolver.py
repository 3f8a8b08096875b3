"""Finds the addresses behind the endpoints' names, without ever holding anything up.

Each peer has a search of its own: it looks all the peer's endpoints up, tells what is new,
and looks again when the names' time to live has passed, when the peer falls silent, or, less
and less often, while a name does not resolve. At most eight look-ups run at once, on threads;
a resolver that hangs costs one of them. An address that was found stays until a later look-up
of its name finds others: a failed one changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import random
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from nvpn.config.model import HostPort
from nvpn.daemon.name_ttl import current_ttl
from nvpn.daemon.threads import run_in_thread
from nvpn.model.changes import Plan, SetCandidates, SetEndpoint
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")

AT_ONCE: Final = 8
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
_GROWTH: Final = 2.0

MAX_PLACES: Final = 8
"""Addresses of one peer that are used."""

SHORTEST_TTL: Final = 30.0
LONGEST_TTL: Final = 86_400.0
UNKNOWN_TTL: Final = 300.0
"""Seconds between look-ups of a name whose time to live nobody tells."""

_AFTER_EXPIRY: Final = 1.0
"""Seconds after which whoever keeps answers has let go of one that expires now."""


def look_up(wanted: HostPort) -> tuple[Endpoint, ...]:
    """The addresses of a name, in the order of RFC 6724. Blocks. Raises OSError."""
    try:
        found = socket.getaddrinfo(
            wanted.host, wanted.port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
        )
    except UnicodeError:
        raise OSError("not a name that can be looked up") from None
    addresses = tuple(
        Endpoint.from_sockaddr(sockaddr)
        for family, _, _, _, sockaddr in found
        if family in (socket.AF_INET, socket.AF_INET6)
    )
    if not addresses:
        raise OSError("no address")
    return addresses


def changes_for(
    peer: PublicKey,
    found: tuple[Endpoint, ...],
    *,
    before: tuple[Endpoint, ...],
    current: Endpoint | None,
    boot: int,
) -> Plan:
    """What a new result of a look-up changes about a running peer.

    All that was found are places to look for it. Only a peer that is nowhere, or whose own
    address has gone from its name, is moved: one that roamed knows better than its name.

    Args:
        found: best first; never empty.
        before: the result that this one replaces; empty for none.
        current: where the peer is.
        boot: now, in nanoseconds; endpoints count as learned now.
    """
    candidates = SetCandidates(peer, found)
    if current is not None:
        was_there = any(place.remote == current.remote for place in before)
        is_there = any(place.remote == current.remote for place in found)
        if is_there or not was_there:
            return (candidates,)
    return (SetEndpoint(peer, found[0]._replace(learned_at=boot)), candidates)


def arrange(found: Sequence[tuple[Endpoint, ...]]) -> tuple[Endpoint, ...]:
    """The places to use, best first, of what was found for each endpoint of a peer.

    Endpoints stay in their order; among the addresses of one the families take turns, the
    better one first (RFC 8305, section 4). If they are too many, each endpoint gives its
    best ones.
    """
    taking_turns = [_alternate(addresses) for addresses in found]
    by_rank = itertools.chain.from_iterable(itertools.zip_longest(*taking_turns))
    ranked = dict.fromkeys(place.remote for place in by_rank if place is not None)
    chosen = set(itertools.islice(ranked, MAX_PLACES))
    places: dict[tuple[bytes, int, int, int], Endpoint] = {}
    for place in itertools.chain.from_iterable(taking_turns):
        if place.remote in chosen:
            places.setdefault(place.remote, place)
    return tuple(places.values())


def _alternate(addresses: tuple[Endpoint, ...]) -> list[Endpoint]:
    if not addresses:
        return []
    first = addresses[0].version
    halves = (
        [one for one in addresses if one.version == first],
        [one for one in addresses if one.version != first],
    )
    turns = itertools.chain.from_iterable(itertools.zip_longest(*halves))
    return [one for one in turns if one is not None]


class _Search:
    """One peer's endpoints, what is known of them, and the task that looks.

    ``names`` is what may come to mean other addresses: a zone, too, is a name.
    """

    def __init__(self, wanted: tuple[HostPort, ...]) -> None:
        self.wanted: Final = wanted
        self.names: Final = tuple(
            place for place in wanted if not place.is_literal or "%" in place.host
        )
        self.found: dict[HostPort, tuple[Endpoint, ...]] = {}
        self.task: asyncio.Task[None] | None = None
        self.has_tried = asyncio.Event()
        self.again = asyncio.Event()
        self.reason = ""
        self.has_told_of_too_many = False


class EndpointResolver:
    """Knows what each peer's configured endpoints resolve to.

    Args:
        on_found: called on the loop with each result after :meth:`wait` that has other
            places than the one before; those until then are in :attr:`known` when it returns.
        spawn: starts a background task of the daemon.
        look_up: blocks on a thread; raises OSError for "not now".
        ask_ttl: blocks on a thread; seconds that a name's addresses are good for, or None.
    """

    def __init__(
        self,
        on_found: Callable[[PublicKey, tuple[Endpoint, ...]], None],
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        look_up: Callable[[HostPort], tuple[Endpoint, ...]] = look_up,
        ask_ttl: Callable[[str], int | None] = current_ttl,
    ) -> None:
        self._on_found = on_found
        self._spawn = spawn
        self._look_up = look_up
        self._ask_ttl = ask_ttl
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._searches: dict[PublicKey, _Search] = {}
        self._known: dict[PublicKey, tuple[Endpoint, ...]] = {}
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
        for peer, search in list(self._searches.items()):
            if wanted.get(peer) != search.wanted:
                self._forget(peer)
        for peer, places in wanted.items():
            if peer in self._searches:
                continue
            search = self._searches[peer] = _Search(places)
            for place in places:
                if place.is_literal:  # needs no asking
                    # It may have a zone whose interface is not there yet.
                    with contextlib.suppress(OSError):
                        search.found[place] = self._look_up(place)
            self._use(peer, search)
            if search.names:
                search.task = self._spawn(self._follow(peer, search))
            else:
                search.has_tried.set()

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
            peer: search.reason or "no answer yet"
            for peer, search in self._searches.items()
            if peer not in self._known
        }

    def look_again(self, peer: PublicKey) -> None:
        """The peer does not answer where we thought it is: its name may have moved."""
        search = self._searches.get(peer)
        if search is not None:
            search.again.set()

    def close(self) -> None:
        """Stop looking."""
        for peer in list(self._searches):
            self._forget(peer)

    def _forget(self, peer: PublicKey) -> None:
        search = self._searches.pop(peer)
        self._known.pop(peer, None)
        if search.task is not None:
            search.task.cancel()

    # --- one search ---------------------------------------------------------------------

    async def _follow(self, peer: PublicKey, search: _Search) -> None:
        """Look, and look again."""
        pause = FIRST_PAUSE
        while True:
            search.again.clear()
            failed = await self._look(peer, search)
            search.has_tried.set()
            if failed:
                # Jitter: a hundred names must not come back to the resolver all at once.
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(pause * _GROWTH, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            ttl = await self._in_slot(functools.partial(self._shortest_ttl, search.names))
            if ttl is not None:
                ttl *= random.uniform(0.9, 1.1)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(search.again.wait(), ttl)

    async def _look(self, peer: PublicKey, search: _Search) -> bool:
        """Look up what may have changed, one after the other; whether any was not found."""
        failures: dict[str, str] = {}
        for place in search.names:
            try:
                found = await self._in_slot(functools.partial(self._look_up, place))
            except OSError as error:
                failures[place.host] = _describe(error)
                continue
            search.found[place] = found
            self._use(peer, search)
        reason = " and ".join(dict.fromkeys(failures.values()))
        if failures and reason != search.reason:
            _log.warning(
                "%s does not resolve; trying on in the background",
                " and ".join(failures),
                extra={"peer": peer.short, "reason": reason},
            )
        search.reason = reason
        return bool(failures)

    def _use(self, peer: PublicKey, search: _Search) -> None:
        """Tell what was found, if that is news. The order alone is none: servers shuffle."""
        addresses = [search.found.get(place, ()) for place in search.wanted]
        places = arrange(addresses)
        if not places:
            return
        self._tell_of_too_many(peer, search, len({one for some in addresses for one in some}))
        before = self._known.get(peer, ())
        if {place.remote for place in places} == {place.remote for place in before}:
            return
        self._known[peer] = places
        if self._announces:
            self._on_found(peer, places)

    def _tell_of_too_many(self, peer: PublicKey, search: _Search, count: int) -> None:
        if count > MAX_PLACES and not search.has_told_of_too_many:
            search.has_told_of_too_many = True
            _log.info(
                "%d addresses; the first %d are used",
                count,
                MAX_PLACES,
                extra={"peer": peer.short},
            )

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

    def _shortest_ttl(self, names: Sequence[HostPort]) -> float | None:
        """Seconds until some name should be looked up again; None when only zones may change."""
        told = [self._ask_ttl(place.host) for place in names if not place.is_literal]
        ttls = [
            UNKNOWN_TTL
            if ttl is None
            else min(max(ttl + _AFTER_EXPIRY, SHORTEST_TTL), LONGEST_TTL)
            for ttl in told
        ]
        return min(ttls, default=None)


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
