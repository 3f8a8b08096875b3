"""The parts of one tunnel, put together: TUN device, datapath, protocol, backend, host."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from nvpn.backend.api import TunnelBackend
from nvpn.backend.userspace import UserspaceBackend
from nvpn.daemon.host import TunnelHost
from nvpn.daemon.routing import Run
from nvpn.datapath.choice import Choice, create_datapath
from nvpn.datapath.segments import probe_max_segments
from nvpn.errors import PlatformError
from nvpn.netconf.api import KERNEL_KIND, Link
from nvpn.netconf.linux import LinuxNetconf
from nvpn.overlay.api import Tun
from nvpn.overlay.linux import adopt_tun, open_tun
from nvpn.protocol.device import Device
from nvpn.protocol.tai64n import TimestampSource
from nvpn.wire.constants import DEFAULT_MTU


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Down, and without key, address or peer. :meth:`close` removes the interface.

    ``tun`` is None where the interface is the kernel's; then the backend removes it.
    """

    tun: Tun | None
    backend: TunnelBackend
    host: TunnelHost

    async def close(self) -> None:
        """Wipe keys, close the sockets, remove the interface and all that hangs on it."""
        try:
            await self.backend.close()
        finally:
            if self.tun is not None:
                self.tun.close()


def create_tunnel(
    name: str,
    netconf: LinuxNetconf,
    *,
    at_home: Run,
    choice: Choice,
    workers: int,
    queues: int,
    loop: asyncio.AbstractEventLoop,
    timestamps: TimestampSource,
    on_gone: Callable[[], None],
    on_failure: Callable[[BaseException], None],
    tun_fd: int = -1,
) -> Tunnel:
    """Create the interface and what moves its packets.

    Args:
        netconf: of the namespace in which the interface is to be.
        at_home: calls there.
        choice: the datapath that is to carry it.
        workers: threads that may move its packets.
        queues: of the interface.
        on_gone: the interface was deleted by somebody.
        on_failure: a bug of ours ended the backend.
        tun_fd: a TUN device that somebody opened for us already, ours now; -1 for none.

    Raises:
        PlatformError: the interface exists, no permission, no TUN driver.
    """
    tun = _create_tun(name, netconf, queues, at_home) if tun_fd < 0 else adopt_tun(tun_fd)
    try:
        link = netconf.find_link(tun.name)
        if link is None:
            raise PlatformError(f"find interface {tun.name}", errno=errno.ENODEV)
        max_segments = probe_max_segments()
        host = TunnelHost(netconf, link, max_segments=max_segments)
        host.prepare(DEFAULT_MTU)
        datapath = create_datapath(
            choice,
            loop,
            tun,
            mtu=DEFAULT_MTU,
            max_segments=max_segments,
            workers=workers,
        )
        device = Device(datapath=datapath, random=os.urandom, timestamps=timestamps)
        backend = UserspaceBackend(
            name=tun.name,
            device=device,
            datapath=datapath,
            mtu=DEFAULT_MTU,
            loop=loop,
            datapath_reason=choice.why,
            on_device_gone=on_gone,
            on_failure=on_failure,
        )
        datapath.on_events = backend.handle_events
    except BaseException:
        tun.close()
        raise
    return Tunnel(tun, backend, host)


def _create_tun(name: str, netconf: LinuxNetconf, queues: int, at_home: Run) -> Tun:
    if (link := netconf.find_link(name)) is not None:
        raise PlatformError(
            f"create interface {name}", errno=errno.EEXIST, hint=explain_existing(link)
        )
    return at_home(lambda: open_tun(name, queues=queues))


def explain_existing(link: Link) -> str:
    """What to do about an interface that has the name already."""
    if link.kind == KERNEL_KIND:
        return (
            f"it is the kernel's; take it over with: nvpn up --take-over {link.name}, or remove"
            f" it: ip link delete {link.name}"
        )
    return f"choose another name, or remove it: ip link delete {link.name}"
