"""The kernel's WireGuard interfaces, spoken to as if they had a control socket.

As light as :mod:`nvpn.control.client` until something is asked of one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from nvpn.errors import ControlError


def is_kernel_interface(name: str) -> bool:
    """Whether it is a WireGuard link of this network namespace's kernel. Cheap."""
    return False


def list_kernel_interfaces() -> list[str]:
    """Their names. Cheap."""
    return []


def request(name: str, operation: str, lines: Sequence[str] = ()) -> list[str]:
    """As :func:`nvpn.control.client.request`: ``get`` and ``set`` only.

    Raises:
        ControlError: ENODEV, no such interface; or what the kernel refused.
        PlatformError: it cannot be asked.
    """
    raise ControlError(errno.ENODEV, os.strerror(errno.ENODEV))
