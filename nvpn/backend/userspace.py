"""Our own backend: the protocol's device and a datapath, kept going on one event loop.

Everything that happens ends in :meth:`UserspaceBackend._turn`: events of the datapath and
due timers go into the device; its commands go down to the datapath, its notices out to
listeners, and its next deadline into one alarm on the boot clock.

A bug in there must not leave half a VPN running: it is logged, keys are wiped, nothing
is forwarded any more, and ``on_failure`` tells the daemon to end.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from nvpn.backend.alarm import open_alarm
from nvpn.backend.datapath_channel import DatapathChannel
from nvpn.backend.limits import MAX_PEERS
from nvpn.backend.plans import PeerEntry, PlanApplier
from nvpn.backend.port_filter import PortPolicies
from nvpn.backend.renewals import Renewals
from nvpn.backend.sockets import TunnelSockets
from nvpn.datapath.api import Datapath
from nvpn.datapath.commands import Command, SetMtu
from nvpn.datapath.events import DeviceGone, InnerReceived
from nvpn.errors import ControlError, DropReason
from nvpn.model.changes import Plan, SetFwmark, SetListenPort
from nvpn.model.clock import Now, read_clocks
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice
from nvpn.model.ports import PortPolicy
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from nvpn.protocol.device import Device
from nvpn.transport.udp import UdpSockets, open_udp

_log: Final = logging.getLogger(__name__)


class UserspaceBackend:
    """Implements :class:`nvpn.backend.api.TunnelBackend`.

    Make it before anything is configured: the link is down, the datapath has no sockets.
    The caller wires the datapath's "there are events" callback to :meth:`handle_events`,
    and owns the TUN descriptor; the UDP sockets are opened, and closed, here.

    Args:
        name: the interface's.
        open_sockets: ``(port, fwmark) -> UdpSockets``, raises PlatformError.
        clocks: both clocks; the alarm always follows the machine's boot clock.
        datapath_reason: why it is this datapath, for people; told in snapshots.
        on_device_gone: called once when the TUN device was deleted under us.
        on_failure: called once, with what went wrong inside; the backend is closed by then.
    """

    def __init__(
        self,
        *,
        name: str,
        device: Device,
        datapath: Datapath,
        mtu: int,
        loop: asyncio.AbstractEventLoop,
        open_sockets: Callable[[int, int], UdpSockets] = open_udp,
        clocks: Callable[[], Now] = read_clocks,
        datapath_reason: str = "",
        on_device_gone: Callable[[], None] | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
        max_peers: int = MAX_PEERS,
    ) -> None:
        self.name = name
        self._device = device
        self._datapath = datapath
        self._mtu = mtu
        self._loop = loop
        self._clocks = clocks
        self._datapath_reason = datapath_reason
        self._on_device_gone = on_device_gone
        self._on_failure = on_failure
        self._peers = PlanApplier(device, max_peers=max_peers)
        self._listeners: list[Callable[[Notice], None]] = []
        self._sockets = TunnelSockets(open_sockets)
        self._closed = False
        self._changing = asyncio.Lock()
        self._unacknowledged: set[asyncio.Future[None]] = set()
        self._renewals = Renewals(
            loop, clocks, renew=device.renew, turn=self._turn, fail=self._fail
        )
        self._channel: DatapathChannel | None = None
        self._ports = PortPolicies(device.peer_id_of)
        self._alarm = open_alarm(loop, self._turn)

    # --- Backend ----------------------------------------------------------------------

    async def apply(self, plan: Plan) -> None:
        """Apply a plan, all or nothing; it is in force when this returns.

        Raises:
            ControlError: EADDRINUSE, EINVAL, EPERM, …; nothing was changed then.
        """
        async with self._changing:
            self._expect_open()
            self._peers.validate(plan)
            port, fwmark = _last_port_and_mark(plan)
            commands, old = self._sockets.move(port, fwmark)
            # The sockets first: a keepalive may be among the commands that follow.
            await self._send(commands, old)
            await self._change_peers(plan)

    def snapshot(self) -> TunnelSnapshot:
        """The tunnel now."""
        now = self._clocks()
        device = self._device
        return TunnelSnapshot(
            name=self.name,
            private_key=device.private_key,
            listen_port=self._sockets.port,
            fwmark=self._sockets.fwmark,
            mtu=self._mtu,
            peers=tuple(
                self._peer_snapshot(peer, entry, now) for peer, entry in self._peers.entries()
            ),
            datapath=self._datapath.describe(),
            datapath_reason=self._datapath_reason,
            drops=self.drops(),
        )

    def subscribe(self, listener: Callable[[Notice], None]) -> None:
        """Call ``listener`` on the loop for every notice; it must not block or raise."""
        self._listeners.append(listener)

    async def close(self) -> None:
        """Stop, wipe keys, let go of descriptors. Again: nothing."""
        self._shut()

    def drops(self) -> Mapping[DropReason, int]:
        """Dropped packets by reason since the start, of datapath and protocol."""
        drops = dict(self._datapath.drops())
        for reason, count in self._device.drops().items():
            drops[reason] = drops.get(reason, 0) + count
        return drops

    def describe(self) -> str:
        """For people: what moves the packets, and why that when there is something to say."""
        parts = (self._datapath.describe(), self._datapath_reason)
        return ": ".join(part for part in parts if part)

    # --- the daemon's hooks -----------------------------------------------------------

    @property
    def listen_port(self) -> int:
        """The UDP port, also while the link is down; 0 before one was chosen."""
        return self._sockets.port

    def has_peer(self, peer: PublicKey) -> bool:
        """Whether it is configured now."""
        return self._device.has_peer(peer)

    def peers(self) -> list[PublicKey]:
        """All of them, in the order in which they were added."""
        return self._device.peers()

    def peer(self, peer: PublicKey) -> PeerSnapshot | None:
        """One peer now, None for an unknown one."""
        entry = self._peers.entry(peer)
        return None if entry is None else self._peer_snapshot(peer, entry, self._clocks())

    def endpoint_of(self, peer: PublicKey) -> Endpoint | None:
        """Where the peer is now; None for an unknown one, too."""
        return self._device.peer_state(peer).endpoint if self.has_peer(peer) else None

    async def bring_up(self) -> None:
        """The link is up: bind the sockets and begin.

        Raises:
            ControlError: the port cannot be bound; the backend stays down.
        """
        async with self._changing:
            self._expect_open()
            if self._sockets.is_up:
                return
            self._sockets.bring_up()
            self._device.bring_up(self._clocks())
            await self._send([self._sockets.command(), *self._device.take_commands()])
            self._turn()

    async def bring_down(self) -> None:
        """The link is down: end all sessions and close the sockets. The port is remembered."""
        async with self._changing:
            if self._closed or not self._sockets.is_up:
                return
            self._renewals.stop()
            old = self._sockets.bring_down()
            self._device.bring_down(self._clocks())
            await self._send([*self._device.take_commands(), self._sockets.command()], old)
            self._turn()

    def set_mtu(self, mtu: int) -> None:
        """The interface's MTU is now this many bytes."""
        if mtu != self._mtu and not self._closed:
            self._mtu = mtu
            self._datapath.apply((SetMtu(mtu),))

    def set_port_policies(
        self, interface: PortPolicy, peers: Mapping[PublicKey, PortPolicy]
    ) -> None:
        """What peers may begin through the tunnel: in force before any later change is."""
        self._ports.change(interface, peers)
        commands = self._ports.commands()
        if commands and not self._closed:
            self._datapath.apply(commands)

    def initiate(self, peer: PublicKey) -> None:
        """Begin a handshake now, as at a start when the peer's session is remembered."""
        if not self._closed and self._device.has_peer(peer):
            self._device.initiate(peer, self._clocks())
            self._turn()

    def stop_admitting(self) -> None:
        """We are about to go: no new session begins."""
        if not self._closed:
            self._device.stop_admitting()
            self._turn()

    def network_changed(self) -> None:
        """The host's addresses or routes changed, or it slept.

        Forget the source addresses that were stuck to, and seek a new session with every
        peer that has, or seeks, one, or is to be kept awake: a peer may reach us only after
        we have spoken from where we are now.
        """
        if self._closed or not self._sockets.is_up:
            return
        self._datapath.apply((self._sockets.command(),))
        self._renewals.begin(self._device.peers())

    def open_channel(
        self,
        received: Callable[[PublicKey, bytes], None],
        *,
        only: frozenset[PublicKey] | None = None,
    ) -> None:
        """Take part in the control channel, with all peers: that costs nothing here."""
        if self._channel is not None:
            self._channel.received = received
        elif not self._closed:
            self._channel = DatapathChannel(self._device, self._datapath, self._loop, received)

    def send_channel(self, peer: PublicKey, payload: bytes) -> None:
        """Send a datagram to the peer's end of the channel, if we know where it is."""
        if self._channel is None or not self._sockets.is_up:
            return
        if self.endpoint_of(peer) is not None:
            self._channel.send(peer, payload)

    def close_channel(self) -> None:
        """Take no part any more."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def data_received_at(self, peer: PublicKey) -> int:
        """When data came from the peer last: boot-clock nanoseconds, 0 for never."""
        if not self.has_peer(peer):
            return 0
        return self._datapath.activity(self._device.peer_state(peer).peer_id).last_data_received_at

    def handle_events(self) -> None:
        """The datapath has events. Cheap, and harmless when it has none."""
        self._turn()

    # --- one turn ---------------------------------------------------------------------

    def _turn(self) -> None:
        if self._closed:
            return
        try:
            self._run_device()
        except Exception as error:
            self._fail(error)

    def _run_device(self) -> None:
        device = self._device
        now = self._clocks()
        gone = False
        inner = []
        for event in self._datapath.take_events():
            if isinstance(event, DeviceGone):
                gone = True
            elif isinstance(event, InnerReceived):
                inner.append(event)
            else:
                device.handle_event(event, now)
        deadline = device.next_timeout()
        if deadline is not None and deadline <= now.boot:
            device.handle_timeout(now)
        commands = device.take_commands()
        if commands:
            self._datapath.apply(commands)
        self._tell()
        for event in inner:
            if self._channel is not None:
                self._channel.receive(event)
        self._alarm.set(device.next_timeout())
        if gone and self._on_device_gone is not None:
            callback, self._on_device_gone = self._on_device_gone, None
            callback()

    def _tell(self) -> None:
        for notice in self._device.take_notices():
            for listener in self._listeners:
                listener(notice)

    def _fail(self, error: BaseException) -> None:
        # A traceback shows lines of the program, no values: no key gets into the log.
        _log.critical("internal error, the tunnel is shut down", exc_info=error)
        self._shut()
        if self._on_failure is not None:
            self._on_failure(error)

    def _shut(self) -> None:
        if self._closed:
            return
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.stop()
        self._alarm.close()
        self._renewals.stop()
        try:
            self._datapath.close()
            self._device.close()
        finally:
            for waiting in self._unacknowledged:
                waiting.cancel()
            self._sockets.close()

    # --- changes ----------------------------------------------------------------------

    def _expect_open(self) -> None:
        if self._closed:
            raise ControlError(errno.ENODEV, f"{self.name} is shutting down")

    async def _change_peers(self, plan: Plan) -> None:
        """Apply what is about peers, and return when it is in force.

        In parts, with packets moving in between: no part fails, and no other plan comes
        between them.
        """
        try:
            for _ in self._peers.apply(plan, self._clocks()):
                self._datapath.apply([*self._device.take_commands(), *self._ports.commands()])
                await asyncio.sleep(0)
                self._expect_open()
        except ControlError:
            raise
        except Exception as error:
            self._fail(error)
            raise
        await self._send([*self._device.take_commands(), *self._ports.commands()])
        if self._channel is not None:
            self._channel.follow_key()
        self._turn()

    async def _send(self, commands: Sequence[Command], old: UdpSockets | None = None) -> None:
        """Hand down a batch and wait until it is in force; then close ``old``."""
        if not commands:
            return
        done = self._loop.create_future()
        self._unacknowledged.add(done)

        def acknowledged() -> None:
            self._unacknowledged.discard(done)
            if not done.done():
                done.set_result(None)
            if old is not None:
                self._sockets.release(old)

        self._datapath.apply(commands, acknowledged)
        try:
            await done
        except asyncio.CancelledError:
            if self._closed and done.cancelled():
                self._expect_open()  # it was us, not our caller, who gave up waiting
            raise

    # --- looking ----------------------------------------------------------------------

    def _peer_snapshot(self, peer: PublicKey, entry: PeerEntry, now: Now) -> PeerSnapshot:
        state = self._device.peer_state(peer)
        traffic = self._datapath.counters(state.peer_id)
        return PeerSnapshot(
            public_key=peer,
            name=entry.name,
            owner=entry.owner,
            preshared_key=state.preshared_key,
            endpoint=state.endpoint,
            last_handshake=state.last_handshake,
            rx_bytes=traffic.rx_bytes,
            tx_bytes=traffic.tx_bytes,
            persistent_keepalive=state.persistent_keepalive,
            allowed_ips=state.allowed_ips,
            session_age=(
                None if state.session_born_at is None else max(now.boot - state.session_born_at, 0)
            ),
            handshake_attempts=state.attempts,
            leased=entry.leased(state.allowed_ips),
            filtered=traffic.filtered,
        )


def _last_port_and_mark(plan: Plan) -> tuple[int | None, int | None]:
    port = fwmark = None
    for change in plan:
        if isinstance(change, SetListenPort):
            port = change.port
        elif isinstance(change, SetFwmark):
            fwmark = change.mark
    return port, fwmark
