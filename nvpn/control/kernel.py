"""The kernel's WireGuard interfaces, spoken to as if they had a control socket.

As light as :mod:`nvpn.control.client` until something is asked of one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nvpn.control.kernel_links import list_wireguard_links
from nvpn.errors import ControlError, PlatformError

if TYPE_CHECKING:
    from nvpn.model.snapshot import TunnelSnapshot

_SIOCGIFMTU = 0x8921
_IFREQ = struct.Struct("16si20x")


def is_kernel_interface(name: str) -> bool:
    """Whether it is a WireGuard link of this network namespace's kernel. Cheap."""
    return name in list_wireguard_links()


def list_kernel_interfaces() -> list[str]:
    """Their names. Cheap."""
    return list_wireguard_links()


def request(name: str, operation: str, lines: Sequence[str] = ()) -> list[str]:
    """As :func:`nvpn.control.client.request`: ``get`` and ``set`` only.

    Raises:
        ControlError: ENODEV, no such interface; EOPNOTSUPP, it is not WireGuard's, or the
            operation needs a daemon; or what the kernel refused.
        PlatformError: we may not ask the kernel.
    """
    if operation not in ("get", "set"):
        raise ControlError(
            errno.EOPNOTSUPP, f"the kernel runs {name}: there is no daemon to do that"
        )
    # Not before it is needed: pyroute2 takes 80 ms.
    from nvpn.backend.kernel_channel import ChannelWireguard
    from nvpn.backend.kernel_plans import apply_plan, refused
    from nvpn.control.uapi import iter_get, parse_set
    from nvpn.netconf.linux_wireguard import KernelWireguard

    plan = parse_set(lines)
    try:
        wireguard = ChannelWireguard(KernelWireguard())
    except PlatformError as error:
        if error.errno == errno.ENOENT:  # without WireGuard there is no such interface
            raise ControlError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
        raise
    try:
        snapshot = wireguard.get(name)
        if operation == "get":
            answer = b"".join(iter_get(_with_mtu(snapshot)))
            return answer.decode().splitlines()
        apply_plan(wireguard, name, plan, snapshot)
        return []
    except PlatformError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise PlatformError(
                f"access interface {name}", errno=error.errno, hint="run it as root"
            ) from None
        raise refused(error, name) from None
    finally:
        wireguard.close()


def _with_mtu(snapshot: TunnelSnapshot) -> TunnelSnapshot:
    from dataclasses import replace
    from fcntl import ioctl

    question = _IFREQ.pack(snapshot.name.encode(errors="surrogateescape"), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            _, mtu = _IFREQ.unpack(ioctl(any_socket, _SIOCGIFMTU, question))
        except OSError:  # it went just now
            return snapshot
    return replace(snapshot, mtu=mtu)
