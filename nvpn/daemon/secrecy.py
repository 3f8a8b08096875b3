"""Keeps the daemon's memory, which holds keys, from other processes and from the disk."""

from __future__ import annotations

import ctypes
import resource
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def keep_memory_private() -> None:
    """No core file, and no look at our memory by other processes of the same user.

    A limit of zero is not enough: the kernel ignores it where core files go to a program,
    as with systemd-coredump. Root can still look.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        except (OSError, AttributeError):
            pass  # a libc without it: the limit has to do
