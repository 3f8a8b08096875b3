"""Guests of one invitation share its key, and are told apart by nothing but what they ask.

The key is a peer of the tunnel for as long as anybody is to be answered under it.

What the protocol remembers of one is no use to the next: one whose clock is behind would look
like a replay of the other, and get no answer. So the key's peer is made anew after each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from nvpn.daemon.server.roster import Peers, changes_for
from nvpn.errors import NvpnError
from nvpn.model.changes import Plan, RemovePeer
from nvpn.model.clock import Now
from nvpn.model.keys import PublicKey
from nvpn.registry.model import InvitationMade, InvitationState
from nvpn.registry.registry import Registry

_log: Final = logging.getLogger(__name__)

LOOK_SECONDS: Final = 60.0
"""Between two looks for invitations that are over."""

ANSWERING_SECONDS: Final = 1.0
"""What an answer gets to arrive in before its session is gone."""


class Device(Peers, Protocol):
    """What of :class:`nvpn.backend.api.TunnelBackend` is used."""

    def has_peer(self, peer: PublicKey) -> bool:
        """Whether there is one now."""


class Guests:
    """Args:
    is_of_file: whether the configuration names a key: then it is a peer by that.
    spawn: starts a task of the server's.
    """

    def __init__(
        self,
        registry: Registry,
        backend: Device,
        *,
        loop: asyncio.AbstractEventLoop,
        is_of_file: Callable[[PublicKey], bool],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        clocks: Callable[[], Now],
    ) -> None:
        self._registry = registry
        self._backend = backend
        self._loop = loop
        self._is_of_file = is_of_file
        self._spawn = spawn
        self._clocks = clocks
        self._leaving: dict[PublicKey, asyncio.TimerHandle] = {}
        self._is_closed = False

    async def run(self) -> None:
        """For ever: show those out whose invitations are over."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._show_out()

    async def _show_out(self) -> None:
        gone = [
            one.public_key
            for one in self._registry.invitations()
            if self._backend.has_peer(one.public_key)
            and not self._is_of_file(one.public_key)
            and not self._registry.is_answered(one.public_key)
        ]
        if gone and not self._is_closed:
            await self._apply(tuple(map(RemovePeer, gone)))

    def enrolled(self, one_time: PublicKey) -> None:
        """Somebody has become a client by this invitation, and is being told so."""
        if one_time not in self._leaving and not self._is_closed:
            self._leaving[one_time] = self._loop.call_later(
                ANSWERING_SECONDS, self._leave, one_time
            )

    def close(self) -> None:
        """Make nothing anew any more, whoever is still being answered."""
        self._is_closed = True
        for timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()

    def _leave(self, one_time: PublicKey) -> None:
        del self._leaving[one_time]
        self._spawn(self._make_anew(one_time))

    async def _make_anew(self, one_time: PublicKey) -> None:
        wall = self._clocks().wall
        for one in self._registry.invitations():
            if one.public_key == one_time and one.state(wall) is InvitationState.OPEN:
                known = changes_for(InvitationMade(one_time, one.name), self._is_of_file)
                await self._apply((RemovePeer(one_time), *known))

    async def _apply(self, plan: Plan) -> None:
        try:
            await self._backend.apply(plan)
        except NvpnError as error:
            _log.info("%s", error)
