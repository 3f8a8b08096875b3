"""A client of a server, whole but for a kernel: many of them fit into one process.

Its tunnel is nvpn's own backend over UDP; only the TUN device is a socket pair, and this plays
the host behind it: it asks for a lease, pings through the tunnel, says what it should not.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time

from nvpn.channel.messages import Hello, LeaseRequest, Settings
from nvpn.daemon.channel_port import ChannelPort
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    SetEndpoint,
    SetPrivateKey,
)
from nvpn.model.endpoint import Endpoint, Source
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.prefixes import Interface, Prefix
from tests.support.memory_tunnel import MemoryTunnel

EVERYWHERE = (Prefix(4, 0, 0), Prefix(6, 0, 0))


class ClientHost:
    """Down until :meth:`up`.

    Args:
        server: whose public key; all addresses lead to it.
        number: for people.
    """

    def __init__(self, key: PrivateKey, server: PublicKey, *, number: int = 0) -> None:
        self.key = key
        self.server = server
        self.number = number
        self.tunnel = MemoryTunnel(f"client{number}")
        self.port = ChannelPort(
            self.tunnel.backend,
            loop=asyncio.get_running_loop(),
            introduce=lambda: Hello(f"client{number}", "1", ()),
        )
        self.settings: Settings | None = None

    async def up(self, address: bytes, port: int, source: bytes = b"") -> None:
        """Know the server, and speak from ``source`` if one is given."""
        where = Endpoint(address, port, source=Source(source) if source else None)
        await self.tunnel.backend.apply(
            (
                SetPrivateKey(self.key),
                AddPeer(self.server),
                SetEndpoint(self.server, where),
                *(AddAllowedIp(self.server, prefix) for prefix in EVERYWHERE),
            )
        )
        await self.tunnel.backend.bring_up()
        self.port.open()

    async def lease(self, wanted: tuple[str, ...] = ()) -> Settings:
        """Raises Unavailable, Refused."""
        request = LeaseRequest(
            f"client{self.number}", "1", tuple(Interface.parse(text) for text in wanted)
        )
        self.settings = await self.port.ask(self.server, request)
        return self.settings

    @property
    def address(self) -> bytes:
        """The leased one of IPv4: 4 bytes."""
        assert self.settings is not None
        return next(one.address for one in self.settings.addresses if len(one.address) == 4)

    async def ping(self, destination: bytes, *, source: bytes | None = None) -> float | None:
        """Seconds until the echo came back, None without one in two seconds."""
        token = os.urandom(8)
        begun = time.perf_counter()  # the loop's own clock knows milliseconds only
        await self.tunnel.send(echo_request(source or self.address, destination, token))
        deadline = begun + 2
        while (left := deadline - time.perf_counter()) > 0:
            try:
                packet = await self.tunnel.receive(left)
            except asyncio.TimeoutError:
                return None
            if packet[9] == 1 and packet[20] == 0 and packet[-len(token) :] == token:
                return time.perf_counter() - begun
        return None

    async def close(self) -> None:
        self.port.close()
        await self.tunnel.close()


def echo_request(source: bytes, destination: bytes, payload: bytes) -> bytes:
    """A whole IPv4 packet."""
    icmp = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + payload
    icmp = icmp[:2] + _checksum(icmp).to_bytes(2, "big") + icmp[4:]
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0, source, destination
    )
    return header[:10] + _checksum(header).to_bytes(2, "big") + header[12:] + icmp


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
