"""TCP connections between two network namespaces, for as long as what they carry takes."""

from __future__ import annotations

import random
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.support.pinging import inside
from tests.support.world import Host

_SECONDS: Final = 300
"""Without any progress. A lossy or busy way may be slow."""


def stream(source: Host, target: Host, address: str, size: int, *, count: int = 1) -> int:
    """Send ``size`` bytes on each of ``count`` connections, all at once, from host to host.

    All of it has to arrive, unharmed. Returns the data bytes of the largest segment that the
    connections ended with.
    """
    data = random.Random(size).randbytes(size)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def send(place: tuple[str, int]) -> int:
        with inside(source.netns, lambda: socket.socket(family)) as sender:
            sender.settimeout(_SECONDS)
            sender.connect(place)
            sender.sendall(data)
            sender.shutdown(socket.SHUT_WR)
            assert sender.recv(1) == b"", "until the other end has all"
            return _segment(sender)

    def receive(receiver: socket.socket) -> bool:
        with receiver:
            receiver.settimeout(_SECONDS)
            return b"".join(iter(lambda: receiver.recv(1 << 16), b"")) == data

    with (
        inside(
            target.netns, lambda: socket.create_server((address, 0), family=family, backlog=count)
        ) as listener,
        ThreadPoolExecutor(2 * count) as pool,
    ):
        listener.settimeout(_SECONDS)
        sending = [pool.submit(send, listener.getsockname()[:2]) for _ in range(count)]
        receiving = [pool.submit(receive, listener.accept()[0]) for _ in range(count)]
        assert all(one.result() for one in receiving), "all is as it was sent"
        return max(one.result() for one in sending)


def _segment(connection: socket.socket) -> int:
    """``tcpi_snd_mss`` of linux/tcp.h."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, 16)[0])
