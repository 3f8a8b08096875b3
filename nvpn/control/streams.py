"""Answers that go on: lines for a client as they come, until it hangs up or there are no more.

A client that reads slowly holds up this one exchange and nothing else; what is kept for it
meanwhile is bounded by whoever makes the lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol

_BEGINNING: Final = b"nvpn_streaming=1\n"
_PREFIX: Final = "nvpn_message="


class Telling(Protocol):
    """Somebody who has something to tell to one client, from the moment it was made."""

    async def next(self) -> str:
        """One or more lines, waiting for them; empty: the end."""

    def close(self) -> None:
        """The client is gone."""


Stream = Callable[[Sequence[str]], Telling]
"""One of the daemon's own: lines of the request in. Raises NvpnError to refuse."""


async def send_stream(connection: socket.socket, telling: Telling) -> bool:
    """Send until there is no more: True; or until the client hangs up: False.

    Raises:
        OSError: the client hung up while something was sent.
    """
    loop = asyncio.get_running_loop()
    sending = loop.create_task(_send(connection, telling))
    hearing = loop.create_task(_hear(connection))
    try:
        await asyncio.wait((sending, hearing), return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            return False
        sending.result()
        return True
    finally:
        telling.close()
        for task in (sending, hearing):
            task.cancel()
        await asyncio.gather(sending, hearing, return_exceptions=True)


async def _send(connection: socket.socket, telling: Telling) -> None:
    loop = asyncio.get_running_loop()
    # From here on the client misses nothing.
    await loop.sock_sendall(connection, _BEGINNING)
    while text := await telling.next():
        lines = "".join(f"{_PREFIX}{line}\n" for line in text.splitlines())
        await loop.sock_sendall(connection, lines.encode())
        await asyncio.sleep(0)  # let packets through meanwhile


async def _hear(connection: socket.socket) -> None:
    """A client has nothing more to say: what comes is its end, and so is anything else."""
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_recv(connection, 1)
