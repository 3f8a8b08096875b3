"""The Linux kernel's WireGuard as a backend: it moves the packets, we tell it where to.

What the kernel does not know is kept here: what peers are called, who owns them, where else
they may be. What it does not tell is found by looking every two seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from nvpn.backend.kernel_channel import ChannelPlace, ChannelWireguard, KernelChannel
from nvpn.backend.kernel_kept import Candidates, KeptOfPeers
from nvpn.backend.kernel_plans import Wireguard, refused
from nvpn.backend.kernel_thread import KernelThread
from nvpn.errors import ControlError, DropReason, PlatformError
from nvpn.model.changes import Plan, SetPrivateKey
from nvpn.model.clock import Now, read_clocks
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.ports import PortPolicy
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from nvpn.transport.udp import has_way

_log: Final = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0
"""Between two looks at the kernel's interface."""

_LOOKING_SHARE: Final = 0.05


class KernelBackend:
    """Implements :class:`nvpn.backend.api.TunnelBackend`.

    Args:
        name: the interface's.
        index: the link's number, by which it is found whatever it is called later.
        wireguard: ours to close.
        raise_link: sets the link up, which binds its port. Raises PlatformError.
        let_go: called at the end, with whether the link is ours to delete. Raises
            PlatformError.
        mtu: the link's.
        reason: why the kernel carries it, for people; told in snapshots.
        claim: called after a link that somebody else made was configured for the first
            time, from when on it is ours; None for one that is from the start.
        on_failure: called once, with what went wrong inside; the backend is closed by then.
        clocks: both clocks.
        has_way: whether the host has a route to an endpoint, with a mark.
        channel_place: how the link gets an address for the control channel, and a socket
            there; None where there can be none.
    """

    def __init__(
        self,
        *,
        name: str,
        index: int,
        wireguard: Wireguard,
        raise_link: Callable[[], None],
        let_go: Callable[[bool], None],
        mtu: int,
        loop: asyncio.AbstractEventLoop,
        reason: str = "",
        claim: Callable[[], None] | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
        clocks: Callable[[], Now] = read_clocks,
        has_way: Callable[[Endpoint, int], bool] = has_way,
        channel_place: ChannelPlace | None = None,
    ) -> None:
        self.name = name
        self._index = index
        self._wireguard = ChannelWireguard(wireguard)
        self._kept = KeptOfPeers()
        self._kernel = KernelThread(
            name, index, self._wireguard, self._kept, loop=loop, clocks=clocks
        )
        self._channel = KernelChannel(
            name,
            index,
            self._wireguard,
            channel_place,
            loop=loop,
            ask=self._kernel.ask,
            clocks=clocks,
        )
        self._raise_link = raise_link
        self._let_go = let_go
        self._claim = claim
        self._mtu = mtu
        self._loop = loop
        self._reason = reason
        self._on_failure = on_failure
        self._has_way = has_way
        self._candidates = Candidates()
        self._listeners: list[Callable[[Notice], None]] = []
        # As of the last look, without keys and allowed IPs.
        self._seen = TunnelSnapshot(name)
        self._seen_peers: dict[PublicKey, PeerSnapshot] = {}
        self._nudged: set[PublicKey] = set()
        self._has_begun = False
        self._closed = False
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._look_on())

    # --- Backend ----------------------------------------------------------------------

    async def apply(self, plan: Plan) -> None:
        """Apply a plan, all or nothing; it is in force when this returns.

        Raises:
            ControlError: EADDRINUSE, EINVAL, EPERM, …; nothing was changed then.
        """
        async with self._changing:
            self._kept.keep(await self._kernel.apply(plan))
            self._make_ours()
            await self._look()
            if any(isinstance(change, SetPrivateKey) for change in plan):
                await self._channel.renew()
            self._candidates.follow(plan, self._seen_peers)

    def snapshot(self) -> TunnelSnapshot:
        """The tunnel now; as it was seen last if the kernel does not tell."""
        try:
            now = self._wireguard.get(self._index)
        except PlatformError as error:
            _log.debug("%s", error)
            now = self._seen
        return self._complete(now)

    def subscribe(self, listener: Callable[[Notice], None]) -> None:
        """Call ``listener`` on the loop for every notice; it must not block or raise."""
        self._listeners.append(listener)

    async def close(self) -> None:
        """Delete the link, which ends all sessions and wipes keys. Again: nothing.

        A link that somebody moved away goes on where it is; one that we were to take over,
        and never configured, goes on as it was.
        """
        if self._closed:
            return
        self._closed = True
        self._channel.leave()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        await self._kernel.close()
        try:
            self._let_go(self._claim is None)
        except PlatformError as error:
            _log.error("%s", error)

    def drops(self) -> Mapping[DropReason, int]:
        """Nothing: the kernel counts no reasons."""
        return {}

    def describe(self) -> str:
        """For people: what moves the packets, and why that when there is something to say."""
        return f"kernel: {self._reason}" if self._reason else "kernel"

    # --- the daemon's hooks -----------------------------------------------------------

    @property
    def listen_port(self) -> int:
        """The UDP port, also while the link is down; 0 before one was chosen."""
        return self._seen.listen_port

    def has_peer(self, peer: PublicKey) -> bool:
        """Whether it is configured now, as of the last look."""
        return peer in self._seen_peers

    def peers(self) -> list[PublicKey]:
        """All of them, as of the last look."""
        return list(self._seen_peers)

    def peer(self, peer: PublicKey) -> PeerSnapshot | None:
        """One peer as of the last look, with the allowed IPs of the last plan."""
        seen = self._seen_peers.get(peer)
        return None if seen is None else self._kept.complete_brief(seen)

    def endpoint_of(self, peer: PublicKey) -> Endpoint | None:
        """Where the peer is now, as of the last look; None for an unknown one, too."""
        seen = self._seen_peers.get(peer)
        return None if seen is None else seen.endpoint

    async def bring_up(self) -> None:
        """Set the link up, for that is when the kernel binds the port.

        Only the first time: later it is up because somebody else set it so.

        Raises:
            ControlError: the port cannot be bound; the link stays down.
        """
        async with self._changing:
            self._kernel.expect_open()
            if not self._has_begun:
                try:
                    self._raise_link()
                except PlatformError as error:
                    raise refused(error, self.name) from None
                self._has_begun = True
            await self._look()
            # With the link IPv6 addresses had gone, too.
            await self._channel.renew()

    async def bring_down(self) -> None:
        """The link is down: nothing is left to do, the kernel remembers the port."""

    def set_mtu(self, mtu: int) -> None:
        """The interface's MTU is now this many bytes."""
        self._mtu = mtu

    def set_port_policies(
        self, interface: PortPolicy, peers: Mapping[PublicKey, PortPolicy]
    ) -> None:
        """Nothing is filtered here, and PlatformError if something should be."""
        if interface.is_given or any(policy.is_given for policy in peers.values()):
            raise PlatformError(
                "filter ports in the kernel's WireGuard",
                hint="take the tunnel down and up again, and nvpn will carry it itself",
            )

    def initiate(self, peer: PublicKey) -> None:
        """Begin a handshake now; nothing for an unknown peer, or one with a session."""
        seen = self._seen_peers.get(peer)
        if seen is not None and seen.session_age is None and not self._closed:
            self._nudge([peer])

    def stop_admitting(self) -> None:
        """The kernel goes on letting peers in for as long as there is the interface."""

    def network_changed(self) -> None:
        """The host's addresses or routes changed, or it slept.

        The kernel forgets from which of our addresses it reached its peers, and those with
        a session hear from us at once, by which they learn where we are.
        """
        if not self._closed and self._has_begun:
            self._spawn(self._place_again())

    # --- the control channel ----------------------------------------------------------

    def open_channel(
        self,
        received: Callable[[PublicKey, bytes], None],
        *,
        only: frozenset[PublicKey] | None = None,
    ) -> None:
        """Take part in the control channel; the kernel is told of the peers that matter."""
        if not self._closed:
            self._channel.open(received, only)
            self._spawn(self._change_channel())

    def send_channel(self, peer: PublicKey, payload: bytes) -> None:
        """Send a datagram to the peer's end of the channel."""
        if not self._closed and peer in self._seen_peers:
            self._channel.send(peer, payload)

    def close_channel(self) -> None:
        """Take no part any more."""
        if not self._closed and self._channel.is_open:
            self._channel.close()
            self._spawn(self._change_channel())

    def data_received_at(self, peer: PublicKey) -> int:
        """When it was seen that data came from the peer: boot-clock nanoseconds, 0 for never."""
        return self._channel.data_received_at(peer)

    async def _change_channel(self) -> None:
        async with self._changing:
            await self._channel.settle()

    # --- looking ----------------------------------------------------------------------

    async def _look_on(self) -> None:
        pause = LOOK_SECONDS
        try:
            while True:
                await asyncio.sleep(pause)
                begun = self._loop.time()
                try:
                    async with self._changing:
                        await self._look()
                except ControlError as error:
                    _log.debug("%s", error)  # it is gone, or will be: the link's monitor tells
                pause = max(LOOK_SECONDS, (self._loop.time() - begun) / _LOOKING_SHARE)
        except Exception as error:
            await self._fail(error)

    async def _look(self) -> None:
        """See what the kernel has now, and tell what happened. Raises ControlError."""
        self._seen, self._seen_peers, notices = await self._kernel.look()
        await self._channel.note(self._seen_peers.values())
        if not self._has_begun:
            return
        for notice in notices:
            for listener in self._listeners:
                listener(notice)
            if notice.kind in (NoticeKind.HANDSHAKE_UNANSWERED, NoticeKind.HANDSHAKE_GIVEN_UP):
                await self._try_elsewhere(notice.peer)
        # What cannot be sent is not counted as sent, so the watch does not see these.
        for peer in [peer for peer in self._candidates.peers() if self._is_cut_off(peer)]:
            await self._try_elsewhere(peer)

    def _is_cut_off(self, peer: PublicKey) -> bool:
        """Whether it has no session, and is where the host has no route to."""
        seen = self._seen_peers.get(peer)
        if seen is None or seen.session_age is not None or seen.endpoint is None:
            return False
        return not self._has_way(seen.endpoint, self._seen.fwmark)

    async def _try_elsewhere(self, peer: PublicKey) -> None:
        """Go on to the next of the peer's candidates."""
        following = self._candidates.take_next(peer, self.endpoint_of(peer))
        if following is not None:
            await self._kernel.move(peer, following)

    def _complete(self, now: TunnelSnapshot) -> TunnelSnapshot:
        """With what the kernel does not know."""
        return replace(
            self._kept.complete(now),
            name=self.name,
            mtu=self._mtu,
            datapath_reason=self._reason,
        )

    # --- changes ----------------------------------------------------------------------

    def _make_ours(self) -> None:
        if self._claim is None:
            return
        try:
            self._claim()
        except PlatformError as error:
            raise refused(error, self.name) from None
        self._claim = None

    async def _place_again(self) -> None:
        async with self._changing:
            placed = await self._kernel.place_again()
        self._nudge(peer.public_key for peer in placed if peer.session_age is not None)

    def _nudge(self, peers: Iterable[PublicKey]) -> None:
        """Have the kernel send something to peers, which begins a session with those without."""
        if not self._nudged:
            self._loop.call_soon(lambda: self._spawn(self._nudge_all()))
        self._nudged.update(peers)

    async def _nudge_all(self) -> None:
        peers = {
            peer: self._seen_peers[peer].persistent_keepalive
            for peer in self._nudged
            if peer in self._seen_peers
        }
        self._nudged.clear()
        async with self._changing:
            await self._kernel.nudge(peers)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end_task)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, ControlError):
            _log.debug("%s", error)
        else:
            self._spawn(self._fail(error))

    async def _fail(self, error: BaseException) -> None:
        if self._closed:
            return
        _log.critical("internal error, the tunnel is shut down", exc_info=error)
        await self.close()
        if self._on_failure is not None:
            self._on_failure(error)
