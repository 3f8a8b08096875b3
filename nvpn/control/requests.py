"""Reads one request at a time from a control connection, however slow or hostile it is.

A request is an operation (``get=1``), lines, and a blank line. It is read whole before
anybody acts on it, so that a client which stops half-way holds up nobody but itself,
within limits of time and size. What was read is zeroed: keys are in it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from nvpn.control.uapi import MAX_LINE
from nvpn.errors import ControlError, NvpnError

_READ_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask for.

    ``idle_seconds`` are allowed before the first byte of a request, ``request_seconds``
    from there to its end, ``answer_seconds`` to read an answer. Connections beyond
    ``connections`` are closed at once; of them ``streams`` may have answers that go on.
    """

    connections: int = 64
    streams: int = 16
    request_bytes: int = 16 << 20
    request_seconds: float = 5.0
    idle_seconds: float = 60.0
    answer_seconds: float = 30.0


class UnknownOperation(NvpnError):  # noqa: N818 - not worth an answer, as elsewhere
    """The first line names nothing that we serve; the connection is closed unanswered."""


class BadRequest(ControlError):  # noqa: N818 - not a failure of ours
    """The request cannot be read to its end, so the connection ends after the answer."""

    def __init__(self, operation: str, number: int, message: str) -> None:
        super().__init__(number, message)
        self.operation = operation


class Request:
    """One whole request. ``wipe`` it when done."""

    __slots__ = ("_body", "operation")

    def __init__(self, operation: str, body: bytearray) -> None:
        self.operation = operation
        self._body = body

    def lines(self) -> Iterator[str]:
        """The lines between the operation and the blank line.

        Raises:
            ControlError: EINVAL, a line that is no UTF-8.
        """
        start = 0
        while start < len(self._body):
            end = self._body.index(b"\n", start)
            try:
                yield self._body[start:end].decode()
            except UnicodeDecodeError:
                raise ControlError(errno.EINVAL, "a line is not UTF-8") from None
            start = end + 1

    def wipe(self) -> None:
        """Zero the bytes. Strings made of them are out of reach (SECURITY.md)."""
        self._body[:] = bytes(len(self._body))
        self._body.clear()


class RequestReader:
    """The incoming half of one connection."""

    def __init__(
        self, connection: socket.socket, operations: Collection[str], limits: Limits
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._operations = operations
        self._limits = limits
        self._buffer = bytearray()
        self._chunk = bytearray(_READ_BYTES)
        self.is_idle = True
        """Whether nothing has been asked that is not answered."""

    async def next(self) -> Request | None:
        """The next request; None when the client has hung up between two.

        Raises:
            BadRequest: answer, then close.
            UnknownOperation: close.
            TimeoutError, OSError: close.
        """
        self.is_idle = not self._buffer
        if self.is_idle and not await self._receive(self._limits.idle_seconds):
            return None
        self.is_idle = False
        deadline = self._loop.time() + self._limits.request_seconds
        operation = await self._read_operation(deadline)
        body = await self._read_body(operation, deadline)
        return Request(operation, body)

    def wipe(self) -> None:
        """Zero what is left."""
        self._buffer[:] = bytes(len(self._buffer))
        self._chunk[:] = bytes(len(self._chunk))

    async def _read_operation(self, deadline: float) -> str:
        longest = max(map(len, self._operations)) + len("=1\n")
        while (end := self._buffer.find(b"\n", 0, longest)) < 0:
            if len(self._buffer) >= longest or not await self._receive_by(deadline):
                raise UnknownOperation("a request begins with an operation, such as get=1")
        operation, _, one = self._buffer[:end].decode(errors="replace").partition("=")
        if one != "1" or operation not in self._operations:
            raise UnknownOperation(f"there is no operation {operation}")
        self._discard(end + 1)
        return operation

    async def _read_body(self, operation: str, deadline: float) -> bytearray:
        """The lines, each with its line end, the blank line taken away."""
        line = 0  # where the last, incomplete line begins
        while True:
            while (end := self._buffer.find(b"\n", line)) >= 0:
                if end == line:
                    body = self._buffer[:line]
                    self._discard(line + 1)
                    return body
                if operation == "get":
                    raise BadRequest(operation, errno.EINVAL, "get has no lines")
                if end - line > MAX_LINE:
                    raise BadRequest(operation, errno.EIO, "a line is too long")
                line = end + 1
            if operation == "get" and self._buffer:
                raise BadRequest(operation, errno.EINVAL, "get has no lines")
            if len(self._buffer) - line > MAX_LINE:
                raise BadRequest(operation, errno.EIO, "a line is too long")
            if len(self._buffer) > self._limits.request_bytes:
                raise BadRequest(operation, errno.EMSGSIZE, "the request is too long")
            try:
                received = await self._receive_by(deadline)
            except TimeoutError:
                raise BadRequest(operation, errno.ETIMEDOUT, "the request took too long") from None
            if not received:
                # wireguard-go applies what it has then; a client that died would leave
                # half of its changes behind.
                raise BadRequest(operation, errno.EPROTO, "the request has no blank line")

    async def _receive_by(self, deadline: float) -> bool:
        remaining = deadline - self._loop.time()
        if remaining <= 0:
            raise TimeoutError
        return await self._receive(remaining)

    async def _receive(self, seconds: float) -> bool:
        """Append what has come, waiting for it; False at the end of the stream."""
        try:
            count = await asyncio.wait_for(
                self._loop.sock_recv_into(self._connection, self._chunk), seconds
            )
        except asyncio.TimeoutError:
            raise TimeoutError from None
        self._buffer += self._chunk[:count]
        return count > 0

    def _discard(self, count: int) -> None:
        # Zeroed first: deleting only moves the rest down over it, or frees it as it is.
        self._buffer[:count] = bytes(count)
        del self._buffer[:count]
