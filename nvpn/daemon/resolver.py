"""Finds the addresses behind the endpoints' names, without ever holding anything up.

At most eight look-ups run at once, on threads. A name that does not resolve is tried
again, less and less often, until it does or nobody wants it any more.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from nvpn.config.model import HostPort
from nvpn.daemon.threads import run_in_thread
from nvpn.model.changes import Plan, SetCandidates, SetEndpoint
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey

_log: Final = logging.getLogger(__name__)

AT_ONCE: Final = 8
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
_GROWTH: Final = 2.0


def look_up(wanted: HostPort) -> tuple[Endpoint, ...]:
    """The addresses of a name, in the order of RFC 6724. Blocks. Raises OSError."""
    found = socket.getaddrinfo(
        wanted.host, wanted.port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
    )
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

    Args:
        found: best first; never empty.
        before: the result that this one replaces; empty for none.
        current: where the peer is.
        boot: now, in nanoseconds; endpoints count as learned now.
    """
    first, *others = found
    return (
        SetEndpoint(peer, first._replace(learned_at=boot)),
        SetCandidates(peer, tuple(others)),
    )


class EndpointResolver:
    """Knows what each peer's configured endpoints resolve to.

    Args:
        on_found: called on the loop with each result that comes after :meth:`wait`; those
            before it are in :attr:`known` when it returns.
        spawn: starts a background task of the daemon.
        look_up: blocks on a thread; raises OSError for "not now".
    """

    def __init__(
        self,
        on_found: Callable[[PublicKey, tuple[Endpoint, ...]], None],
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        look_up: Callable[[HostPort], tuple[Endpoint, ...]] = look_up,
    ) -> None:
        self._on_found = on_found
        self._spawn = spawn
        self._look_up = look_up
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._wanted: dict[PublicKey, tuple[HostPort, ...]] = {}
        self._known: dict[PublicKey, tuple[Endpoint, ...]] = {}
        self._searches: dict[PublicKey, asyncio.Task[None]] = {}
        self._reasons: dict[PublicKey, str] = {}
        self._attempts: dict[PublicKey, asyncio.Event] = {}
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
        for peer, before in list(self._wanted.items()):
            if wanted.get(peer) != before:
                self._forget(peer)
        for peer, endpoints in wanted.items():
            if peer in self._wanted:
                continue
            self._wanted[peer] = endpoints
            if all(endpoint.is_literal for endpoint in endpoints):
                try:
                    self._known[peer] = self._look_up_all(endpoints)  # needs no asking
                    continue
                except OSError:
                    pass  # a zone whose interface is not there yet
            self._search(peer)

    async def wait(self, seconds: float) -> Mapping[PublicKey, str]:
        """Give the first look-up of each some time.

        Returns what is missing then, and why; it is searched for in the background.
        """
        first = [asyncio.ensure_future(event.wait()) for event in self._attempts.values()]
        if first:
            try:
                await asyncio.wait(first, timeout=seconds)
            finally:
                for waiting in first:
                    waiting.cancel()
        self._announces = True
        return {peer: self._reasons.get(peer, "no answer yet") for peer in self._searches}

    def look_again(self, peer: PublicKey) -> None:
        """The peer does not answer where we thought it is: its name may have moved."""
        if peer in self._wanted and peer not in self._searches:
            self._search(peer)

    def close(self) -> None:
        """Stop looking."""
        for peer in list(self._wanted):
            self._forget(peer)

    def _search(self, peer: PublicKey) -> None:
        self._attempts[peer] = asyncio.Event()
        self._searches[peer] = self._spawn(self._find(peer, self._wanted[peer]))

    def _forget(self, peer: PublicKey) -> None:
        del self._wanted[peer]
        self._known.pop(peer, None)
        self._reasons.pop(peer, None)
        self._attempts.pop(peer, None)
        search = self._searches.pop(peer, None)
        if search is not None:
            search.cancel()

    def _look_up_all(self, wanted: tuple[HostPort, ...]) -> tuple[Endpoint, ...]:
        """What can be found now. Raises OSError if that is nothing."""
        found: list[Endpoint] = []
        failure = OSError("no address")
        for endpoint in wanted:
            try:
                found += self._look_up(endpoint)
            except OSError as error:
                failure = error
        if not found:
            raise failure
        return tuple(dict.fromkeys(found))

    async def _find(self, peer: PublicKey, wanted: tuple[HostPort, ...]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._slots:
                    found = await run_in_thread(lambda: self._look_up_all(wanted), name="resolver")
                break
            except OSError as error:
                reason = _describe(error)
                if self._reasons.get(peer) != reason:
                    _log.warning(
                        "%s does not resolve; trying on in the background",
                        " and ".join(endpoint.host for endpoint in wanted),
                        extra={"peer": peer.short, "reason": reason},
                    )
                self._reasons[peer] = reason
            self._attempts[peer].set()
            # Jitter: a hundred names must not come back to the resolver all at once.
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(pause * _GROWTH, LONGEST_PAUSE)
        self._reasons.pop(peer, None)
        del self._searches[peer]
        self._known[peer] = found
        self._attempts.pop(peer).set()
        if self._announces:
            self._on_found(peer, found)


def _describe(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
