"""A TUN device that exists in memory only: one end for the datapath, one for a test.

Packets keep their borders (SOCK_SEQPACKET), a full queue blocks as a TUN's does, and
with ``vnet_hdr`` each carries its 10 byte header in both directions. No kernel stack is
behind it: whoever holds the far end plays the host. A device of several queues has a far
end for each, and the host chooses the queue of what it sends.
"""

from __future__ import annotations

import socket

from nvpn.overlay.api import Tun

_BUFFER_BYTES = 8 << 20


def open_memory_tun(
    name: str = "memory", *, vnet_hdr: bool = False, tso: bool = True, uso: bool = True
) -> tuple[Tun, socket.socket]:
    """A device and its far end; both non-blocking.

    Closing the far end makes the device read end-of-file, which stands for its deletion.
    """
    tun, (far,) = open_memory_queues(1, name, vnet_hdr=vnet_hdr, tso=tso, uso=uso)
    return tun, far


def open_memory_queues(
    queues: int,
    name: str = "memory",
    *,
    vnet_hdr: bool = False,
    tso: bool = True,
    uso: bool = True,
) -> tuple[Tun, tuple[socket.socket, ...]]:
    """A device of several queues, and the far end of each; see :func:`open_memory_tun`."""
    ends = [_connect() for _ in range(queues)]
    fds = tuple(near.detach() for near, _ in ends)
    tun = Tun(fds, name, vnet_hdr, vnet_hdr and tso, vnet_hdr and uso)
    return tun, tuple(far for _, far in ends)


def _connect() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (near, far):
        end.setblocking(False)
        for option, forced in (
            (socket.SO_SNDBUF, getattr(socket, "SO_SNDBUFFORCE", 32)),
            (socket.SO_RCVBUF, getattr(socket, "SO_RCVBUFFORCE", 33)),
        ):
            try:
                end.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
            except OSError:
                end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return near, far
