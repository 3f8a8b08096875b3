"""The UDP sockets of a tunnel: one for each family, on one port.

They are prepared here and handed to a datapath as descriptors: source addresses, ECN
bits and merged datagrams are reported, the "don't fragment" bit is off (a hop with a
smaller MTU and filtered ICMP would swallow every full packet otherwise), and the queues
hold what a fast sender brings while Python is busy for a moment.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from dataclasses import dataclass
from typing import Final

from nvpn.datapath.ancillary import (
    IP_MTU_DISCOVER,
    IP_PKTINFO,
    IP_RECVTOS,
    IPV6_MTU_DISCOVER,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    PMTUDISC_DONT,
    SOL_UDP,
    UDP_GRO,
)
from nvpn.errors import PlatformError
from nvpn.model.endpoint import Endpoint

_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_MARK: Final = 36
_NATIVE: Final = sys.byteorder
_BUFFER_BYTES: Final = 8 << 20
_RANDOM_PORT_TRIES: Final = 100

_NO_FAMILY: Final = frozenset(
    (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL, errno.EPFNOSUPPORT)
)


@dataclass(frozen=True, slots=True)
class UdpSockets:
    """Two descriptors, non-blocking and close-on-exec, -1 for a family that is off."""

    ipv4: int
    ipv6: int
    port: int

    def close(self) -> None:
        """Close both."""
        for fd in (self.ipv4, self.ipv6):
            if fd >= 0:
                socket.close(fd)


def open_udp(port: int = 0, fwmark: int = 0, *, gro: bool = True) -> UdpSockets:
    """Bind IPv4 and IPv6 to the same port; go on with one family if the other is off.

    Args:
        port: 0 for any that is free in both families.
        fwmark: SO_MARK of outgoing packets; 0 is none.
        gro: let the kernel merge incoming datagrams where it can.

    Raises:
        PlatformError: EADDRINUSE if the port is taken, EPERM if a mark is not permitted.
    """
    for attempt in range(_RANDOM_PORT_TRIES):
        with contextlib.ExitStack() as opened:
            ipv4 = _bind(socket.AF_INET, port, fwmark, gro, opened)
            chosen = ipv4.getsockname()[1] if ipv4 is not None else port
            try:
                ipv6 = _bind(socket.AF_INET6, chosen, fwmark, gro, opened)
            except PlatformError as error:
                # A port that is free in one family may be taken in the other.
                if error.errno != errno.EADDRINUSE or port or attempt + 1 == _RANDOM_PORT_TRIES:
                    raise
                continue
            if ipv4 is None and ipv6 is None:
                raise PlatformError(
                    "open a UDP socket",
                    errno=errno.EAFNOSUPPORT,
                    hint="neither IPv4 nor IPv6 is there",
                )
            if ipv6 is not None:
                chosen = ipv6.getsockname()[1]
            opened.pop_all()
            return UdpSockets(
                ipv4.detach() if ipv4 is not None else -1,
                ipv6.detach() if ipv6 is not None else -1,
                chosen,
            )
    raise AssertionError("the last attempt returns or raises")


def set_fwmark(sockets: UdpSockets, fwmark: int) -> None:
    """Mark outgoing packets from now on; 0 is no mark.

    Raises:
        PlatformError: EPERM without CAP_NET_ADMIN.
    """
    for fd in (sockets.ipv4, sockets.ipv6):
        if fd >= 0:
            borrowed = socket.socket(fileno=fd)
            try:
                _set_mark(borrowed, fwmark)
            finally:
                borrowed.detach()


def has_way(endpoint: Endpoint, fwmark: int = 0) -> bool:
    """Whether this host has a route to the endpoint. Sends nothing."""
    family = socket.AF_INET if endpoint.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            if fwmark:
                _set_mark(probe, fwmark)
            probe.connect(endpoint.sockaddr)
    except (OSError, PlatformError):
        return False
    return True


def _bind(
    family: socket.AddressFamily,
    port: int,
    fwmark: int,
    gro: bool,
    opened: contextlib.ExitStack,
) -> socket.socket | None:
    """A prepared socket, or None where the machine has no such family."""
    try:
        bound = opened.enter_context(
            socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        )
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(("", port) if family == socket.AF_INET else ("::", port))
    except OSError as error:
        if error.errno in _NO_FAMILY:
            return None
        raise PlatformError(
            f"bind UDP port {port}",
            errno=error.errno or 0,
            hint=_BIND_HINTS.get(error.errno or 0, ""),
        ) from None
    if fwmark:
        _set_mark(bound, fwmark)
    _prepare(bound, family, gro)
    return bound


_BIND_HINTS: Final = {
    errno.EADDRINUSE: "choose another listen port, or stop what uses this one",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE: for the unit by low-port.conf,"
    " see nvpn(8)",
}


def _set_mark(bound: socket.socket, fwmark: int) -> None:
    try:
        # The kernel reads 32 unsigned bits from what Python takes as a signed number.
        bound.setsockopt(socket.SOL_SOCKET, _SO_MARK, fwmark.to_bytes(4, _NATIVE))
    except OSError as error:
        raise PlatformError(
            f"set the firewall mark {fwmark:#x}",
            errno=error.errno or 0,
            hint="needs CAP_NET_ADMIN" if error.errno == errno.EPERM else "",
        ) from None


def _prepare(bound: socket.socket, family: socket.AddressFamily, gro: bool) -> None:
    for forced, modest in (
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
    ):
        if not _try_option(bound, socket.SOL_SOCKET, forced, _BUFFER_BYTES):
            _try_option(bound, socket.SOL_SOCKET, modest, _BUFFER_BYTES)
    if family == socket.AF_INET:
        level, discover = socket.IPPROTO_IP, IP_MTU_DISCOVER
        reports = (IP_PKTINFO, IP_RECVTOS)
    else:
        level, discover = socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER
        reports = (IPV6_RECVPKTINFO, IPV6_RECVTCLASS)
    _try_option(bound, level, discover, PMTUDISC_DONT)
    for report in reports:
        _try_option(bound, level, report, 1)
    if gro:
        _try_option(bound, SOL_UDP, UDP_GRO, 1)


def _try_option(bound: socket.socket, level: int, option: int, value: int) -> bool:
    """Set what merely makes things better where the kernel has it."""
    try:
        bound.setsockopt(level, option, value)
    except OSError:
        return False
    return True
