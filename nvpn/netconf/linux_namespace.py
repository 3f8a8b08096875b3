"""Follows a TUN device that was moved to another network namespace of Linux.

Its descriptor goes on working there, but netlink sockets see only the namespace that
they were made in: so a thread enters the other one. No socket may stay behind there, for
it would keep the namespace alive.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar, Union

from nvpn.errors import PlatformError

_T = TypeVar("_T")
_TUNGETDEVNETNS: Final = 0x54E3
_CLONE_NEWNET: Final = 0x40000000


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
    outcome: list[Union[_T, BaseException]] = []  # noqa: UP007 - evaluated on Python 3.10

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace, _CLONE_NEWNET):
                raise PlatformError("enter a namespace", errno=ctypes.get_errno())
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    # A namespace belongs to a thread, and this one ends with its visit.
    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    os.close(namespace)
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result
