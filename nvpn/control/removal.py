"""Notices that somebody removed or replaced our socket, which means: end.

Other WireGuard daemons end then, and scripts rely on it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final

_IN_ATTRIB: Final = 0x004
_IN_DELETE_SELF: Final = 0x400
_IN_MOVE_SELF: Final = 0x800
_POLL_SECONDS: Final = 1.0


class RemovalWatch:
    """Calls ``on_removed`` once when ``path`` is no longer the file that it is now.

    By inotify; where that is not to be had, by looking every second.

    Raises:
        OSError: there is no such file.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: str, on_removed: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._path = path
        self._on_removed = on_removed
        self._identity = _identity(path)
        self._timer: asyncio.TimerHandle | None = None
        if self._identity is None:
            raise FileNotFoundError(path)
        self._fd = _open_inotify(path)
        if self._fd >= 0:
            loop.add_reader(self._fd, self._read)
        else:
            self._poll()

    @property
    def is_intact(self) -> bool:
        """Whether the path still leads to the file we began with."""
        return _identity(self._path) == self._identity

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> None:
        try:
            os.read(self._fd, 4096)
        except BlockingIOError:
            return
        self._check()

    def _poll(self) -> None:
        self._timer = self._loop.call_later(_POLL_SECONDS, self._poll)
        self._check()

    def _check(self) -> None:
        # An attribute changes for other reasons, too: only a look at the file decides.
        if not self.is_intact:
            self.close()
            self._on_removed()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_inotify(path: str) -> int:
    """An inotify descriptor that watches the file, or -1."""
    if sys.platform != "linux":
        return -1
    try:
        libc = ctypes.CDLL(None)
        fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            return -1
        watched = libc.inotify_add_watch(
            fd, os.fsencode(path), _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF
        )
    except (OSError, AttributeError):
        return -1
    if watched < 0:
        os.close(fd)
        return -1
    return fd
