"""A control socket where `wg` looks for it, which notes every byte that it is asked."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.support.answering import AnsweringSocket
from tests.support.world import SOCKETS


class NotingDaemon:
    """Answers ``get`` with ``answer`` and ``set`` with ``errno``; ``sets`` are the requests."""

    def __init__(self, path: Path) -> None:
        self.answer: list[str] = []
        self.errno = 0
        self.sets: list[str] = []
        path.parent.mkdir(exist_ok=True)
        self._socket = AnsweringSocket(path, self._converse)

    def take(self) -> list[str]:
        """What was set since the last time."""
        taken, self.sets = self.sets, []
        return taken

    def close(self) -> None:
        self._socket.close()

    def _converse(self, connection: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\n\n"):
            chunk = connection.recv(65536)
            if not chunk:
                return  # wg looks first whether anybody is there
            request += chunk
        if request.startswith(b"get=1\n"):
            lines = [*self.answer, "errno=0"]
        else:
            self.sets.append(request.decode())
            lines = [f"errno={-self.errno}"]
        connection.sendall("".join(f"{line}\n" for line in lines).encode() + b"\n")


@contextlib.contextmanager
def noting_daemon() -> Iterator[tuple[str, NotingDaemon]]:
    """The daemon and its interface's name."""
    name = f"w5{os.urandom(4).hex()}"
    path = SOCKETS / f"{name}.sock"
    daemon = NotingDaemon(path)
    try:
        yield name, daemon
    finally:
        daemon.close()
        path.unlink(missing_ok=True)
