"""Runs ``on_connect`` and ``on_disconnect`` commands when peers come and go.

What a peer's hooks do is done in the order in which it came and went, one after the other;
those of several peers run beside each other. Nothing waits for them: they come later when
there are many, and beyond a bound they do not come at all, which is said. One peer that comes
and goes and comes takes no other's place: beyond some of its own, a coming and the going after
it are left out together, so that what ran last still tells how it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from nvpn.config.model import Hooks
from nvpn.daemon.events import Event, PeerConnected, PeerDisconnected
from nvpn.daemon.hooks import run_hooks
from nvpn.errors import PlatformError
from nvpn.model.keys import PublicKey

_log: Final = logging.getLogger(__name__)

AT_ONCE: Final = 8
WAITING: Final = 1000
WAITING_OF_ONE: Final = 8
HOOK_SECONDS: Final = 60.0

_Moment = PeerConnected | PeerDisconnected


class ConnectionHooks:
    """Listens to a bus: give it :meth:`hear`.

    Args:
        name: of the interface.
        hooks: as configured now: a reload may bring others.
        show: gets what they write.
        namespace: descriptor of the interface's network namespace; -1 for ours.
    """

    def __init__(
        self,
        name: str,
        *,
        loop: asyncio.AbstractEventLoop,
        hooks: Callable[[], Hooks],
        show: Callable[[str], None],
        namespace: int = -1,
    ) -> None:
        self._name = name
        self._loop = loop
        self._hooks = hooks
        self._show = show
        self._namespace = namespace
        # Of each peer that waits, in the order in which they began to; none is empty.
        self._waiting: dict[PublicKey, deque[_Moment]] = {}
        self._count = 0
        self._running: dict[PublicKey, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._has_warned = False
        self._is_closed = False

    def hear(self, event: Event) -> None:
        """Something happened. Only comings and goings count."""
        if not isinstance(event, PeerConnected | PeerDisconnected):
            return
        if self._is_closed or not self._commands(event):
            return
        own = self._waiting.get(event.peer, ())
        if len(own) >= WAITING_OF_ONE:
            self._leave_out(event)
        elif self._count >= WAITING:
            self._warn_of_losses()
        else:
            self._count += 1
            self._waiting.setdefault(event.peer, deque()).append(event)
            self._idle.clear()
            self._begin()

    async def finish(self, seconds: float) -> None:
        """Wait until all that was heard is done, so long at most."""
        if self._idle.is_set():
            return
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except asyncio.TimeoutError:
            left = self._count + len(self._running)
            _log.warning("%d on_connect and on_disconnect hooks were not finished", left)

    async def close(self) -> None:
        """End what runs, and begin nothing more."""
        self._is_closed = True
        self._waiting.clear()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _commands(self, event: _Moment) -> tuple[str, ...]:
        hooks = self._hooks()
        return hooks.on_connect if isinstance(event, PeerConnected) else hooks.on_disconnect

    def _leave_out(self, event: _Moment) -> None:
        own = self._waiting[event.peer]
        if type(own[-1]) is not type(event):
            own.pop()
            self._count -= 1
        self._warn_of_losses()

    def _begin(self) -> None:
        """Start as many as may run, of peers of which none runs."""
        if self._is_closed:
            return
        ready = [peer for peer in self._waiting if peer not in self._running]
        for peer in ready[: AT_ONCE - len(self._running)]:
            event = self._waiting[peer].popleft()
            self._count -= 1
            if not self._waiting[peer]:
                del self._waiting[peer]
            task = self._loop.create_task(self._run(event))
            self._running[peer] = task
            task.add_done_callback(lambda task, peer=peer: self._done(peer))  # type: ignore[misc]
        if not self._running:
            self._idle.set()
            self._has_warned = False

    def _done(self, peer: PublicKey) -> None:
        del self._running[peer]
        # Who waits longer comes first.
        if peer in self._waiting:
            self._waiting[peer] = self._waiting.pop(peer)
        self._begin()

    async def _run(self, event: _Moment) -> None:
        """One that fails keeps none of the others from running."""
        kind = "on_connect" if isinstance(event, PeerConnected) else "on_disconnect"
        for number, command in enumerate(self._commands(event), 1):
            try:
                await run_hooks(
                    kind,
                    (command,),
                    self._name,
                    first=number,
                    show=self._show,
                    # A command may hold a secret, which the log is not to have.
                    announce=_keep,
                    limit=HOOK_SECONDS,
                    namespace=self._namespace,
                    variables=self._variables(event),
                )
            except PlatformError as error:
                _log.warning("%s", error)

    def _variables(self, event: _Moment) -> dict[str, str]:
        return {
            "NVPN_INTERFACE": self._name,
            "NVPN_PEER": event.peer.base64,
            "NVPN_PEER_NAME": event.name.replace("\0", ""),
            "NVPN_ENDPOINT": "" if event.endpoint is None else str(event.endpoint),
            "NVPN_ADDRESSES": " ".join(map(str, event.addresses)),
        }

    def _warn_of_losses(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%d on_connect and on_disconnect hooks wait already; some are left out",
                self._count,
            )


def _keep(command: str) -> None:
    """Tell nobody."""
