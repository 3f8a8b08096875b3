"""A UDP socket at a link-local address of a tunnel: the host's own way into it."""

from __future__ import annotations

import socket

from nvpn.errors import PlatformError
from nvpn.model.prefixes import format_address, parse_address

_MAX_DATAGRAM = 2048


class LinkLocalUdp:
    """Datagrams between one port of link-local addresses on one interface.

    Args:
        address: 16 bytes, an address that the interface has.
        port: of both sides.
        index: the interface's.

    Raises:
        PlatformError: the interface has no such address, the port is taken, there is no IPv6.
    """

    def __init__(self, address: bytes, port: int, index: int) -> None:
        self._port = port
        self._index = index
        try:
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        except OSError as error:
            raise PlatformError("open an IPv6 socket", errno=error.errno or 0) from None
        try:
            self._socket.setblocking(False)
            self._socket.bind((format_address(address), port, 0, index))
        except OSError as error:
            self._socket.close()
            operation = f"bind UDP port {port} of {format_address(address)}"
            raise PlatformError(operation, errno=error.errno or 0) from None

    def fileno(self) -> int:
        """For the event loop's ``add_reader``."""
        return self._socket.fileno()

    def send(self, address: bytes, payload: bytes) -> None:
        """To the port of another address; it may get lost, as datagrams do."""
        try:
            self._socket.sendto(payload, (format_address(address), self._port, 0, self._index))
        except OSError:
            pass  # no room, no key yet, no such peer, no address: all of that is loss

    def receive(self) -> tuple[bytes, bytes] | None:
        """A sender's address and what it sent, b"" from another port; None: nothing for now.

        One datagram at a time, so that nobody can keep the caller in here.
        """
        try:
            payload, place = self._socket.recvfrom(_MAX_DATAGRAM)
        except OSError:
            return None  # nothing, or an ICMP error about what was sent: the socket tells of more
        address = parse_address(place[0].partition("%")[0])
        return address, payload if place[1] == self._port else b""

    def close(self) -> None:
        """Let go of the socket. Again: nothing."""
        self._socket.close()
