"""Where a peer is reached, and from which of our own addresses."""

from __future__ import annotations

import socket
from typing import Any, Final, NamedTuple

from nvpn.model.prefixes import format_address, parse_address

UDP_PATH: Final = 0


class Source(NamedTuple):
    """Our own side of a path: the address a peer's packets arrived at.

    Answers leave from there (it is *sticky*) until the kernel says that it is gone.
    ``interface`` is the kernel's index, 0 for any.
    """

    address: bytes
    interface: int = 0


class Endpoint(NamedTuple):
    """A peer's address on a path.

    ``path`` is UDP_PATH for our UDP sockets, or the number of a datagram descriptor
    (a relay, a TLS connection) for which ``address`` may be empty. ``scope`` is the
    interface index of a link-local IPv6 address. ``learned_at`` is boot-clock
    nanoseconds: of two endpoints the one learned later wins.
    """

    address: bytes
    port: int
    scope: int = 0
    source: Source | None = None
    path: int = UDP_PATH
    learned_at: int = 0

    @property
    def version(self) -> int:
        """4 or 6: which UDP socket serves it."""
        return 4 if len(self.address) == 4 else 6

    @property
    def remote(self) -> tuple[bytes, int, int, int]:
        """What makes two endpoints the same place to send to."""
        return self.address, self.port, self.scope, self.path

    @property
    def sockaddr(self) -> tuple[Any, ...]:
        """As Python's socket module wants it."""
        host = format_address(self.address)
        return (host, self.port) if self.version == 4 else (host, self.port, 0, self.scope)

    @classmethod
    def from_sockaddr(cls, sockaddr: tuple[Any, ...], *, source: Source | None = None) -> Endpoint:
        """From what ``recvmsg`` returned."""
        host = sockaddr[0].partition("%")[0]
        scope = sockaddr[3] if len(sockaddr) == 4 else 0
        return cls(parse_address(host), sockaddr[1], scope, source)

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``192.0.2.1:51820`` or ``[2001:db8::1%eth0]:51820``: no names.

        Raises:
            ValueError: with a sentence about what was expected.
        """
        host, port = split_host_port(text)
        bracketed = text.startswith("[")
        address, percent, zone = host.partition("%")
        packed = parse_address(address)
        if bracketed is not (len(packed) == 16):
            raise ValueError("an endpoint is written address:port or [IPv6 address]:port")
        scope = 0
        if percent:
            if len(packed) != 16:
                raise ValueError("only an IPv6 address has a zone")
            scope = _parse_zone(zone)
        return cls(packed, port, scope)

    def __str__(self) -> str:
        host = format_address(self.address) if self.address else f"path{self.path}"
        if len(self.address) != 16:
            return f"{host}:{self.port}"
        return f"[{host}{_format_zone(self.scope)}]:{self.port}"


def split_host_port(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[host]:port``; the host may be a name.

    Raises:
        ValueError: no port, a port that is no number or above 65535, a bare IPv6 address.
    """
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or not tail.startswith(":"):
            raise ValueError("an IPv6 endpoint is written [address]:port")
        port = tail[1:]
    else:
        host, _, port = text.rpartition(":")
        if ":" in host:
            raise ValueError("an IPv6 endpoint is written [address]:port")
    if not host:
        raise ValueError("an endpoint is written host:port")
    if not (port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
        raise ValueError("a port is a number from 0 to 65535")
    return host, int(port)


def _parse_zone(zone: str) -> int:
    if zone.isascii() and zone.isdigit():
        return int(zone) & 0xFFFFFFFF
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        raise ValueError("the zone of an endpoint names no interface") from None


def _format_zone(scope: int) -> str:
    if not scope:
        return ""
    try:
        return f"%{socket.if_indextoname(scope)}"
    except OSError:
        return f"%{scope}"
