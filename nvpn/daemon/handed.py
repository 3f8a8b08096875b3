"""What whoever started us opened before, as wireguard-go takes it.

WG_TUN_FD is a TUN device, WG_UAPI_FD a socket that listens for `wg`. Both are looked at
closely before anything is done with them: a number in an environment is easily wrong.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final

from nvpn.errors import PlatformError
from nvpn.overlay.linux import tun_name

TUN_VARIABLE: Final = "WG_TUN_FD"
CONTROL_VARIABLE: Final = "WG_UAPI_FD"

_FIRST: Final = 3
_DIGITS: Final = 10


@dataclass(frozen=True, slots=True)
class Handed:
    """Descriptors that whoever started us opened already; -1 for none. Ours to close."""

    tun: int = -1
    control: int = -1

    @property
    def descriptors(self) -> frozenset[int]:
        """Those that are there."""
        return frozenset(fd for fd in (self.tun, self.control) if fd >= 0)


NOTHING_HANDED: Final = Handed()


def take_handed(environment: MutableMapping[str, str] = os.environ) -> Handed:
    """The descriptors that the environment tells of; it does not tell of them any more.

    No program that we start inherits them.

    Raises:
        PlatformError: a number that is none, or that of something else.
    """
    tun = _take_number(environment, TUN_VARIABLE)
    control = _take_number(environment, CONTROL_VARIABLE)
    if tun >= 0:
        try:
            tun_name(tun)
        except PlatformError as error:
            raise _refusal(TUN_VARIABLE, tun, "expected an open TUN device", error.errno) from None
    if control >= 0:
        _expect_listener(control)
    for descriptor in (tun, control):
        if descriptor >= 0:
            fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    return Handed(tun, control)


def _take_number(environment: MutableMapping[str, str], variable: str) -> int:
    text = environment.pop(variable, "")
    if not text:
        return -1
    # Standard input, output and error are not there to be handed: they are replaced.
    if text.isascii() and text.isdigit() and len(text) < _DIGITS and int(text) >= _FIRST:
        return int(text)
    raise PlatformError(
        f"use ${variable}", hint=f"expected the number of a descriptor from {_FIRST} on"
    )


def _expect_listener(descriptor: int) -> None:
    what = "expected a UNIX socket that is bound to a path and listens"
    try:
        # A socket object closes its descriptor, so it gets one of its own.
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            is_right = (
                listener.family == socket.AF_UNIX
                and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
                and isinstance(path := listener.getsockname(), str)
                and os.path.isabs(path)
            )
    except OSError as error:
        raise _refusal(CONTROL_VARIABLE, descriptor, what, error.errno or 0) from None
    if not is_right:
        raise _refusal(CONTROL_VARIABLE, descriptor, what, 0)


def _refusal(variable: str, descriptor: int, what: str, number: int) -> PlatformError:
    return PlatformError(f"use descriptor {descriptor} of ${variable}", errno=number, hint=what)
