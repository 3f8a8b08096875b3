"""Packets to and from the overlay device, with its offloads or without."""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.coalesce import TunWrite, coalesce
from nvpn.datapath.offloads import NO_OFFLOAD, VIRTIO_HEADER_SIZE
from nvpn.datapath.ports import Device
from nvpn.datapath.python.core import Core
from nvpn.errors import DropReason

_log: Final = logging.getLogger(__name__)


MAX_FRAME: Final = VIRTIO_HEADER_SIZE + 65535

# The device was deleted, or moved out of reach (EFAULT: while a read was under way).
_GONE: Final = frozenset((errno.EBADFD, errno.EBADF, errno.EFAULT, errno.ENODEV, errno.ENXIO))
# There may be more to read after these: nothing is there now, or the kernel gave one packet
# up, which it could not describe in a header (EINVAL) or had no memory for.
_PASSING: Final = frozenset((errno.EAGAIN, errno.EINTR, errno.EINVAL, errno.ENOMEM, errno.ENOBUFS))


class TunPort:
    """Both directions of the device. Its queues are read in turn, and the first written to.

    ``tso`` and ``uso`` say what may be merged in a write; ``gone`` is the errno with
    which the device was found to be gone, 0 before that.
    """

    __slots__ = ("_core", "_fd", "_unread", "gone", "tso", "uso", "vnet_hdr")

    def __init__(self, device: Device, core: Core, *, tso: bool, uso: bool) -> None:
        self._core: Final = core
        self._fd: Final = device.fds[0]
        self._unread: Final = deque(device.fds)
        self.vnet_hdr: Final = device.vnet_hdr
        self.tso = device.vnet_hdr and device.tso and tso
        self.uso = device.vnet_hdr and device.uso and uso
        self.gone = 0

    def read(self, buffers: Sequence[memoryview | bytearray]) -> int:
        """Read one frame, header included; 0 when there is none in any queue."""
        queues = self._unread
        for _ in range(len(queues)):
            queues.rotate(-1)
            try:
                size = os.readv(queues[-1], buffers)
            except OSError as error:
                if error.errno not in _PASSING:
                    self._failed(error)
                    return 0
            else:
                if not size:
                    self.gone = self.gone or errno.ENODEV
                return size
        return 0

    def write(self, packets: Sequence[Bytes]) -> None:
        """Write plain packets, merged where that is possible; each flow stays in order."""
        if not self.vnet_hdr:
            for packet in packets:
                self._write_pieces([packet])
        elif len(packets) == 1 or not (self.tso or self.uso):
            for packet in packets:
                self._write_pieces([NO_OFFLOAD, packet])
        else:
            for merged in coalesce(packets, tso=self.tso, uso=self.uso):
                self.write_merged(merged)

    def write_merged(self, merged: TunWrite) -> None:
        """Write what belongs together, or its packets one by one if the kernel refuses."""
        try:
            os.writev(self._fd, merged.pieces)
        except OSError as error:
            if error.errno == errno.EINVAL and len(merged.packets) > 1:
                # Some kernels of 2024 refuse a short last segment, some vendors' any.
                _log.warning("merged writes to the tunnel device are off: %s", error.strerror)
                self.tso = self.uso = False
                for packet in merged.packets:
                    self._write_pieces([NO_OFFLOAD, packet])
            else:
                self._lost(error, len(merged.packets))

    def _write_pieces(self, pieces: list[Bytes]) -> None:
        try:
            os.writev(self._fd, pieces)
        except OSError as error:
            self._lost(error, 1)

    def _lost(self, error: OSError, packets: int) -> None:
        """Queue full, interface down (EIO), a packet the kernel dislikes, or no device."""
        self._core.drop(DropReason.TUN_WRITE_FAILED, packets)
        if error.errno in _GONE or error.errno in (errno.EPIPE, errno.ECONNRESET):
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        self.gone = self.gone or error.errno or errno.ENODEV
