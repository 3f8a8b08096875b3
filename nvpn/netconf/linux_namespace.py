"""Network namespaces of Linux: opened by name, entered, visited by a thread.

A TUN descriptor goes on working when its device is moved to another namespace, but netlink
sockets see only the namespace that they were made in. So a fresh thread enters the other
one and ends with its visit: a namespace belongs to a thread, and one that came back to a
pool would take whoever uses it next to the wrong place. No socket may stay behind where a
device is only visited, for it would keep that namespace alive.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar, Union

from nvpn.errors import PlatformError

_T = TypeVar("_T")
_TUNGETDEVNETNS: Final = 0x54E3
_CLONE_NEWNET: Final = 0x40000000
_NSFS_GET_TYPE: Final = 0xB703

NAMED_DIRECTORY: Final = "/run/netns"
"""Where ``ip netns add`` leaves namespaces under their names."""


def open_namespace(text: str) -> int:
    """A descriptor of the network namespace, not inherited by programs; the caller's to close.

    Args:
        text: a name in :data:`NAMED_DIRECTORY`, a path with a slash, empty for our own.

    Raises:
        PlatformError: there is none, or it is something else.
    """
    operation = f"open network namespace {text}"
    path = text if "/" in text else os.path.join(NAMED_DIRECTORY, text)
    try:
        # A thread's own, which need not be that of the process.
        descriptor = os.open(path if text else "/proc/thread-self/ns/net", _OPEN_FLAGS)
    except OSError as error:
        hint = ""
        if error.errno == errno.ENOENT and "/" not in text:
            hint = f"make it with: ip netns add {text}"
        raise PlatformError(operation, errno=error.errno or 0, hint=hint) from None
    try:
        kind = fcntl.ioctl(descriptor, _NSFS_GET_TYPE)
    except OSError:
        kind = 0
    if kind != _CLONE_NEWNET:
        os.close(descriptor)
        raise PlatformError(operation, hint=f"{path} is no network namespace")
    return descriptor


_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def enter(namespace: int) -> None:
    """Take this thread there, and all those that it will start.

    Raises:
        PlatformError: not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        hint = ""
        if number == errno.EPERM:
            hint = "needs CAP_SYS_ADMIN: be root; a service needs the drop-in netns.conf"
        raise PlatformError("enter a network namespace", errno=number, hint=hint)


def call_in(namespace: int, call: Callable[[], _T]) -> _T:
    """What ``call`` returns in the namespace of the descriptor. Blocks until it does.

    Raises:
        PlatformError: the namespace may not be entered; or what ``call`` raises.
    """
    outcome: list[Union[_T, BaseException]] = []  # noqa: UP007 - evaluated on Python 3.10

    def run() -> None:
        try:
            enter(namespace)
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def call_where(tun: int, call: Callable[[], _T]) -> _T:
    """What ``call`` returns in the namespace that the TUN descriptor's device is in now.

    Raises:
        PlatformError: the device is gone (EBADFD), or the namespace may not be entered;
            or what ``call`` raises.
    """
    try:
        namespace = fcntl.ioctl(tun, _TUNGETDEVNETNS)
    except OSError as error:
        raise PlatformError("find a TUN device's namespace", errno=error.errno or 0) from None
    try:
        return call_in(namespace, call)
    finally:
        os.close(namespace)
