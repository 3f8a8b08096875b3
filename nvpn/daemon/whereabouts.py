"""Where a tunnel's peers are: from names in a configuration to endpoints in the backend."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from nvpn.backend.api import TunnelBackend
from nvpn.config.model import HostPort, TunnelConfig
from nvpn.daemon.places import changes_for
from nvpn.daemon.resolver import EndpointResolver
from nvpn.errors import NvpnError
from nvpn.model.changes import Plan, SetCandidates, SetEndpoint
from nvpn.model.clock import boot_ns
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.resilience.registry import Breakers

_log: Final = logging.getLogger(__name__)

RESOLVE_SECONDS: Final = 3.0
"""How long a start or reload waits for names; slower ones come in when they do."""

_GATHERING_SECONDS: Final = 0.2
"""Many names may resolve at once, as when a network comes: all paths are looked at once, then."""


class Whereabouts:
    """Asks the resolver, and tells the backend what it finds later than it was asked.

    Args:
        spawn: starts a background task of the daemon.
        on_moved: called when paths to peers may be others than before.
        breakers: the tunnel's; names that do not resolve are looked up again by its policies.
    """

    def __init__(
        self,
        backend: TunnelBackend,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_moved: Callable[[], None],
        breakers: Breakers,
    ) -> None:
        self._backend = backend
        self._spawn = spawn
        self._on_moved = on_moved
        self._resolver = EndpointResolver(self._found, spawn=spawn, breakers=breakers)
        # What the resolver knew when it was last told to the backend.
        self._placed: dict[PublicKey, tuple[Endpoint, ...]] = {}
        self._telling: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stop looking."""
        self._resolver.close()
        if self._telling is not None:
            self._telling.cancel()

    async def want(self, config: TunnelConfig) -> list[str]:
        """Look for the endpoints of these peers and no others, and wait a moment for them.

        Returns sentences about those that are not found yet.
        """
        self._resolver.want(_endpoints(config))
        missing = await self._resolver.wait(RESOLVE_SECONDS)
        return [
            f"{peer.label}: {' and '.join(place.host for place in peer.endpoints)}"
            " does not resolve yet"
            f" ({missing[peer.public_key]}); trying on in the background"
            for peer in config.peers
            if peer.public_key in missing
        ]

    async def want_again(self, config: TunnelConfig) -> None:
        """Back to a configuration that was in force, without waiting."""
        self._resolver.want(_endpoints(config))
        await self._resolver.wait(0)

    @property
    def best(self) -> dict[PublicKey, Endpoint]:
        """The first choice for every peer that has been found."""
        return {peer: found[0] for peer, found in self._resolver.known.items()}

    @property
    def addresses(self) -> list[bytes]:
        """Everywhere that a peer may be, as 4 or 16 bytes."""
        return [endpoint.address for found in self._resolver.known.values() for endpoint in found]

    def plan(self) -> Plan:
        """Where the peers may be, as far as that is another place than was told.

        The first choice is among the places: a peer that has left it may come back.
        """
        before, after = self._placed, self._resolver.known
        return tuple(
            SetCandidates(peer, after.get(peer, ()))
            for peer in {**before, **after}
            if before.get(peer) != after.get(peer)
        )

    def place(self, added: Iterable[PublicKey]) -> Plan:
        """Where peers are that have just been added, as far as that is known."""
        known, boot = self._resolver.known, boot_ns()
        plans = (
            changes_for(peer, known[peer], before=(), current=None, boot=boot)
            for peer in added
            if peer in known
        )
        return tuple(itertools.chain.from_iterable(plans))

    def told(self) -> None:
        """The backend has what is known now."""
        self._placed = dict(self._resolver.known)

    def look_again(self, peer: PublicKey) -> None:
        """The peer does not answer where we thought it is: its name may have moved."""
        self._resolver.look_again(peer)

    def network_changed(self) -> None:
        """What did not resolve may do so now."""
        self._resolver.network_changed()

    def _found(self, peer: PublicKey, found: tuple[Endpoint, ...]) -> None:
        # At once: a reload may come into force before the task's turn, and know of it, too.
        before, self._placed[peer] = self._placed.get(peer, ()), found
        self._spawn(self._use(peer, found, before))

    async def _use(
        self, peer: PublicKey, found: tuple[Endpoint, ...], before: tuple[Endpoint, ...]
    ) -> None:
        """A name that resolved late, or was looked up again after its peer fell silent."""
        where = " ".join(map(str, found))
        _log.info("endpoint resolved", extra={"peer": peer.short, "endpoint": where})
        plan = changes_for(
            peer,
            found,
            before=before,
            current=self._backend.endpoint_of(peer),
            boot=boot_ns(),
        )
        try:
            await self._backend.apply(plan)
            if before and any(isinstance(change, SetEndpoint) for change in plan):
                self._backend.initiate(peer)
        except NvpnError as error:
            _log.warning("%s", error, extra={"peer": peer.short})
            return
        if self._telling is None:
            self._telling = self._spawn(self._tell_moved())

    async def _tell_moved(self) -> None:
        await asyncio.sleep(_GATHERING_SECONDS)
        self._telling = None
        try:
            self._on_moved()
        except NvpnError as error:
            _log.warning("%s", error)


def _endpoints(config: TunnelConfig) -> dict[PublicKey, tuple[HostPort, ...]]:
    return {peer.public_key: peer.endpoints for peer in config.peers if peer.endpoints}
