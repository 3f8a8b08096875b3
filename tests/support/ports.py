"""Ports for those who have to be told one beforehand."""

from __future__ import annotations

import os
import random
import socket
from typing import Final

_ASKED_FOR: Final = range(20_000 + os.getpid() % 64, 32_768, 64)
"""Below those that the kernel gives to whoever asks for any: what is free here stays so.

Nor does another run of tests ask for it, as most likely has another remainder."""


def free_ports(count: int, kind: socket.SocketKind = socket.SOCK_DGRAM) -> list[int]:
    """Ports that nobody has, and nobody gets by chance before they are used."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_ASKED_FOR)
        if port not in found and is_free(port, kind):
            found.append(port)
    return found


def free_port() -> int:
    """One for UDP."""
    return free_ports(1)[0]


def is_free(port: int, kind: socket.SocketKind = socket.SOCK_DGRAM) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
