"""From the TUN device to the peers."""

from __future__ import annotations

from typing import Final

from nvpn.datapath.inner import outer_tos, parse_inner, traffic_class
from nvpn.datapath.offloads import VIRTIO_HEADER_SIZE, BadFrame, VirtioHeader, read_frame
from nvpn.datapath.python.core import Core
from nvpn.datapath.python.sealing import BatchSealer, recognise
from nvpn.datapath.python.tun import MAX_FRAME, TunPort
from nvpn.datapath.python.udp import UdpSender
from nvpn.errors import DropReason

_BYTES_A_TURN: Final = 4 * 65536
_FRAMES_A_TURN: Final = 64

# So that the IP header behind the virtio-net header is aligned to 16 bytes.
_AHEAD: Final = 16 - VIRTIO_HEADER_SIZE


class Outbound:
    """Reads packets, hands them to :class:`Core` and sends the datagrams it makes."""

    __slots__ = ("_buffer", "_core", "_sealer", "_tun", "_udp", "_view")

    def __init__(self, core: Core, tun: TunPort, udp: UdpSender, *, batches: bool) -> None:
        self._core: Final = core
        self._tun: Final = tun
        self._udp: Final = udp
        self._buffer = bytearray(_AHEAD + MAX_FRAME)
        self._view = [memoryview(self._buffer)[_AHEAD:]]
        self._sealer = BatchSealer(self._buffer, udp.max_segments) if batches else None

    def move(self, now: int) -> None:
        """Send a turn's share of what the device has."""
        moved = frames = 0
        while moved < _BYTES_A_TURN and frames < _FRAMES_A_TURN:
            size = self._tun.read(self._view)
            if not size:
                break
            self._take(self._view[0][:size], now)
            moved += size
            frames += 1
        self.flush()

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
            if header.gso_type and self._seal_batch(header, frame[VIRTIO_HEADER_SIZE:], now):
                return
            packets = read_frame(header, frame[VIRTIO_HEADER_SIZE:])
        except BadFrame:
            self._core.drop(DropReason.BAD_INNER)
            return
        for packet in packets:
            self._core.send_inner(packet, now)

    def _seal_batch(self, header: VirtioHeader, packet: memoryview, now: int) -> bool:
        """Send a superpacket in one go; False if it has to go the plain way."""
        sealer, core = self._sealer, self._core
        shape = recognise(header, packet) if sealer is not None else None
        inner = parse_inner(packet)
        if sealer is None or shape is None or inner is None or inner.length != len(packet):
            return False
        peer = core.routes.lookup(inner.version, inner.destination)
        endpoint = peer.endpoint if peer is not None else None
        keypair = peer.sending_keypair(now) if peer is not None else None
        if peer is None or endpoint is None or keypair is None:
            return False
        sealed = sealer.seal(
            shape, _AHEAD + VIRTIO_HEADER_SIZE, len(packet), keypair, core.mtu, now
        )
        if sealed is None:
            return False
        self.flush()
        tos = outer_tos(traffic_class(packet))
        for datagrams, segment, packets in sealed:
            self._udp.send_many(peer.id, endpoint, [datagrams], segment, packets, tos)
            peer.note_sent(now, len(datagrams), packets, data=True, keypair=keypair)
        return True
