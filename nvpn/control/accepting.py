"""Takes connections from a socket, on the event loop, whatever the kernel says.

Rather than asyncio's servers, whose troubles with a socket are told to the loop, and would
end the tunnel.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

_ACCEPTS_A_TURN: Final = 16
_PAUSE_SECONDS: Final = 0.5


class Acceptor:
    """Accepts from the moment it is made until :meth:`stop`.

    Args:
        listener: listens, and does not block; stays the caller's to close, after ``stop``.
        accepted: gets each connection, which does not block, and is its own to close.
        failed: told what the kernel refuses; it is tried again in half a second.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        accepted: Callable[[socket.socket], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._accepted = accepted
        self._failed = failed
        self._pause: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self._go_on()

    def stop(self) -> None:
        """Accept no more. Again: nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            if self._is_stopped:
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # The listener stays readable, so that the loop would call us again for ever.
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._go_on)
                self._failed(error)
                return
            connection.setblocking(False)
            self._accepted(connection)
