"""Stops another process's tunnel and makes sure that nothing of it is left.

The daemon is asked over its control socket, so that what its hooks have to say reaches the
person who typed the command. One that does not answer gets the signal that a service
manager would send, and one that does not heed that is killed.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from typing import Final

from nvpn.control.client import daemon_pid, get, is_running, messages, request
from nvpn.control.paths import leftovers_path, socket_path
from nvpn.daemon.alone import alone
from nvpn.daemon.background import print_warning
from nvpn.errors import ControlError, PlatformError

PATIENCE: Final = 5.0
"""Seconds that a daemon which does not answer gets to stop; it should need less than one."""

PATIENCE_ONCE_ANSWERED: Final = 15.0
"""Seconds for one that has answered: its name service may take some of them."""

PATIENCE_WITH_HOOKS: Final = 180.0
"""Seconds for PreDown hooks, and for PostDown hooks once the rest is gone."""

_PROBE_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.02


def stop_tunnel(name: str) -> None:
    """Tell the daemon to stop, wait for its end, and kill it if there is none.

    Raises:
        PlatformError: nothing runs under that name, it is another program's, or it is
            not ours to stop.
    """
    operation = f"take {name} down"
    was_there = os.path.exists(socket_path(name))
    if not is_running(name) and not _comes_up(name, operation):
        _clear_away(name, operation, was_there=was_there)
        return
    try:
        process = daemon_pid(name)
    except PlatformError as error:
        if error.errno == errno.ENODEV and not _comes_up(name, operation):
            return  # it ended just now
        raise
    try:
        # From here on the process is held, not its number, which may be used again.
        held = os.pidfd_open(process)
    except ProcessLookupError:
        return  # it ended just now
    except OSError as error:
        raise PlatformError(operation, errno=error.errno or 0) from None
    try:
        try:
            has_answered = _is_ours_and_answers(name, process, operation) and _ask(name)
        except (ControlError, PlatformError):
            if not _is_ending(name, process, held):
                raise
            has_answered = True
        if not has_answered:
            _signal(held, signal.SIGTERM, operation)
        _wait_for_end(name, held, operation, has_answered=has_answered)
        # Of a daemon that was killed, now or while it stopped.
        is_running(name)  # removes its socket
        for sentence in _clean_up(name):
            print_warning(sentence)
    finally:
        os.close(held)


def _comes_up(name: str, operation: str) -> bool:
    """Whether it is running now: one that is on its way up is waited for, or down likewise.

    Raises:
        PlatformError: it stays on its way.
    """
    deadline = time.monotonic() + PATIENCE
    while not _is_nobody_at_it(name):
        if is_running(name):
            return True
        if time.monotonic() >= deadline:
            raise PlatformError(operation, hint="it is on its way up, or down, already: try again")
        time.sleep(_POLL_SECONDS)
    return is_running(name)


def _is_nobody_at_it(name: str) -> bool:
    with alone(name, seconds=0) as is_alone:
        return is_alone


def _wait_for_end(name: str, held: int, operation: str, *, has_answered: bool) -> None:
    """Wait for as long as something may still be done, then kill it."""
    patience = PATIENCE_ONCE_ANSWERED if has_answered else PATIENCE
    if _has_ended(held, patience):
        return
    # The socket goes before the PostDown hooks come.
    if not os.path.exists(socket_path(name)) and _has_ended(held, PATIENCE_WITH_HOOKS):
        return
    print_warning(f"{name} did not stop within {patience:g} seconds and is killed")
    _signal(held, signal.SIGKILL, operation)
    if not _has_ended(held, PATIENCE):
        raise PlatformError(operation, hint="its process does not end")


def _clear_away(name: str, operation: str, *, was_there: bool) -> None:
    """Nothing runs: what a killed daemon left goes, and if that is nothing, say so."""
    told = _clean_up(name)
    if was_there and not os.path.exists(socket_path(name)):
        told.insert(0, f"{name} was not running; the socket of a killed daemon is removed")
    for sentence in told:
        print_warning(sentence)
    if told:
        return
    try:
        socket.if_nametoindex(name)
    except OSError:
        raise PlatformError(operation, hint="it is not running; see: nvpn show") from None
    raise PlatformError(operation, hint=f"the interface is not nvpn's; try: wg-quick down {name}")


def _clean_up(name: str) -> list[str]:
    if not os.path.exists(leftovers_path(name)):
        return []  # spares nearly everybody the imports
    from nvpn.daemon.cleaning import clean_up

    with alone(name, seconds=0) as is_alone:
        return clean_up(name) if is_alone else []  # it is being started again


def _ask(name: str) -> bool:
    """Let the daemon prepare its end, then end; whether it is about to."""
    try:
        answer = request(name, "nvpn_stop", timeout=PATIENCE_WITH_HOOKS)
    except (ControlError, PlatformError):
        return False  # an older one, which knows signals alone, or one that just ended
    for sentence in messages(answer):
        print_warning(sentence)
    return True


def _is_ending(name: str, process: int, held: int) -> bool:
    """Whether somebody else has told it, so that it answers no more: its socket goes first."""
    if os.path.exists(socket_path(name)):
        return False
    return _has_ended(held, 0) or _looks_like_nvpn(name, process)


def _is_ours_and_answers(name: str, process: int, operation: str) -> bool:
    """False for one of ours that hangs.

    Raises:
        PlatformError: it is another WireGuard program's: their sockets are in the same place.
    """
    try:
        record = get(name, timeout=_PROBE_SECONDS)
    except ControlError as error:
        if error.errno == errno.ETIMEDOUT and _looks_like_nvpn(name, process):
            return False  # the more reason to stop it
        raise
    if not record.datapath:
        raise PlatformError(
            operation, hint=f"another program runs it; try: rm {socket_path(name)}"
        )
    return True


def _looks_like_nvpn(name: str, process: int) -> bool:
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8") as comm:
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


def _has_ended(held: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(held, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
