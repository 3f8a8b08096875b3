"""Stops another process's tunnel and makes sure that nothing of it is left."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from typing import Final

from nvpn.control.client import daemon_pid, get, is_running
from nvpn.control.paths import socket_path
from nvpn.daemon.background import print_warning
from nvpn.errors import ControlError, PlatformError

PATIENCE: Final = 5.0
"""Seconds that a daemon gets to stop by itself; it should need less than one."""

_PROBE_SECONDS: Final = 2.0


def stop_tunnel(name: str) -> None:
    """Tell the daemon to stop, wait for its end, and kill it if there is none.

    Raises:
        PlatformError: nothing runs under that name, it is another program's, or it is
            not ours to stop.
    """
    operation = f"take {name} down"
    was_there = os.path.exists(socket_path(name))
    if not is_running(name):
        _explain_nothing(name, operation, was_there=was_there)
        return
    process = daemon_pid(name)
    try:
        # From here on the process is held, not its number, which may be used again.
        held = os.pidfd_open(process)
    except ProcessLookupError:
        return  # it ended just now
    except OSError as error:
        raise PlatformError(operation, errno=error.errno or 0) from None
    try:
        _expect_ours(name, operation)
        _signal(held, signal.SIGTERM, operation)
        if _has_ended(held):
            return
        print_warning(f"{name} did not stop within {PATIENCE:g} seconds and is killed")
        _signal(held, signal.SIGKILL, operation)
        if not _has_ended(held):
            raise PlatformError(operation, hint=f"process {process} does not end")
        is_running(name)  # removes the socket, which a killed process leaves behind
    finally:
        os.close(held)


def _explain_nothing(name: str, operation: str, *, was_there: bool) -> None:
    if was_there and not os.path.exists(socket_path(name)):
        print_warning(f"{name} was not running; the socket of a killed daemon is removed")
        return
    try:
        socket.if_nametoindex(name)
    except OSError:
        raise PlatformError(operation, hint="it is not running; see: nvpn show") from None
    raise PlatformError(operation, hint=f"the interface is not nvpn's; try: wg-quick down {name}")


def _expect_ours(name: str, operation: str) -> None:
    """Other WireGuard programs have their sockets in the same place."""
    try:
        record = get(name, timeout=_PROBE_SECONDS)
    except ControlError as error:
        if error.errno == errno.ETIMEDOUT and _looks_like_nvpn(name):
            return  # it hangs: the more reason to stop it
        raise
    if not record.datapath:
        raise PlatformError(
            operation, hint=f"another program runs it; try: rm {socket_path(name)}"
        )


def _looks_like_nvpn(name: str) -> bool:
    try:
        with open(f"/proc/{daemon_pid(name)}/comm", encoding="utf-8") as comm:
            return comm.read().strip() == f"nvpn-{name}"[:15]
    except OSError:
        return False


def _signal(held: int, number: int, operation: str) -> None:
    try:
        signal.pidfd_send_signal(held, number)
    except ProcessLookupError:
        pass
    except OSError as error:
        hint = "try again with sudo" if error.errno == errno.EPERM else ""
        raise PlatformError(operation, errno=error.errno or 0, hint=hint) from None


def _has_ended(held: int) -> bool:
    poll = select.poll()
    poll.register(held, select.POLLIN)
    return bool(poll.poll(PATIENCE * 1000))
