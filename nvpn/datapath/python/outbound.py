"""From the TUN device to the peers."""

from __future__ import annotations

from typing import Final

from nvpn.datapath.inner import outer_tos, parse_inner, traffic_class
from nvpn.datapath.offloads import (
    VIRTIO_HEADER_SIZE,
    BadFrame,
    VirtioHeader,
    complete_checksum,
    read_frame,
)
from nvpn.datapath.python.core import Core
from nvpn.datapath.python.sealing import BatchSealer
from nvpn.datapath.python.tun import MAX_FRAME, TunPort
from nvpn.datapath.python.udp import UdpSender
from nvpn.errors import DropReason

_BYTES_A_TURN: Final = 4 * 65536
_FRAMES_A_TURN: Final = 64

# So that the IP header behind the virtio-net header is aligned to 16 bytes.
_AHEAD: Final = 16 - VIRTIO_HEADER_SIZE


class Outbound:
    """Reads packets, hands them to :class:`Core` and sends the datagrams it makes."""

    __slots__ = ("_core", "_frame", "_into", "_packet", "_sealer", "_tun", "_udp")

    def __init__(self, core: Core, tun: TunPort, udp: UdpSender, *, batches: bool) -> None:
        self._core: Final = core
        self._tun: Final = tun
        self._udp: Final = udp
        buffer = bytearray(_AHEAD + MAX_FRAME)
        self._frame: Final = memoryview(buffer)[_AHEAD:]
        self._packet: Final = self._frame[VIRTIO_HEADER_SIZE:]
        self._into: Final = [self._frame]
        self._sealer: Final = (
            BatchSealer(buffer, _AHEAD + VIRTIO_HEADER_SIZE, udp.max_segments) if batches else None
        )

    def move(self, now: int) -> None:
        """Send a turn's share of what the device has."""
        moved = frames = 0
        while moved < _BYTES_A_TURN and frames < _FRAMES_A_TURN:
            size = self._tun.read(self._into)
            if not size:
                break
            self._take(size, now)
            moved += size
            frames += 1
        self.flush()

    def flush(self) -> None:
        """Send what is ready."""
        outgoing = self._core.take_datagrams()
        if outgoing:
            self._udp.send(outgoing)

    def _take(self, size: int, now: int) -> None:
        """Send what was read into the buffer: ``size`` bytes."""
        frame = self._frame[:size]
        if not self._tun.vnet_hdr:
            self._core.send_inner(frame, now)
            return
        packet = frame[VIRTIO_HEADER_SIZE:]
        try:
            header = VirtioHeader.parse(frame)
            if not header.gso_type:
                complete_checksum(header, packet)
                self._core.send_inner(packet, now)
            elif not self._sealer or not self._seal_batch(self._sealer, header, len(packet), now):
                for segment in read_frame(header, packet):
                    self._core.send_inner(segment, now)
        except BadFrame:
            self._core.drop(DropReason.BAD_INNER)

    def _seal_batch(self, sealer: BatchSealer, header: VirtioHeader, size: int, now: int) -> bool:
        """Send a superpacket in one go; False if it has to go the plain way."""
        core = self._core
        layout = sealer.recognise(header, size, core.mtu)
        inner = parse_inner(self._packet)
        if layout is None or inner is None or inner.length != size:
            return False
        peer = core.passage.reached_by(inner, self._packet)
        if peer is None or peer.endpoint is None or core.own.hold(self._packet, inner):
            return False
        endpoint, keypair = peer.endpoint, peer.sending_keypair(now)
        if keypair is None:
            return False
        batches = sealer.seal(layout, size, keypair, now)
        if batches is None:
            return False
        self.flush()
        core.passage.note_sent(peer.id, self._packet[:size], now)
        tos = outer_tos(traffic_class(self._packet))
        for datagrams, segment, packets in batches:
            self._udp.send_many(peer.id, endpoint, [datagrams], segment, packets, tos)
            peer.note_sent(now, len(datagrams), packets, data=True, keypair=keypair)
        return True
