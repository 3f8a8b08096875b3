"""Asking a family of the kernel's generic netlink, by one blocking socket.

As :mod:`nvpn.netconf.linux_netlink` for rtnetlink: pyroute2 packs requests, and its own
sockets, which run a loop inside, stay out. Answers are given as bytes, in buffers that
the caller can wipe: a WireGuard's have keys in them.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final

from pyroute2.netlink import (
    CTRL_CMD_GETFAMILY,
    GENL_ID_CTRL,
    NETLINK_EXT_ACK,
    NETLINK_GENERIC,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
    ctrlmsg,
    genlmsg,
)

from nvpn.errors import PlatformError
from nvpn.netconf.linux_netlink import Refusal, pack

_TIMEOUT_SECONDS: Final = 5.0
# The kernel fills at most 32 KiB at a time.
_BUFFER_BYTES: Final = 64 * 1024
_DUMP_TRIES: Final = 8

_NETLINK_CAP_ACK: Final = 10
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200
_NLMSGERR_ATTR_MSG: Final = 1
_CTRL_ATTR_FAMILY_ID: Final = 1

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_GENERIC_HEADER_BYTES: Final = 4
_ERROR: Final = struct.Struct("=i")
_ATTRIBUTE: Final = struct.Struct("=HH")
# The upper two bits of a type are flags.
_TYPE_MASK: Final = 0x3FFF


def iter_attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and value of every attribute in ``data``; what is cut off at its end is left out."""
    at, end = 0, len(data)
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > end:
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


class GenericConnection:
    """Asks one family, waits for its answer. Not for several threads at once.

    Args:
        family: its name. A kernel that has it as a module loads that now.

    Raises:
        PlatformError: ENOENT, this kernel has no such family; no descriptors left, …
    """

    def __init__(self, family: str) -> None:
        self._buffer = bytearray(_BUFFER_BYTES)
        self._sequence = 0
        self._is_interrupted = False
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC
            )
        except OSError as error:
            raise PlatformError("open a netlink socket", errno=error.errno or 0) from None
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT_SECONDS)
            for option in (NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
                with contextlib.suppress(OSError):  # an older kernel: no words
                    self._socket.setsockopt(SOL_NETLINK, option, 1)
            self._family = self._find(family)
        except OSError as error:
            self._socket.close()
            raise PlatformError("open a netlink socket", errno=error.errno or 0) from None
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Let go of the descriptor."""
        self._socket.close()

    def change(self, message: genlmsg) -> None:
        """Have one thing done. Raises Refusal, PlatformError."""
        self._exchange(pack(message, self._family, NLM_F_ACK))

    def dump(self, message: genlmsg) -> list[bytearray]:
        """The attributes of every message of a dump. Raises Refusal, PlatformError.

        What changed while it was listed is listed again.
        """
        request = pack(message, self._family, NLM_F_DUMP)
        for _ in range(_DUMP_TRIES):
            answers = self._exchange(request)
            if not self._is_interrupted:
                break
        return answers

    def _find(self, family: str) -> int:
        message = ctrlmsg()
        message["cmd"] = CTRL_CMD_GETFAMILY
        message["version"] = 1
        message["attrs"] = [("CTRL_ATTR_FAMILY_NAME", family)]
        try:
            answers = self._exchange(pack(message, GENL_ID_CTRL, NLM_F_ACK))
        except Refusal as refusal:
            raise PlatformError(f"find the netlink family {family}", errno=refusal.errno) from None
        for answer in answers:
            for kind, value in iter_attributes(memoryview(answer)):
                if kind == _CTRL_ATTR_FAMILY_ID:
                    return int.from_bytes(value, sys.byteorder)
        raise PlatformError(f"find the netlink family {family}", errno=errno.ENOENT)

    def _exchange(self, request: bytes) -> list[bytearray]:
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        self._is_interrupted = False
        number = self._sequence.to_bytes(4, sys.byteorder)
        answers: list[bytearray] = []
        try:
            self._socket.send(request[:8] + number + request[12:])
            while not self._receive(answers):
                pass
        except OSError as error:
            # A timeout has no errno.
            raise PlatformError(
                "talk to the kernel by netlink", errno=error.errno or errno.ETIMEDOUT
            ) from None
        return answers

    def _receive(self, answers: list[bytearray]) -> bool:
        """Take what one receive brings; whether that was the end of the answer."""
        count = self._socket.recv_into(self._buffer)
        with memoryview(self._buffer)[:count] as data:
            try:
                return self._take(data, answers)
            finally:
                data[:] = bytes(count)

    def _take(self, data: memoryview, answers: list[bytearray]) -> bool:
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size or at + length > len(data):
                break
            body = data[at + _HEADER.size : at + length]
            at += length + 3 & ~3
            # Others belong to a request that nobody waits for any more.
            if sequence != self._sequence:
                continue
            if flags & _NLM_F_DUMP_INTR:
                self._is_interrupted = True
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                if len(body) >= _ERROR.size and (number := _ERROR.unpack_from(body)[0]):
                    reason = _read_reason(body, flags) if kind == NLMSG_ERROR else ""
                    raise Refusal(-number, reason=reason)
                return True
            answers.append(bytearray(body[_GENERIC_HEADER_BYTES:]))
        return False


def _read_reason(body: memoryview, flags: int) -> str:
    """The kernel's own words about a refusal, where it has some."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    # Behind the errno comes the request: its header, or all of it.
    request = _HEADER.size
    if not flags & _NLM_F_CAPPED and len(body) >= _ERROR.size + 4:
        request = int.from_bytes(body[_ERROR.size : _ERROR.size + 4], sys.byteorder) + 3 & ~3
    for kind, value in iter_attributes(body[_ERROR.size + request :]):
        if kind == _NLMSGERR_ATTR_MSG:
            return bytes(value).rstrip(b"\0").decode(errors="replace").rstrip(".")
    return ""
