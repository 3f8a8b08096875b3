"""The Python datapath: :class:`Core` between real descriptors, on an event loop.

It runs packets to completion on the loop's thread. A readable descriptor starts a turn
that moves a few batches, about a millisecond's worth at most; then the loop gets its say
(the other descriptors, timers, handshakes, control), and a descriptor that is readable
still starts the next turn. No queue between threads, no wake-up but the kernel's.

What a turn does with packets is in :mod:`nvpn.datapath.python.outbound` and
:mod:`nvpn.datapath.python.inbound`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from nvpn.datapath.api import Activity, Counters, Watch
from nvpn.datapath.commands import AddPath, Command, PeerId, RemovePath, ReplaceSockets
from nvpn.datapath.description import describe_datapath
from nvpn.datapath.events import DeviceGone, Event
from nvpn.datapath.ports import ALL_OFFLOADS, Descriptors, Device, NoSockets, Offloads
from nvpn.datapath.python.core import Core
from nvpn.datapath.python.inbound import Inbound
from nvpn.datapath.python.outbound import Outbound
from nvpn.datapath.python.tun import TunPort
from nvpn.datapath.python.udp import (
    UdpReceiver,
    UdpSender,
    borrow,
    give_back,
    has_gro,
)
from nvpn.datapath.segments import probe_max_segments
from nvpn.errors import DropReason
from nvpn.model.clock import boot_ns
from nvpn.model.endpoint import Endpoint
from nvpn.wire.constants import DEFAULT_MTU

HANDSHAKES_AT_ONCE: Final = 2
"""Handshake messages given to the protocol per call, at about a millisecond each.

So under a flood of them packets still get a third of the time, and the other way round.
"""


class PythonDatapath:
    """Implements :class:`nvpn.datapath.api.Datapath`.

    Args:
        loop: calls of this object and of its callbacks happen on its thread.
        tun: the overlay device; stays the caller's to close.
        sockets: as ``transport.udp`` prepares them; stay the caller's to close.
        mtu: of the tunnel, in bytes.
        on_events: called on the loop, never from within another call, when
            ``take_events`` has something to give.
        clock: the boot clock, in nanoseconds.
        random: gives that many random bytes, for cookie replies.
        max_segments: UDP_MAX_SEGMENTS of this kernel; None to find out.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tun: Device,
        sockets: Descriptors | None = None,
        *,
        mtu: int = DEFAULT_MTU,
        on_events: Callable[[], None] | None = None,
        clock: Callable[[], int] = boot_ns,
        random: Callable[[int], bytes] = os.urandom,
        offloads: Offloads = ALL_OFFLOADS,
        max_segments: int | None = None,
    ) -> None:
        self.on_events = on_events
        self._loop: Final = loop
        self._clock: Final = clock
        self._offloads: Final = offloads
        self._core: Final = Core(mtu=mtu, random=random)
        self._tun_fds: Final = tun.fds
        self._tun: Final = TunPort(tun, self._core, tso=offloads.tso, uso=offloads.uso)
        self._udp: Final = UdpSender(
            self._core,
            clock,
            gso=offloads.gso,
            max_segments=probe_max_segments() if max_segments is None else max_segments,
        )
        self._outbound: Final = Outbound(
            self._core, self._tun, self._udp, batches=offloads.batches
        )
        self._inbound: Final = Inbound(self._core, self._tun, batches=offloads.batches)
        self._sockets = borrow(sockets or NoSockets(), gro=offloads.gro)
        self._gone_told = False
        self._events_due = False
        self._closed = False
        self._attach_sockets()
        for fd in tun.fds:
            loop.add_reader(fd, self._tun_readable)

    # --- datapath.api.Datapath --------------------------------------------------------

    def apply(
        self, commands: Sequence[Command], acknowledged: Callable[[], None] | None = None
    ) -> None:
        """Carry out a batch at once; the acknowledgement follows on the loop."""
        if not self._closed:
            for command in commands:
                if isinstance(command, ReplaceSockets):
                    self._flush()
                    self._detach_sockets()
                    self._sockets = borrow(command, gro=self._offloads.gro)
                    self._attach_sockets()
                elif isinstance(command, AddPath):
                    self._add_path(command.path, command.descriptor)
                elif isinstance(command, RemovePath):
                    self._remove_path(command.path)
            self._core.apply(commands, self._clock())
            self._flush()
        if acknowledged is not None:
            self._loop.call_soon(acknowledged)

    def take_events(self) -> list[Event]:
        """What happened, oldest first; of handshake messages a few, the rest next time."""
        taken = self._core.take_events(max_handshakes=HANDSHAKES_AT_ONCE)
        if self._tun.gone and not self._gone_told:
            self._gone_told = True
            taken.append(DeviceGone(self._tun.gone))
        self._announce_events()
        return taken

    def watch(self, peer: PeerId, what: Watch, watched: bool) -> None:
        """See :class:`nvpn.datapath.api.Datapath`."""
        self._core.watch(peer, what, watched)

    def activity(self, peer: PeerId) -> Activity:
        """The peer's instants; all 0 for an unknown one."""
        return self._core.activity(peer)

    def counters(self, peer: PeerId) -> Counters:
        """The peer's traffic; all 0 for an unknown one."""
        return self._core.counters(peer)

    def drops(self) -> Mapping[DropReason, int]:
        """Dropped packets by reason since the start."""
        return self._core.drops()

    def describe(self) -> str:
        """For people: ``python (TSO, USO, GSO, GRO)``, what is in use now."""
        return describe_datapath(
            "python",
            tso=self._tun.tso,
            uso=self._tun.uso,
            gso=self._udp.gso and bool(self._sockets),
            gro=any(has_gro(one) for one in self._sockets.values()),
            queues=len(self._tun_fds),
        )

    def close(self) -> None:
        """Zero all keys and let go of the descriptors, without closing them."""
        if self._closed:
            return
        self._closed = True
        self._stop_reading_tun()
        self._detach_sockets()
        for path in list(self._udp.descriptors):
            self._remove_path(path)
        self._core.close()

    # --- the loop's side --------------------------------------------------------------

    def _tun_readable(self) -> None:
        self._outbound.move(self._clock())
        self._flush()

    def _udp_readable(self, receiver: UdpReceiver) -> None:
        now = self._clock()
        self._inbound.move(receiver, now)
        # What was just written to the device often has its answer waiting there already.
        self._outbound.move(now)
        self._flush()

    def _path_readable(self, path: int, descriptor: int) -> None:
        now = self._clock()
        if not self._inbound.move_from_path(descriptor, Endpoint(b"", 0, path=path), now):
            self._loop.remove_reader(descriptor)  # what is sent there is lost from now on
        self._outbound.move(now)
        self._flush()

    def _flush(self) -> None:
        """Send what commands, and packets of the other direction, have made."""
        self._outbound.flush()
        self._inbound.flush()
        if self._tun.gone:
            self._stop_reading_tun()
        self._announce_events()

    def _announce_events(self) -> None:
        if self._events_due or self._closed:
            return
        if self._core.events or (self._tun.gone and not self._gone_told):
            self._events_due = True
            self._loop.call_soon(self._tell_events)

    def _tell_events(self) -> None:
        self._events_due = False
        if self.on_events is not None and not self._closed:
            self.on_events()

    # --- descriptors ------------------------------------------------------------------

    def _attach_sockets(self) -> None:
        self._udp.use(self._sockets)
        for one in self._sockets.values():
            receiver = UdpReceiver(one, self._inbound.buffer)
            self._loop.add_reader(one.fileno(), self._udp_readable, receiver)

    def _detach_sockets(self) -> None:
        for one in self._sockets.values():
            self._loop.remove_reader(one.fileno())
        give_back(self._sockets.values())
        self._sockets = {}
        self._udp.use({})

    def _add_path(self, path: int, descriptor: int) -> None:
        self._remove_path(path)
        self._udp.descriptors[path] = descriptor
        self._loop.add_reader(descriptor, self._path_readable, path, descriptor)

    def _remove_path(self, path: int) -> None:
        self._flush()
        descriptor = self._udp.descriptors.pop(path, None)
        if descriptor is not None:
            self._loop.remove_reader(descriptor)

    def _stop_reading_tun(self) -> None:
        for fd in self._tun_fds:
            self._loop.remove_reader(fd)
