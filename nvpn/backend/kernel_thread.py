"""What is asked of the kernel's WireGuard is asked on one thread, in the order of asking.

A thread, because tens of thousands of peers take a while to list; one, so that nothing
overtakes what was asked before.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

from nvpn.backend.kernel_kept import KeptOfPeers
from nvpn.backend.kernel_plans import Wireguard, apply_plan, plan_nudge, refused, wipe
from nvpn.backend.kernel_watch import KernelWatch
from nvpn.errors import ControlError, PlatformError
from nvpn.model.changes import Plan, SetEndpoint
from nvpn.model.clock import Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from nvpn.netconf.kernel_changes import KernelChanges, PeerChange

_T = TypeVar("_T")


class Seen(NamedTuple):
    """A look at the interface, without keys and allowed IPs."""

    tunnel: TunnelSnapshot
    peers: dict[PublicKey, PeerSnapshot]
    notices: list[Notice]


class KernelThread:
    """One interface of the kernel. What is awaited raises ControlError.

    Args:
        name: the interface's, for people.
        index: the link's number.
        wireguard: ours to close.
        kept: read when a plan is applied.
        clocks: both clocks.
    """

    def __init__(
        self,
        name: str,
        index: int,
        wireguard: Wireguard,
        kept: KeptOfPeers,
        *,
        loop: asyncio.AbstractEventLoop,
        clocks: Callable[[], Now],
    ) -> None:
        self._name: Final = name
        self._index: Final = index
        self._wireguard: Final = wireguard
        self._kept: Final = kept
        self._loop: Final = loop
        self._clocks: Final = clocks
        self._watch: Final = KernelWatch()
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._closed = False

    async def ask(self, call: Callable[[], _T]) -> _T:
        """What the call returns, made on the thread."""
        self.expect_open()
        try:
            return await self._loop.run_in_executor(self._thread, call)
        except PlatformError as error:
            raise refused(error, self._name) from None

    def expect_open(self) -> None:
        """ControlError once it is closed."""
        if self._closed:
            raise ControlError(errno.ENODEV, f"{self._name} is shutting down")

    async def apply(self, plan: Plan) -> TunnelSnapshot:
        """Apply a plan, all or nothing; returns what it has come to."""
        return await self.ask(lambda: self._apply(plan))

    async def look(self) -> Seen:
        """What there is now, and what happened meanwhile."""
        return await self.ask(self._look)

    async def move(self, peer: PublicKey, endpoint: Endpoint) -> None:
        """Send there from now on."""
        change = PeerChange(peer, update_only=True, endpoint=endpoint)
        await self.ask(lambda: self._change(change))

    async def place_again(self) -> list[PeerSnapshot]:
        """Set the endpoints that there are, and return whose they are: only so the kernel
        forgets its own addresses."""
        return await self.ask(self._place_again)

    async def nudge(self, peers: Mapping[PublicKey, int]) -> None:
        """Have the kernel send something to each peer, whose keepalive interval is given."""
        await self.ask(lambda: self._nudge(peers))

    async def close(self) -> None:
        """Refuse from now on, and let go of the descriptor after what the thread does now."""
        self._closed = True
        await self._loop.run_in_executor(self._thread, self._wireguard.close)
        self._thread.shutdown(wait=False, cancel_futures=True)

    # --- on the thread ----------------------------------------------------------------

    def _apply(self, plan: Plan) -> TunnelSnapshot:
        now = self._wireguard.get(self._index)
        try:
            wanted = apply_plan(self._wireguard, self._index, plan, self._kept.complete(now))
        finally:
            wipe(now)
        self._watch.expect_moves(change.peer for change in plan if isinstance(change, SetEndpoint))
        return wanted

    def _look(self) -> Seen:
        now = self._wireguard.get(self._index, brief=True)
        peers = {peer.public_key: peer for peer in now.peers}
        return Seen(now, peers, self._watch.look(now, self._clocks()))

    def _change(self, *peers: PeerChange) -> None:
        self._wireguard.set(self._index, KernelChanges(peers=peers))
        self._watch.expect_moves(
            change.public_key for change in peers if change.endpoint is not None
        )

    def _place_again(self) -> list[PeerSnapshot]:
        now = self._wireguard.get(self._index, brief=True)
        placed = [peer for peer in now.peers if peer.endpoint is not None]
        self._change(
            *(
                PeerChange(peer.public_key, update_only=True, endpoint=peer.endpoint)
                for peer in placed
            )
        )
        return placed

    def _nudge(self, peers: Mapping[PublicKey, int]) -> None:
        for changes in plan_nudge(peers):
            self._change(*changes)
