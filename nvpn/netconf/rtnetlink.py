"""The part of rtnetlink that a tunnel needs: packing, parsing, one blocking socket.

Our own because pyroute2 does not run on uvloop (its sockets are AF_NETLINK, which
uvloop refuses), takes 110-200 ms to import, and 340 ms for the 1000 routes that a
hundred packed messages a send do in 10.

Attributes are parsed with bounds checks although they come from the kernel: a short one
ends the message. Integers are in host order.

Source: Documentation/userspace-api/netlink and include/uapi/linux/rtnetlink.h of Linux.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from nvpn.errors import PlatformError

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400

RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_IFADDR: Final = 0x10
RTMGRP_IPV6_IFADDR: Final = 0x100

HEADER: Final = struct.Struct("=IHHII")
LINK: Final = struct.Struct("=BxHiII")
ADDRESS: Final = struct.Struct("=BBBBI")
ROUTE: Final = struct.Struct("=BBBBBBBBI")

_ATTRIBUTE: Final = struct.Struct("=HH")
_NESTED: Final = 0x8000
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12
_NLMSGERR_ATTR_MSG: Final = 1
_NLM_F_ACK_TLVS: Final = 0x200
_BATCH: Final = 100
_TIMEOUT_SECONDS: Final = 5.0
_RECEIVE_BYTES: Final = 1 << 18  # the kernel's messages and dump pages stay far below


class Request(NamedTuple):
    """One message to the kernel: its type, flags beside REQUEST and ACK, and body."""

    kind: int
    flags: int
    body: bytes


class Message(NamedTuple):
    """One message from the kernel: its type and body."""

    kind: int
    body: bytes


class Refusal(Exception):  # noqa: N818 - an answer, translated by the caller
    """The kernel's errno (positive), the request it belongs to, and its own words if any."""

    def __init__(self, number: int, index: int, reason: str) -> None:
        self.errno = number
        self.index = index
        self.reason = reason
        super().__init__(reason or os.strerror(number))


def pack_attribute(kind: int, value: bytes | int | str | Sequence[bytes]) -> bytes:
    """An attribute: bytes as they are, an int as u32, text with its NUL, or a nest."""
    if isinstance(value, int):
        payload = struct.pack("=I", value)
    elif isinstance(value, str):
        payload = value.encode() + b"\0"
    elif isinstance(value, bytes):
        payload = value
    else:
        payload = b"".join(value)
        kind |= _NESTED
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def parse_attributes(body: bytes) -> dict[int, bytes]:
    """The attributes in ``body`` by type; the last of a kind counts."""
    found = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size or offset + length > len(body):
            break
        found[kind & 0x3FFF] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += length + (-length % 4)
    return found


def parse_messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message in a datagram."""
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        if length < HEADER.size or offset + length > len(datagram):
            break
        yield kind, flags, sequence, datagram[offset + HEADER.size : offset + length]
        offset += length + (-length % 4)


def open_socket(groups: int = 0) -> socket.socket:
    """A NETLINK_ROUTE socket of this network namespace, subscribed to ``groups``."""
    try:
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            opened.bind((0, groups))
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise PlatformError("open a netlink socket", errno=error.errno or 0) from None
    return opened


class Connection:
    """Asks the kernel, waits for its answer. Not for several threads at once."""

    def __init__(self) -> None:
        self._socket = open_socket()
        self._sequence = 0
        self._socket.settimeout(_TIMEOUT_SECONDS)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                pass  # an older kernel: answers are longer, dumps unfiltered

    def close(self) -> None:
        """Let go of the descriptor."""
        self._socket.close()

    def execute(self, requests: Sequence[Request], *, ignored: frozenset[int]) -> None:
        """Do all requests in order; errnos in ``ignored`` count as done.

        Raises:
            Refusal: of the first request that was refused. Later ones of its batch of
                100 were done all the same, the batches after it were not.
        """
        for start in range(0, len(requests), _BATCH):
            self._execute_batch(requests[start : start + _BATCH], start, ignored)

    def ask(self, request: Request) -> Message:
        """The one message that answers a request. Raises Refusal."""
        for message in self._exchange(request, 0):
            return message
        raise Refusal(errno.ENODATA, 0, "")

    def dump(self, request: Request) -> list[Message]:
        """Every message of a dump. Raises Refusal."""
        return list(self._exchange(request, NLM_F_DUMP))

    def _execute_batch(
        self, batch: Sequence[Request], start: int, ignored: frozenset[int]
    ) -> None:
        first = self._sequence + 1
        self._send(batch, NLM_F_ACK)
        missing = len(batch)
        refusal: Refusal | None = None
        while missing:
            for kind, flags, sequence, body in parse_messages(self._receive()):
                if kind != _NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                missing -= 1
                found = _parse_refusal(flags, body, start + sequence - first)
                if found and found.errno not in ignored and refusal is None:
                    refusal = found
        if refusal:
            raise refusal

    def _exchange(self, request: Request, flags: int) -> Iterator[Message]:
        self._send([request], flags)
        while True:
            for kind, answer_flags, sequence, body in parse_messages(self._receive()):
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    if refusal := _parse_refusal(answer_flags, body, 0):
                        raise refusal
                    return
                yield Message(kind, body)

    def _send(self, requests: Sequence[Request], flags: int) -> None:
        packed = []
        for request in requests:
            self._sequence += 1
            length = HEADER.size + len(request.body)
            combined = NLM_F_REQUEST | flags | request.flags
            packed.append(HEADER.pack(length, request.kind, combined, self._sequence, 0))
            packed.append(request.body + bytes(-length % 4))
        try:
            self._socket.send(b"".join(packed))
        except OSError as error:
            raise PlatformError("talk to the kernel by netlink", errno=error.errno or 0) from None

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            number = error.errno or errno.ETIMEDOUT
            raise PlatformError("talk to the kernel by netlink", errno=number) from None


def _parse_refusal(flags: int, body: bytes, index: int) -> Refusal | None:
    if len(body) < 4:
        return Refusal(errno.EBADMSG, index, "")
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return None
    reason = ""
    if flags & _NLM_F_ACK_TLVS:
        # NETLINK_CAP_ACK: behind the errno only the header of our request is repeated.
        told = parse_attributes(body[4 + HEADER.size :]).get(_NLMSGERR_ATTR_MSG, b"")
        reason = told.rstrip(b"\0").decode(errors="replace").rstrip(".")
    return Refusal(-code, index, reason)
