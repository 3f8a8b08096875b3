"""A socket in the file system that a thread answers at, a connection after the other."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path


class AnsweringSocket:
    """``converse`` has each connection, and may leave it when it likes."""

    def __init__(self, path: Path, converse: Callable[[socket.socket], None]) -> None:
        self._converse = converse
        self._listener = socket.socket(socket.AF_UNIX)
        # Whatever refuses, `wg` of another test takes for dead, and removes: it gets its name
        # once it listens.
        unnamed = path.with_suffix("")
        self._listener.bind(str(unnamed))
        self._listener.listen(64)
        unnamed.rename(path)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; the socket file stays, as after `kill -9`."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(30)
                self._converse(connection)
