"""Asking the kernel by rtnetlink: pyroute2 packs and parses, one blocking socket carries.

The socket is pyroute2's ``IPRSocket``, which it makes for poll and select loops, and not its
``IPRoute``: that one runs an asyncio loop of its own inside each call, which Python refuses
where a loop runs already, and which cannot be uvloop (no AF_NETLINK there). It would take a
thread, a second loop and their descriptors, and waits without end for an answer that got
lost. Here a call is a system call or two in whatever thread and network namespace it is
made, and knows no loop at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pyroute2.netlink import (
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
    nlmsg,
)
from pyroute2.netlink.rtnl.iprsocket import IPRSocket

from nvpn.errors import PlatformError

BATCH: Final = 100
"""Requests in one send."""

_TIMEOUT_SECONDS: Final = 5.0
_KIND: Final = struct.Struct("=HHI")  # type, flags, sequence number


class Refusal(Exception):  # noqa: N818 - an answer, translated by the caller
    """The kernel's errno (positive), the request it belongs to, and its own words if any."""

    def __init__(self, number: int, index: int = 0, reason: str = "") -> None:
        self.errno = number
        self.index = index
        self.reason = reason
        super().__init__(reason or os.strerror(number))


def open_socket(groups: int = 0) -> IPRSocket:
    """A socket of this network namespace, subscribed to the RTMGRP_* in ``groups``.

    Raises:
        PlatformError: no descriptors left, …
    """
    opened = IPRSocket()
    try:
        # Not its own bind, which tries 180 port numbers and forgets why they were refused:
        # with 0 the kernel picks one that is free.
        opened.socket.bind((0, groups))
    except OSError as error:
        opened.close()
        raise PlatformError("open a netlink socket", errno=error.errno or 0) from None
    return opened


def pack(message: nlmsg, kind: int, flags: int) -> bytes:
    """A request that the kernel answers only if it refuses it. Its sequence number is 0."""
    message["header"].update(type=kind, flags=NLM_F_REQUEST | flags, sequence_number=0, pid=0)
    message.reset()
    message.encode()
    return bytes(message.data)


class Connection:
    """Asks the kernel, waits for its answer. Not for several threads at once."""

    def __init__(self) -> None:
        self._socket = open_socket()
        self._socket.socket.settimeout(_TIMEOUT_SECONDS)
        self._sequence = 0
        for option in (NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            with contextlib.suppress(OSError):  # an older kernel: no words, unfiltered dumps
                self._socket.setsockopt(SOL_NETLINK, option, 1)

    def close(self) -> None:
        """Let go of the descriptor."""
        self._socket.close()

    def ask(self, message: nlmsg, kind: int) -> nlmsg:
        """The one message that answers a request. Raises Refusal, PlatformError."""
        answers = self._exchange([pack(message, kind, NLM_F_ACK)])
        if not answers:
            raise Refusal(errno.ENODATA)
        return answers[0]

    def dump(self, message: nlmsg, kind: int) -> list[nlmsg]:
        """Every message of a dump. Raises Refusal, PlatformError."""
        return self._exchange([pack(message, kind, NLM_F_DUMP)])

    def dump_raw(self, message: nlmsg, kind: int, take: Callable[[bytes], None]) -> None:
        """Give ``take`` every message of a dump as it came. Raises Refusal, PlatformError."""
        marshal = self._socket.marshal

        def parse(data: bytes, offset: int, length: int) -> nlmsg | None:
            kind, flags, sequence = _KIND.unpack_from(data, offset + 4)
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                return marshal.parse_one_message(kind, flags, sequence, data, offset, length)
            take(data[offset : offset + length])
            return None

        sequence = self._sequence + 1
        marshal.seq_map[sequence] = parse
        try:
            self._exchange([pack(message, kind, NLM_F_DUMP)])
        finally:
            del marshal.seq_map[sequence]

    def change(self, message: nlmsg, kind: int, flags: int = 0) -> None:
        """Have one thing done. Raises Refusal, PlatformError."""
        self._exchange([pack(message, kind, flags | NLM_F_ACK)])

    def execute(self, requests: Sequence[bytes], *, ignored: frozenset[int] = frozenset()) -> None:
        """Do what many packed requests want, in order; errnos in ``ignored`` are fine.

        Raises:
            Refusal: of the first request that was refused. Later ones of its batch of
                100 were done all the same, the batches after it were not.
            PlatformError: there is no talking to the kernel.
        """
        for start in range(0, len(requests), BATCH):
            batch = list(requests[start : start + BATCH])
            # Refusals come by themselves, in order; this one tells when all is done.
            batch[-1] = _with_flag(batch[-1], NLM_F_ACK)
            try:
                self._exchange(batch, ignored)
            except Refusal as refusal:
                refusal.index += start
                raise

    def _exchange(
        self, requests: Sequence[bytes], ignored: frozenset[int] = frozenset()
    ) -> list[nlmsg]:
        first = self._sequence + 1
        self._sequence += len(requests)
        numbered = map(_with_sequence, requests, range(first, self._sequence + 1))
        answers: list[nlmsg] = []
        refusal: Refusal | None = None
        try:
            self._socket.send(b"".join(numbered))
            for message in self._receive(first):
                if message["header"]["type"] != NLMSG_ERROR:
                    answers.append(message)
                elif message["error"] and -message["error"] not in ignored:
                    refusal = refusal or _read_refusal(message, first)
        except OSError as error:
            number = error.errno or errno.ETIMEDOUT
            raise PlatformError("talk to the kernel by netlink", errno=number) from None
        if refusal is not None:
            raise refusal
        return answers

    def _receive(self, first: int) -> Iterator[nlmsg]:
        """Answers to the requests since ``first``, to the end of those to the last one."""
        while True:
            for message in self._socket.get():
                header = message["header"]
                # Others belong to a request that nobody waits for any more.
                if not first <= header["sequence_number"] <= self._sequence:
                    continue
                is_end = header["type"] in (NLMSG_ERROR, NLMSG_DONE)
                if header["type"] != NLMSG_DONE:
                    yield message
                if is_end and header["sequence_number"] == self._sequence:
                    return


def _read_refusal(message: nlmsg, first: int) -> Refusal:
    reason = (message.get_attr("NLMSGERR_ATTR_MSG") or "").rstrip(".")
    return Refusal(-message["error"], message["header"]["sequence_number"] - first, reason)


def _with_flag(request: bytes, flag: int) -> bytes:
    flags = int.from_bytes(request[6:8], sys.byteorder) | flag
    return request[:6] + flags.to_bytes(2, sys.byteorder) + request[8:]


def _with_sequence(request: bytes, sequence: int) -> bytes:
    return request[:8] + sequence.to_bytes(4, sys.byteorder) + request[12:]
