"""The native datapath at the seam: :class:`nvpn._native.Engine`, told and asked by the loop.

Packets never come here. What does is what the seam names: batches of commands down,
events up, and the numbers of a peer on request. One descriptor of the engine's wakes the
loop for acknowledgements and events.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from operator import gt
from typing import Final

from nvpn._native import Engine
from nvpn.datapath.api import Activity, Counters, Watch
from nvpn.datapath.commands import Command, InstallKeypair, PeerId
from nvpn.datapath.description import describe_datapath
from nvpn.datapath.events import Event
from nvpn.datapath.native.tuples import pack_command, unpack_event
from nvpn.datapath.ports import ALL_OFFLOADS, Descriptors, Device, NoSockets, Offloads
from nvpn.datapath.segments import probe_max_segments
from nvpn.errors import DropReason
from nvpn.wire.constants import DEFAULT_MTU

_log: Final = logging.getLogger(__name__)

HANDSHAKES_AT_ONCE: Final = 2
"""Handshake messages given to the protocol per call, at about a millisecond each.

So timers and control have their say under a flood of them. Packets do not wait for any.
"""


class NativeDatapath:
    """Implements :class:`nvpn.datapath.api.Datapath`.

    Args:
        loop: calls of this object and of its callbacks happen on its thread.
        tun: the overlay device; stays the caller's to close, after ``close``.
        sockets: as ``transport.udp`` prepares them; stay the caller's to close.
        mtu: of the tunnel, in bytes.
        on_events: called on the loop, never from within another call, when
            ``take_events`` has something to give.
        offloads: what may be used of what the kernel has.
        max_segments: UDP_MAX_SEGMENTS of this kernel; None to find out.
        workers: threads that move packets, 1 or more.
        eager: wake all of them whenever there is something to do, rather than one until it
            cannot keep up; for tests.
        now: boot-clock nanoseconds to begin with, if ``set_clock`` is to move time; 0 to
            go by the machine's clock.

    Raises:
        OSError: no threads, or no descriptors left to wake them by.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tun: Device,
        sockets: Descriptors | None = None,
        *,
        mtu: int = DEFAULT_MTU,
        on_events: Callable[[], None] | None = None,
        offloads: Offloads = ALL_OFFLOADS,
        max_segments: int | None = None,
        workers: int = 1,
        eager: bool = False,
        now: int = 0,
    ) -> None:
        self.on_events = on_events
        self._loop: Final = loop
        sockets = sockets or NoSockets()
        self._workers: Final = workers
        self._queues: Final = len(tun.fds)
        self._engine: Final = Engine(
            list(tun.fds),
            vnet_hdr=tun.vnet_hdr,
            tso=tun.tso and offloads.tso,
            uso=tun.uso and offloads.uso,
            ipv4=sockets.ipv4,
            ipv6=sockets.ipv6,
            gso=offloads.gso,
            gro=offloads.gro,
            batches=offloads.batches,
            mtu=mtu,
            max_segments=probe_max_segments() if max_segments is None else max_segments,
            workers=workers,
            eager=eager,
            now=now,
        )
        self._waiting: Final[deque[tuple[int, Callable[[], None]]]] = deque()
        self._events_due = False
        self._closed = False
        self._refused = (False, False)
        loop.add_reader(self._engine.fileno(), self._hear)

    # --- datapath.api.Datapath --------------------------------------------------------

    def apply(
        self, commands: Sequence[Command], acknowledged: Callable[[], None] | None = None
    ) -> None:
        """Queue a batch; see :class:`nvpn.datapath.api.Datapath`."""
        if self._closed:
            for command in commands:
                if isinstance(command, InstallKeypair):
                    command.send_key[:] = command.receive_key[:] = bytes(32)
            if acknowledged is not None:
                self._loop.call_soon(acknowledged)
            return
        number = self._engine.submit([pack_command(command) for command in commands])
        if acknowledged is not None:
            self._waiting.append((number, acknowledged))

    def take_events(self) -> list[Event]:
        """What happened, oldest first; of handshake messages a few, the rest next time.

        Raises:
            RuntimeError: the engine has died of a mistake of ours.
        """
        if self._closed:
            return []
        taken = [unpack_event(event) for event in self._engine.take_events(HANDSHAKES_AT_ONCE)]
        self._announce_events()
        return taken

    def watch(self, peer: PeerId, what: Watch, watched: bool) -> None:
        """See :class:`nvpn.datapath.api.Datapath`."""
        self._engine.watch(peer, what is Watch.DATA_SENT, watched)

    def activity(self, peer: PeerId) -> Activity:
        """The peer's instants; all 0 for an unknown one."""
        known = self._engine.activity(peer)
        return Activity() if known is None else Activity(*known)

    def counters(self, peer: PeerId) -> Counters:
        """The peer's traffic; all 0 for an unknown one."""
        known = self._engine.counters(peer)
        return Counters() if known is None else Counters(*known)

    def drops(self) -> Mapping[DropReason, int]:
        """Dropped packets by reason since the start."""
        return {DropReason(name): count for name, count in self._engine.drops()}

    def describe(self) -> str:
        """For people: ``native (TSO, USO, GSO, GRO; 4 workers)``, what is in use now."""
        tso, uso, gso, gro = self._engine.offloads()
        return describe_datapath(
            "native",
            tso=tso,
            uso=uso,
            gso=gso,
            gro=gro,
            workers=self._workers,
            queues=self._queues,
        )

    def close(self) -> None:
        """Zero all keys and let go of the descriptors, without closing them.

        Returns when the engine's threads have ended.
        """
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._engine.fileno())
        self._engine.close()
        while self._waiting:
            self._loop.call_soon(self._waiting.popleft()[1])

    # --- for tests --------------------------------------------------------------------

    def set_clock(self, now: int) -> None:
        """Go by this clock, which nothing but this call moves."""
        self._engine.set_clock(now)

    @property
    def rests(self) -> int | None:
        """How often the engine found nothing to do and went to wait; None once closed."""
        return None if self._closed else self._engine.rests()

    # --- the loop's side --------------------------------------------------------------

    def _hear(self) -> None:
        engine = self._engine
        engine.clear_news()
        in_force = engine.acknowledged()
        waiting = self._waiting
        while waiting and waiting[0][0] <= in_force:
            self._loop.call_soon(waiting.popleft()[1])
        self._warn()
        self._announce_events()

    def _announce_events(self) -> None:
        if not self._events_due and not self._closed and self._engine.has_events():
            self._events_due = True
            self._loop.call_soon(self._tell_events)

    def _tell_events(self) -> None:
        self._events_due = False
        if self.on_events is not None and not self._closed:
            self.on_events()

    def _warn(self) -> None:
        """Tell once what the kernel has turned out not to do."""
        refused = self._engine.refused()
        for is_new, what in zip(
            map(gt, refused, self._refused), ("writes to the tunnel device", "sends"), strict=True
        ):
            if is_new:
                _log.warning("merged %s are off: the kernel refuses them", what)
        self._refused = refused
