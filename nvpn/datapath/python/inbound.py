"""From the peers to the TUN device."""

from __future__ import annotations

import os
from typing import Final

from nvpn.datapath.python.core import Core
from nvpn.datapath.python.opening import BatchOpener
from nvpn.datapath.python.tun import TunPort
from nvpn.datapath.python.udp import Arrival, UdpReceiver
from nvpn.model.endpoint import Endpoint

# What comes merged is bounded by the bytes. What comes alone is bounded by the reads, and a
# flood is that: too few of them, and the rest of the loop's turn is most of its cost.
_BYTES_A_TURN: Final = 4 * 65536
_READS_A_TURN: Final = 64
_BUFFER_BYTES: Final = 1 << 16


class Inbound:
    """Hands datagrams to :class:`Core` and writes the packets it lets through.

    ``buffer`` is what :class:`UdpReceiver` reads into.
    """

    __slots__ = ("_core", "_opener", "_tun", "_view", "buffer")

    def __init__(self, core: Core, tun: TunPort, *, batches: bool) -> None:
        self._core: Final = core
        self._tun: Final = tun
        self.buffer: Final = bytearray(_BUFFER_BYTES)
        self._view: Final = memoryview(self.buffer)
        self._opener = BatchOpener(core, tun, self.buffer) if batches else None

    def move(self, receiver: UdpReceiver, now: int) -> None:
        """Deliver a turn's share of what a socket has."""
        moved = reads = 0
        while moved < _BYTES_A_TURN and reads < _READS_A_TURN:
            arrival = receiver.receive()
            if arrival is None:
                break
            self._take(arrival, now)
            moved += arrival.size
            reads += 1
        self.flush()

    def move_from_path(self, descriptor: int, endpoint: Endpoint, now: int) -> bool:
        """Deliver a turn's share of what a path's descriptor has; False once it is closed."""
        for _ in range(_READS_A_TURN):
            try:
                size = os.readv(descriptor, [self.buffer])
            except BlockingIOError:
                break
            except OSError:
                return False
            if not size:
                return False
            self._core.receive(self._view[:size], endpoint, now)
        self.flush()
        return True

    def flush(self) -> None:
        """Write what is ready."""
        packets = self._core.take_inner()
        if packets:
            self._tun.write(packets)

    def _take(self, arrival: Arrival, now: int) -> None:
        size, segment, endpoint, tos = arrival
        if segment < size and self._opener is not None and self._opener.open(arrival, now):
            return
        for start in range(0, size or 1, segment or 1):
            datagram = self._view[start : min(start + segment, size)]
            self._core.receive(datagram, endpoint, now, tos=tos)
