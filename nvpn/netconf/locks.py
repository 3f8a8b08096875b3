"""Processes take turns by a lock on a file, held for as long as its descriptor is open."""

from __future__ import annotations

import fcntl
import time
from typing import Final

_POLL_SECONDS: Final = 0.005


def take_lock(descriptor: int, *, seconds: float) -> bool:
    """Whether the lock became ours within that time. Blocks.

    Raises:
        OSError: it cannot be locked.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True
