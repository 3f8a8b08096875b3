"""A tunnel that the Linux kernel carries, put together for the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nvpn.daemon.leftovers import Leftovers
from nvpn.daemon.tunnel import Tunnel
from nvpn.errors import PlatformError
from nvpn.netconf.linux import LinuxNetconf


def why_no_kernel() -> str:
    """Why the kernel cannot carry a tunnel here; empty when it can."""
    return "not built yet"


def create_kernel_tunnel(
    name: str,
    netconf: LinuxNetconf,
    leftovers: Leftovers,
    *,
    loop: asyncio.AbstractEventLoop,
    on_gone: Callable[[], None],
    on_failure: Callable[[BaseException], None],
    take_over: bool,
    reason: str,
) -> Tunnel:
    """Make the kernel's link, or take one over that is there.

    Args:
        on_gone: the interface was deleted by somebody, or moved away.
        on_failure: a bug of ours ended the backend.
        take_over: an existing link goes on as it is until it is configured.
        reason: why the kernel carries it, for people.

    Raises:
        PlatformError: the interface exists, no permission, no WireGuard in this kernel.
    """
    raise PlatformError(f"bring up {name} by the kernel", hint=why_no_kernel())


def undo_link(name: str, value: Any) -> None:
    """Remove the kernel's link that a dead daemon left. Raises PlatformError."""
