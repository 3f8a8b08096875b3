"""From the peers to the TUN device."""

from __future__ import annotations

import socket
from typing import Final

from nvpn.datapath.python.core import Core
from nvpn.datapath.python.tun import TunPort
from nvpn.datapath.python.udp import Arrival, UdpReceiver

_READS_A_TURN: Final = 4
_BUFFER_BYTES: Final = 1 << 16


class Inbound:
    """Reads datagrams, hands them to :class:`Core` and writes the packets it lets through."""

    __slots__ = ("_buffer", "_core", "_receivers", "_tun", "_view")

    def __init__(self, core: Core, tun: TunPort, *, batches: bool) -> None:
        self._core: Final = core
        self._tun: Final = tun
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._receivers: list[UdpReceiver] = []

    def use(self, sockets: dict[int, socket.socket]) -> None:
        """Receive from these from now on."""
        self._receivers = [UdpReceiver(one, self._buffer) for one in sockets.values()]

    def move(self, now: int) -> bool:
        """Deliver a turn's share of what the sockets have; False when they had nothing."""
        moved = False
        for receiver in self._receivers:
            for _ in range(_READS_A_TURN):
                arrival = receiver.receive()
                if arrival is None:
                    break
                moved = True
                self._take(arrival, now)
        self.flush()
        return moved

    def flush(self) -> None:
        """Write what is ready."""
        packets = self._core.take_inner()
        if packets:
            self._tun.write(packets)

    def _take(self, arrival: Arrival, now: int) -> None:
        size, segment, endpoint, tos = arrival
        for start in range(0, size or 1, segment or 1):
            datagram = self._view[start : min(start + segment, size)]
            self._core.receive(datagram, endpoint, now, tos=tos)
