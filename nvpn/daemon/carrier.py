"""Which backend carries a tunnel: the one that was asked for, or the one that can be had."""

from __future__ import annotations

import os
from collections.abc import Iterator

from nvpn.config.model import BackendWish, TunnelConfig
from nvpn.datapath.choice import VARIABLE, Wish
from nvpn.errors import PlatformError
from nvpn.model.ports import PortPolicy


def choose_backend(config: TunnelConfig | None) -> tuple[BackendWish, str]:
    """USERSPACE or KERNEL, never AUTO, and why for people; empty if nothing is to say.

    Raises:
        PlatformError: the kernel is asked for, and cannot carry it.
    """
    if config is None or config.interface.backend is BackendWish.USERSPACE:
        return BackendWish.USERSPACE, ""
    # Loads what most tunnels do not need.
    from nvpn.daemon.kernel_tunnel import why_no_kernel

    wish = config.interface.backend
    if wish is BackendWish.AUTO:
        if config.interface.datapath is not Wish.AUTO:
            return BackendWish.USERSPACE, "the file names a datapath"
        if any(ports.is_given for ports in _ports_of(config)):
            return BackendWish.USERSPACE, "the file filters ports, which the kernel's cannot"
        if os.environ.get(VARIABLE, "") not in ("", Wish.AUTO.value):
            return BackendWish.USERSPACE, f"{VARIABLE} names a datapath"
    reason = why_no_kernel()
    if not reason:
        return BackendWish.KERNEL, "this kernel has WireGuard" if wish is BackendWish.AUTO else ""
    if wish is BackendWish.AUTO:
        return BackendWish.USERSPACE, reason
    raise PlatformError(
        f"bring up {config.name} by the kernel",
        hint=f'{reason}; our own backend can: backend = "userspace"',
    )


def _ports_of(config: TunnelConfig) -> Iterator[PortPolicy]:
    yield config.interface.ports
    for peer in config.peers:
        yield peer.ports
