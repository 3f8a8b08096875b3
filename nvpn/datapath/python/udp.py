"""Datagrams out and in, many with one system call where the kernel can.

Sending survives whatever a network does to a tunnel: offloads that an interface lacks,
routes that come and go, our own address vanishing, firewalls, full queues. What cannot
be sent is counted and forgotten, as UDP has it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from nvpn.datapath.ancillary import (
    CONTROL_BYTES,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    ControlMessage,
    build_control,
    parse_control,
)
from nvpn.datapath.buffers import Bytes
from nvpn.datapath.commands import PeerId
from nvpn.datapath.offloads import MAX_UDP_PAYLOAD
from nvpn.datapath.ports import Descriptors
from nvpn.datapath.python.core import Core, Outgoing
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import UDP_PATH, Endpoint

_log: Final = logging.getLogger(__name__)


_MAX_PATHS: Final = 4096
_RECEIVE_BYTES: Final = 1 << 16
_SINGLES_FOR: Final = 60 * SECOND

# Our own address on the path may be what the kernel objects to: when it has vanished, IPv4
# answers ENETUNREACH and IPv6 EINVAL.
_MAYBE_SOURCE: Final = frozenset(
    (
        errno.EINVAL,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EADDRNOTAVAIL,
        errno.ENODEV,
        errno.ENETDOWN,
        errno.EPERM,
        errno.EACCES,
    )
)
# Sending several datagrams in one call may be: EMSGSIZE when the path's MTU is below our
# segments, from kernels before 2025 EINVAL; EIO on an interface without checksum offload.
_MAYBE_MERGING: Final = frozenset((errno.EMSGSIZE, errno.EINVAL, errno.EIO, errno.EOPNOTSUPP))
# A report about an earlier datagram that this call happened to collect.
_ABOUT_ANOTHER: Final = frozenset((errno.ECONNREFUSED, errno.EINTR))


_Path = tuple[Callable[..., int], list[ControlMessage], tuple[Any, ...]]


class Arrival(NamedTuple):
    """One read: datagrams of ``segment`` bytes each, the last one of what is left."""

    size: int
    segment: int
    endpoint: Endpoint
    tos: int


class UdpSender:
    """The sending half of both sockets.

    Args:
        core: told of what was not sent, and of a source address that has to be given up.
        gso: whether to use UDP_SEGMENT where the kernel has it.
        max_segments: UDP_MAX_SEGMENTS.
    """

    __slots__ = (
        "_clock",
        "_core",
        "_paths",
        "_singles_until",
        "_sockets",
        "descriptors",
        "gso",
        "max_segments",
    )

    def __init__(
        self, core: Core, clock: Callable[[], int], *, gso: bool, max_segments: int
    ) -> None:
        self._core: Final = core
        self._clock: Final = clock
        self._sockets: dict[int, socket.socket] = {}
        # Of paths other than UDP_PATH; the engine's to change.
        self.descriptors: Final[dict[int, int]] = {}
        self._paths: dict[tuple[Endpoint, int, int], _Path] = {}
        # Where a merged send met a smaller MTU on its way: one by one until then.
        self._singles_until: dict[tuple[bytes, int, int, int], int] = {}
        self.gso = gso
        self.max_segments: Final = max_segments

    def use(self, sockets: dict[int, socket.socket]) -> None:
        """Send through these from now on: IP version to socket."""
        self._sockets = sockets
        self._paths.clear()
        self._singles_until.clear()
        if self.gso and not all(_has_gso(one) for one in sockets.values()):
            self.gso = False

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Send datagrams; those to one endpoint stay in order."""
        if len(outgoing) == 1:
            endpoint, datagram, tos, peer = outgoing[0]
            self.send_many(peer, endpoint, [datagram], len(datagram), 1, tos)
            return
        for group in _group(outgoing, self.max_segments):
            first = group[0]
            self.send_many(
                first.peer,
                first.endpoint,
                [one.datagram for one in group],
                len(first.datagram),
                len(group),
                first.tos,
            )

    def send_many(
        self,
        peer: PeerId | None,
        endpoint: Endpoint,
        pieces: Sequence[Bytes],
        segment: int,
        count: int,
        tos: int,
    ) -> bool:
        """Send ``count`` datagrams that are all of ``segment`` bytes, the last maybe shorter.

        Args:
            pieces: their bytes, one after the other, cut anywhere.

        Returns:
            whether the kernel took all of them; what it did not take is counted.
        """
        if endpoint.path != UDP_PATH:
            return self._send_on_path(peer, endpoint.path, pieces, segment)
        if count > 1 and not self.may_merge(endpoint):
            return self._send_singly(peer, endpoint, pieces, segment, tos)
        path = self._path(endpoint, tos, segment if count > 1 else 0)
        if path is None:
            self._core.note_unsent(peer, sum(map(len, pieces)), count)
            return False
        sendmsg, control, sockaddr = path
        try:
            sendmsg(pieces, control, 0, sockaddr)
        except OSError as error:
            return self._recover(error, peer, endpoint, pieces, segment, count, tos)
        return True

    def _send_on_path(
        self, peer: PeerId | None, path: int, pieces: Sequence[Bytes], segment: int
    ) -> bool:
        """Into a descriptor: one datagram a write."""
        descriptor = self.descriptors.get(path)
        whole = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        sent = True
        for start in range(0, len(whole), segment):
            one = whole[start : start + segment]
            try:
                if descriptor is not None:
                    os.write(descriptor, one)
                    continue
            except OSError:
                pass  # full, or nobody is there
            self._core.note_unsent(peer, len(one), 1)
            sent = False
        return sent

    def may_merge(self, endpoint: Endpoint) -> bool:
        """Whether several datagrams for that endpoint may leave in one call."""
        if not self.gso:
            return False
        if endpoint.path != UDP_PATH or not self._singles_until:
            return True
        until = self._singles_until.get(endpoint.remote)
        if until is None:
            return True
        if self._clock() < until:
            return False
        del self._singles_until[endpoint.remote]
        return True

    def _path(self, endpoint: Endpoint, tos: int, segment: int) -> _Path | None:
        """How to send there; None if there is no way. Remembered: it is asked for each send."""
        key = endpoint, tos, segment
        path = self._paths.get(key)
        if path is None:
            transmit = self._sockets.get(endpoint.version)
            if transmit is None:
                return None
            control = build_control(
                endpoint.version, source=endpoint.source, tos=tos, segment=segment
            )
            if len(self._paths) >= _MAX_PATHS:
                self._paths.clear()
            path = self._paths[key] = transmit.sendmsg, control, endpoint.sockaddr
        return path

    def _recover(
        self,
        error: OSError,
        peer: PeerId | None,
        endpoint: Endpoint,
        pieces: Sequence[Bytes],
        segment: int,
        count: int,
        tos: int,
    ) -> bool:
        """A send failed: find another way, each at most once, or count the loss."""
        code = error.errno
        if code in _MAYBE_SOURCE and endpoint.source is not None:
            if peer is not None:
                self._core.forget_source(peer)
            endpoint = endpoint._replace(source=None)
            return self.send_many(peer, endpoint, pieces, segment, count, tos)
        if count > 1 and code in _MAYBE_MERGING:
            # What is wrong with the endpoint is so for each alone.
            sent = self._send_singly(peer, endpoint, pieces, segment, tos)
            if sent or code == errno.EMSGSIZE:
                self._merge_less(error, endpoint)
            return sent
        if code in _ABOUT_ANOTHER and self._send_again(endpoint, pieces, segment, count, tos):
            return True
        self._core.note_unsent(peer, sum(map(len, pieces)), count)
        return False

    def _merge_less(self, error: OSError, endpoint: Endpoint) -> None:
        """The kernel refused a merged send of what it then took singly."""
        if error.errno in (errno.EMSGSIZE, errno.EINVAL):
            # The path's MTU is below our segments; alone each is cut.
            if len(self._singles_until) >= _MAX_PATHS:
                self._singles_until.clear()  # they find out again
            self._singles_until[endpoint.remote] = self._clock() + _SINGLES_FOR
        elif self.gso:
            _log.warning("merged sends are off: %s", error.strerror)
            self.gso = False

    def _send_again(
        self, endpoint: Endpoint, pieces: Sequence[Bytes], segment: int, count: int, tos: int
    ) -> bool:
        path = self._path(endpoint, tos, segment if count > 1 else 0)
        if path is None:
            return False
        sendmsg, control, sockaddr = path
        try:
            sendmsg(pieces, control, 0, sockaddr)
        except OSError:
            return False
        return True

    def _send_singly(
        self,
        peer: PeerId | None,
        endpoint: Endpoint,
        pieces: Sequence[Bytes],
        segment: int,
        tos: int,
    ) -> bool:
        whole = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        sent = True
        for start in range(0, len(whole), segment):
            one = whole[start : start + segment]
            sent = self.send_many(peer, endpoint, [one], len(one), 1, tos) and sent
        return sent


class UdpReceiver:
    """The receiving half of one socket: reads into a buffer that it shares with its owner."""

    __slots__ = ("_control", "_endpoint", "_segment", "_sockaddr", "_socket", "_tos", "_views")

    def __init__(self, bound: socket.socket, buffer: bytearray) -> None:
        self._socket: Final = bound
        self._views: Final = [memoryview(buffer)[:_RECEIVE_BYTES]]
        self._control: list[ControlMessage] | None = None
        self._sockaddr: Any = None
        self._endpoint: Endpoint | None = None
        self._tos = self._segment = 0

    def receive(self) -> Arrival | None:
        """Read once; None when nothing is there."""
        try:
            size, control, _, sockaddr = self._socket.recvmsg_into(self._views, CONTROL_BYTES)
        except OSError:
            # Empty, or an ICMP error about something sent earlier: not worth a word.
            return None
        endpoint = self._endpoint
        if endpoint is None or control != self._control or sockaddr != self._sockaddr:
            source, self._tos, self._segment = parse_control(control)
            endpoint = self._endpoint = Endpoint.from_sockaddr(sockaddr, source=source)
            self._control, self._sockaddr = control, sockaddr
        return Arrival(size, self._segment or size, endpoint, self._tos)


def borrow(descriptors: Descriptors, *, gro: bool) -> dict[int, socket.socket]:
    """Socket objects over descriptors that stay somebody else's: see ``give_back``."""
    borrowed = {}
    for version, fd in ((4, descriptors.ipv4), (6, descriptors.ipv6)):
        if fd >= 0:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            one = borrowed[version] = socket.socket(family, socket.SOCK_DGRAM, fileno=fd)
            one.setblocking(False)
            if not gro:
                try:
                    one.setsockopt(SOL_UDP, UDP_GRO, 0)
                except OSError:
                    pass  # the kernel never had it
    return borrowed


def give_back(sockets: Iterable[socket.socket]) -> None:
    """Let go of the descriptors without closing them."""
    for one in sockets:
        one.detach()


def has_gro(bound: socket.socket) -> bool:
    """Whether the kernel merges what arrives."""
    try:
        return bool(bound.getsockopt(SOL_UDP, UDP_GRO))
    except OSError:
        return False


def _has_gso(bound: socket.socket) -> bool:
    """An older kernel would send one giant datagram instead of refusing."""
    try:
        bound.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def _group(outgoing: Sequence[Outgoing], max_segments: int) -> list[list[Outgoing]]:
    """Datagrams that may leave in one call, in an order that keeps each endpoint's own."""
    groups: list[list[Outgoing]] = []
    room: dict[Endpoint, int] = {}
    last: dict[Endpoint, list[Outgoing]] = {}
    for one in outgoing:
        endpoint = one.endpoint
        size = len(one.datagram)
        group = last.get(endpoint)
        if (
            group is None
            or size > room[endpoint]
            or size > len(group[0].datagram)
            or one.tos != group[0].tos
            or one.peer != group[0].peer
            or len(group) == max_segments
        ):
            group = last[endpoint] = []
            groups.append(group)
            room[endpoint] = MAX_UDP_PAYLOAD
        group.append(one)
        # Only the last one may be shorter than the first.
        room[endpoint] = room[endpoint] - size if size == len(group[0].datagram) else 0
    return groups
