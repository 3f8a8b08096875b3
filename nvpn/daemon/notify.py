"""Tells a service manager how a tunnel in front is doing.

What is sent are datagrams of ``NAME=value`` lines to a Unix socket, as sd_notify(3) of systemd
does it; other managers understand them as well. They are news, not orders: a manager that
does not listen changes nothing for the tunnel. Why a start failed is not among them, because
the exit status and the sentence on standard error say it already.

Source: sd_notify(3), "Well-known assignments".
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from nvpn.daemon.background import FrontReporter, Reporter, print_line

_VARIABLE: Final = "NOTIFY_SOCKET"


def front_reporter(environment: MutableMapping[str, str] = os.environ) -> Reporter:
    """For a tunnel in front: one that reports to $NOTIFY_SOCKET, where there is one.

    The variable is taken out of the environment, for commands that we run.
    """
    address = environment.pop(_VARIABLE, "")
    # Anything else is a kind of socket that only machines without Unix sockets need.
    return NotifyReporter(address) if address[:1] in ("/", "@") else FrontReporter()


class NotifyReporter:
    """Reports to a service manager; what hooks print goes to standard error.

    Args:
        address: a path, or the name of an abstract socket behind an ``@``.
    """

    def __init__(self, address: str) -> None:
        self._warnings: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        # Connected now: a tunnel that moves to another network namespace finds no abstract
        # name there.
        try:
            self._socket.connect("\0" + address[1:] if address[0] == "@" else address)
        except (OSError, ValueError):
            pass  # nobody listens, and nobody waits

    def warn(self, sentence: str) -> None:
        """Show it as the status, while the start goes on and after it."""
        self._warnings.append(" ".join(sentence.split()))
        self._send(f"STATUS=starting; {self._warnings[-1]}")

    def show(self, line: str) -> None:
        """Show it on standard error."""
        print_line(line)

    def ready(self) -> None:
        """Say so, and what to know about it."""
        self._send("READY=1", f"STATUS={'; '.join(('up', *self._warnings))}")
        self._warnings.clear()

    def reloading(self) -> None:
        """Say so, and since when: a manager tells by the time whether it asked for it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading")

    def stopping(self) -> None:
        """Say so."""
        self._send("STOPPING=1", "STATUS=going down")

    def _send(self, *lines: str) -> None:
        try:
            self._socket.send("\n".join(lines).encode(errors="replace"))
        except OSError:
            pass  # gone, or full: the tunnel is more important than its news
