"""Makes the tunnel that a configuration asks for, by the backend that can be had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from nvpn.config.model import BackendWish, InterfaceConfig, TunnelConfig
from nvpn.daemon.carrier import choose_backend
from nvpn.daemon.leftovers import Leftovers
from nvpn.daemon.namespaces import Namespaces
from nvpn.daemon.tunnel import Tunnel, create_tunnel
from nvpn.datapath.choice import choose, explain_workers
from nvpn.errors import PlatformError
from nvpn.netconf.api import KERNEL_KIND
from nvpn.netconf.linux import LinuxNetconf
from nvpn.protocol.tai64n import TimestampSource


def make_tunnel(
    name: str,
    config: TunnelConfig | None,
    *,
    netconf: LinuxNetconf,
    namespaces: Namespaces,
    leftovers: Leftovers,
    loop: asyncio.AbstractEventLoop,
    timestamps: TimestampSource,
    warn: Callable[[str], None],
    on_gone: Callable[[], None],
    on_failure: Callable[[BaseException], None],
    tun_fd: int,
    take_over: bool,
) -> Tunnel:
    """A tunnel that is down and knows nothing yet.

    Args:
        config: None for a bare device.
        netconf: of the interface's namespace.
        warn: gets a sentence where less can be had than was asked for.
        on_gone: the interface was deleted by somebody.
        on_failure: a bug of ours ended the backend.
        tun_fd: a TUN device that somebody opened for us already; -1 for none.
        take_over: an interface of the kernel's that is there already.

    Raises:
        PlatformError: the interface exists, no permission, no driver.
    """
    backend, reason = choose_backend(config)
    if backend is BackendWish.KERNEL:
        from nvpn.daemon.kernel_tunnel import create_kernel_tunnel

        return create_kernel_tunnel(
            name,
            netconf,
            leftovers,
            namespaces=namespaces,
            loop=loop,
            on_gone=on_gone,
            on_failure=on_failure,
            take_over=take_over,
            reason=reason,
        )
    existing = netconf.find_link(name) if take_over else None
    if existing is not None and existing.kind == KERNEL_KIND:
        raise PlatformError(
            f"take {name} over",
            hint='only the kernel can go on with its sessions: backend = "kernel"',
        )
    wanted = InterfaceConfig() if config is None else config.interface
    file = "" if config is None else str(config.path)
    choice = choose(wanted.datapath, file=file)
    if reason:
        choice = replace(choice, why="; ".join(filter(None, (reason, choice.why))))
    tunnel = create_tunnel(
        name,
        netconf,
        at_home=namespaces.at_home,
        choice=choice,
        workers=wanted.workers,
        queues=wanted.queues,
        loop=loop,
        timestamps=timestamps,
        on_gone=on_gone,
        on_failure=on_failure,
        tun_fd=tun_fd,
    )
    if sentence := explain_workers(choice, wanted.workers, file=file):
        warn(sentence)
    return tunnel
