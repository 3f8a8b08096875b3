"""One daemon of an interface at a time, from before it makes anything until all of it is gone.

Its control socket is there for less time than that. Without a lock of its own a second start,
or whoever clears away after a dead daemon, takes what is half made for something left behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Final

from nvpn.control.paths import running_path, state_directory
from nvpn.netconf.locks import take_lock

_log: Final = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(name: str, *, seconds: float) -> Iterator[bool]:
    """Whether nobody else is, waited for so long at most. Then nobody will be meanwhile.

    The kernel lets the lock go if we are killed. Where none can be had one goes on without.
    """
    path = running_path(name)
    try:
        os.makedirs(state_directory(), mode=0o700, exist_ok=True)
        descriptor = open_alone(path, seconds=seconds)
    except OSError as error:
        _log.info("no lock for %s: %s", name, error)
        yield True
        return
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        # As long as it is ours: whoever waits for it takes the next one.
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def open_alone(path: str, *, seconds: float) -> int | None:
    """A descriptor of the file, made if need be, that nobody else has; None: somebody has it.

    It is good for as long as it is open. Blocks. Raises OSError.
    """
    deadline = time.monotonic() + seconds
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            is_ours = take_lock(descriptor, seconds=max(0.0, deadline - time.monotonic()))
            if is_ours and _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not is_ours:
            return None
        # Who had it has just removed it.


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
