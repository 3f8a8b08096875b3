"""Which backend carries a tunnel: the one that was asked for, or the one that can be had."""

from __future__ import annotations

import os

from nvpn.config.model import BackendWish, TunnelConfig
from nvpn.datapath.choice import VARIABLE, Wish
from nvpn.errors import ConfigError, PlatformError


def choose_backend(config: TunnelConfig | None) -> tuple[BackendWish, str]:
    """USERSPACE or KERNEL, never AUTO, and why for people; empty if nothing is to say.

    Raises:
        ConfigError: the kernel is asked for, and something that it does not have.
        PlatformError: the kernel is asked for, and cannot carry it.
    """
    if config is None or config.interface.backend is BackendWish.USERSPACE:
        return BackendWish.USERSPACE, ""
    # Loads what most tunnels do not need.
    from nvpn.daemon.kernel_tunnel import why_no_kernel

    interface, file = config.interface, str(config.path)
    asked_for = {
        "datapath": interface.datapath is not Wish.AUTO,
        "workers": interface.workers != 1,
        "queues": interface.queues != 1,
    }
    if interface.backend is BackendWish.AUTO:
        if asked_for["datapath"]:
            return BackendWish.USERSPACE, "the file names a datapath"
        if os.environ.get(VARIABLE, "") not in ("", Wish.AUTO.value):
            return BackendWish.USERSPACE, f"{VARIABLE} names a datapath"
        reason = why_no_kernel()
        if reason:
            return BackendWish.USERSPACE, reason
        return BackendWish.KERNEL, "this kernel has WireGuard"
    for key, given in asked_for.items():
        if given:
            raise ConfigError(
                "is about our own datapath, and the kernel is to carry the tunnel",
                file=file,
                key=f"interface.{key}",
                hint='remove it, or write backend = "userspace"',
            )
    reason = why_no_kernel()
    if reason:
        raise PlatformError(
            f"bring up {config.name} by the kernel",
            hint=f'{reason}; our own backend can: backend = "userspace"',
        )
    return BackendWish.KERNEL, ""
