"""Who owns a socket's path: taking it, and clearing away what a dead daemon left.

Two programs that find the same stale socket must not both remove it, or the second
removes the first one's new socket. They take turns by a lock on the directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator

from nvpn.errors import PlatformError
from nvpn.netconf.locks import take_lock

BACKLOG = 128
"""Connections that may wait to be accepted."""

_LOCK_SECONDS = 0.5


def listen(name: str, path: str) -> socket.socket:
    """A listening, non-blocking socket at ``path``, open to our own user only.

    A stale one is replaced.

    Raises:
        PlatformError: the interface is running already, or the path cannot be used.
    """
    operation = f"open the control socket {path}"
    directory = os.path.dirname(path)
    try:
        _make_directory(directory)
        with locked(directory):
            _make_room(name, path)
            return _bind(path)
    except OSError as error:
        if error.errno is None:
            raise PlatformError(operation, hint="the path is too long for a socket") from None
        hint = ""
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = f"{directory} must be writable; run it as root, or set NVPN_RUNTIME_DIR"
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            hint = f"{directory} cannot be made; set NVPN_RUNTIME_DIR to a directory that can"
        raise PlatformError(operation, errno=error.errno, hint=hint) from None


def unlink_stale(path: str) -> None:
    """Remove the socket if nobody listens there, now that nobody is about to.

    Raises:
        OSError: it is not ours to remove.
    """
    with locked(os.path.dirname(path)):
        if refuses(path):
            os.unlink(path)


def refuses(path: str) -> bool:
    """Whether a socket is there but its daemon is not. False if we cannot know."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Hold the directory's lock, if it can be had soon.

    Everybody may lock a directory that they can read. So we wait for a moment only:
    without the lock a race is possible, but nobody can keep a tunnel from starting.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        take_lock(descriptor, seconds=_LOCK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _make_directory(directory: str) -> None:
    try:
        os.makedirs(directory)
    except FileExistsError:
        return
    # By itself, as a strict umask would keep `wg show` of others from saying why it fails.
    os.chmod(directory, 0o755)


def _make_room(name: str, path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PlatformError(
            f"open the control socket {path}",
            errno=errno.EEXIST,
            hint="something else has that name; remove it",
        )
    if not refuses(path):
        raise PlatformError(
            f"start {name}",
            errno=errno.EADDRINUSE,
            hint=f"it is running already; see: nvpn show {name}",
        )
    os.unlink(path)


def _bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        # A socket's mode is made by bind; a chmod afterwards would come too late.
        umask = os.umask(0o077)
        try:
            listener.bind(path)
        finally:
            os.umask(umask)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
