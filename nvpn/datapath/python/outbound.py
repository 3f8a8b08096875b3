"""From the TUN device to the peers."""

from __future__ import annotations

from typing import Final

from nvpn.datapath.offloads import VIRTIO_HEADER_SIZE, BadFrame, VirtioHeader, read_frame
from nvpn.datapath.python.core import Core
from nvpn.datapath.python.tun import MAX_FRAME, TunPort
from nvpn.datapath.python.udp import UdpSender
from nvpn.errors import DropReason

_BYTES_A_TURN: Final = 4 * 65536
_FRAMES_A_TURN: Final = 64


class Outbound:
    """Reads packets, hands them to :class:`Core` and sends the datagrams it makes."""

    __slots__ = ("_buffer", "_core", "_tun", "_udp", "_view")

    def __init__(self, core: Core, tun: TunPort, udp: UdpSender, *, batches: bool) -> None:
        self._core: Final = core
        self._tun: Final = tun
        self._udp: Final = udp
        self._buffer = bytearray(MAX_FRAME)
        self._view = [memoryview(self._buffer)]

    def move(self, now: int) -> bool:
        """Send a turn's share of what the device has; False when it had nothing."""
        moved = frames = 0
        while moved < _BYTES_A_TURN and frames < _FRAMES_A_TURN:
            size = self._tun.read(self._view)
            if not size:
                break
            self._take(memoryview(self._buffer)[:size], now)
            moved += size
            frames += 1
        self.flush()
        return moved > 0

    def flush(self) -> None:
        """Send what is ready."""
        outgoing = self._core.take_datagrams()
        if outgoing:
            self._udp.send(outgoing)

    def _take(self, frame: memoryview, now: int) -> None:
        if not self._tun.vnet_hdr:
            self._core.send_inner(frame, now)
            return
        try:
            header = VirtioHeader.parse(frame)
            packets = read_frame(header, frame[VIRTIO_HEADER_SIZE:])
        except BadFrame:
            self._core.drop(DropReason.BAD_INNER)
            return
        for packet in packets:
            self._core.send_inner(packet, now)
