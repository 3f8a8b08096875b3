"""A service manager's ear: the socket that $NOTIFY_SOCKET names."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType

Message = dict[str, str]


class NotifySocket:
    """Hears what a service says, in the order in which it says it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self._socket.settimeout(30)

    def __enter__(self) -> NotifySocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def next(self) -> Message:
        """The next message; waits for it, and fails when it does not come."""
        return _parse(self._socket.recv(65536))

    def rest(self) -> list[Message]:
        """All that have been sent and not been asked for."""
        self._socket.setblocking(False)
        messages = []
        while True:
            try:
                messages.append(_parse(self._socket.recv(65536)))
            except BlockingIOError:
                self._socket.settimeout(30)
                return messages

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        if self.address[0] != "@":
            Path(self.address).unlink(missing_ok=True)


def _parse(datagram: bytes) -> Message:
    pairs = [line.partition("=") for line in datagram.decode().split("\n")]
    assert all(name and equals for name, equals, _ in pairs), datagram
    return {name: value for name, _, value in pairs}
