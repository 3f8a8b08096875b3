"""One daemon at a time plans policy rules, or switches forwarding: what one has read must be true
while it changes it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Final

from nvpn.control.paths import state_directory
from nvpn.netconf.locks import take_lock

_log: Final = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 5.0


@contextlib.contextmanager
def routing_lock() -> Iterator[None]:
    """Held among the daemons of this host, and let go by the kernel if one is killed.

    A lock that cannot be had costs a line in the log: two daemons at the very same moment are
    rare, and what one of them does wrong then is put right at the next change of the network.
    """
    try:
        os.makedirs(state_directory(), mode=0o700, exist_ok=True)
        # No interface's files end like that.
        path = os.path.join(state_directory(), "routing.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _log.info("no lock for policy rules and forwarding: %s", error)
        yield
        return
    try:
        if not take_lock(lock, seconds=_PATIENCE_SECONDS):
            _log.warning("another nvpn holds %s for too long; going on without it", path)
        yield
    finally:
        os.close(lock)
