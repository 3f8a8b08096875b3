"""A whole tunnel in this process: backend, protocol, datapath and UDP on loopback.

Only the TUN device is a socket pair; whoever holds ``host`` plays the kernel.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from nvpn.backend.userspace import UserspaceBackend
from nvpn.datapath.api import Datapath
from nvpn.datapath.python.engine import PythonDatapath
from nvpn.overlay.api import Tun
from nvpn.overlay.memory import open_memory_tun
from nvpn.protocol.device import Device
from nvpn.protocol.tai64n import TimestampSource


def make_python(loop: asyncio.AbstractEventLoop, tun: Tun) -> Datapath:
    return PythonDatapath(loop, tun, mtu=1420)


def make_native(loop: asyncio.AbstractEventLoop, tun: Tun) -> Datapath:
    from nvpn.datapath.native.adapter import NativeDatapath

    return NativeDatapath(loop, tun, mtu=1420)


class MemoryTunnel:
    """Make it on a running loop. It begins down, as a backend does."""

    def __init__(
        self,
        name: str = "memory",
        *,
        make: Callable[[asyncio.AbstractEventLoop, Tun], Any] = make_python,
        wrap: Callable[[Any], Any] = lambda datapath: datapath,
        **backend_options: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.tun, self.host = open_memory_tun(name)
        self.datapath = make(loop, self.tun)
        self.device = Device(
            datapath=self.datapath,
            random=os.urandom,
            timestamps=TimestampSource(),
        )
        self.backend = UserspaceBackend(
            name=name,
            device=self.device,
            datapath=wrap(self.datapath),
            mtu=1420,
            loop=loop,
            **backend_options,
        )
        self.datapath.on_events = self.backend.handle_events

    async def send(self, packet: bytes) -> None:
        """The host sends a packet into the tunnel."""
        await self._loop.sock_sendall(self.host, packet)

    async def receive(self, seconds: float = 60) -> bytes:
        """The next packet that comes out of the tunnel to the host."""
        return await asyncio.wait_for(self._loop.sock_recv(self.host, 65536), seconds)

    async def close(self) -> None:
        await self.backend.close()
        self.tun.close()
        self.host.close()


def ipv4_packet(source: str, destination: str, payload: bytes = b"") -> bytes:
    """A packet of an experimental protocol (253) that is complete enough to be routed."""
    header = bytearray(20)
    header[0] = 0x45
    header[2:4] = (20 + len(payload)).to_bytes(2, "big")
    header[8], header[9] = 64, 253
    header[12:16] = socket.inet_aton(source)
    header[16:20] = socket.inet_aton(destination)
    total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = (total ^ 0xFFFF).to_bytes(2, "big")
    return bytes(header) + payload
