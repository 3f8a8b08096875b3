"""Follows what others do to the interface: up, down, MTU, name, namespace, deletion.

People and scripts use `ip link` on a tunnel as on any other interface. With the link up
the UDP sockets are bound and peers served; with the link down they are not, as with the
kernel's WireGuard. In another network namespace its addresses and routes are the business
of whoever moved it there.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from nvpn.daemon.routing import Run
from nvpn.daemon.tunnel import Tunnel
from nvpn.errors import NvpnError, PlatformError
from nvpn.netconf.api import Link, LinkChanged, LinkLeft, LinkMonitor, Netconf
from nvpn.netconf.linux import LinuxNetconf
from nvpn.netconf.linux_namespace import call_where
from nvpn.overlay.api import Tun
from nvpn.overlay.linux import tun_name

_log: Final = logging.getLogger(__name__)

VISIT_SECONDS: Final = 1.0
"""How often an interface that was moved to another namespace is looked at."""


class LinkFollower:
    """Keeps backend and host in step with the link, from :meth:`start` to :meth:`close`.

    Args:
        on_gone: the interface does not exist any more.
        spawn: starts a background task of the daemon.
        at_home: calls in the interface's namespace.
        settle: called when the link is up again, which has cost it its routes.
    """

    def __init__(
        self,
        tunnel: Tunnel,
        *,
        loop: asyncio.AbstractEventLoop,
        on_gone: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        at_home: Run,
        settle: Callable[[], None],
    ) -> None:
        self._tunnel = tunnel
        self._host = tunnel.host
        self._loop = loop
        self._on_gone = on_gone
        self._spawn = spawn
        self._at_home = at_home
        self._settle = settle
        self._monitor: LinkMonitor | None = None
        self._serving = False
        self._is_elsewhere = False
        self._switching: asyncio.Task[None] | None = None

    def start(self, netconf: Netconf) -> None:
        """Watch from now on, and catch up with what happened before. Raises PlatformError."""
        self._watch(self._at_home(lambda: netconf.monitor(self._host.link)))
        tun = self._tunnel.tun
        name = self._host.link.name if tun is None else tun_name(tun.fd)
        link = netconf.find_link(name)
        if link is not None:
            self._note(link)

    async def serve(self) -> None:
        """Bind the sockets now, before the link comes up. Raises ControlError."""
        await self._tunnel.backend.bring_up()
        self._serving = True

    def close(self) -> None:
        """Watch no longer."""
        if self._monitor is not None:
            self._loop.remove_reader(self._monitor.fileno())
            self._monitor.close()
            self._monitor = None

    def _watch(self, monitor: LinkMonitor) -> None:
        self._monitor = monitor
        self._loop.add_reader(monitor.fileno(), self._read)

    def _read(self) -> None:
        if self._monitor is None:
            return
        for event in self._monitor.take_events():
            if isinstance(event, LinkChanged):
                self._note(event.link)
            elif isinstance(event, LinkLeft):
                self._leave(event)
                return

    def _note(self, link: Link) -> None:
        before, self._host.link = self._host.link, link
        if link.name != before.name:
            _log.info("the interface is called %s now", link.name)
        if link.mtu != before.mtu:
            _log.info("the MTU is %d now", link.mtu)
            self._tunnel.backend.set_mtu(link.mtu)
            if not self._is_elsewhere:
                self._host.follow_mtu()
        if link.is_up != self._serving and self._switching is None:
            self._switching = self._spawn(self._switch())

    async def _switch(self) -> None:
        """Bring the backend to where the link is, which may move meanwhile."""
        try:
            while self._host.link.is_up != self._serving:
                self._serving = self._host.link.is_up
                if not self._serving:
                    _log.info("the interface is down")
                    await self._tunnel.backend.bring_down()
                    continue
                await self._tunnel.backend.bring_up()
                _log.info("the interface is up")
                if not self._is_elsewhere:
                    self._settle()
        except NvpnError as error:
            _log.error("%s; set the interface down and up to try again", error)
        finally:
            self._switching = None

    def _leave(self, event: LinkLeft) -> None:
        """It left this namespace: deleted, or moved to another one."""
        self.close()
        tun = self._tunnel.tun
        if tun is None:
            if event.has_moved:
                _log.info("the kernel goes on with the interface in another namespace, without us")
            self._on_gone()
            return
        self._is_elsewhere = True
        self._spawn(self._visit(tun))

    async def _visit(self, tun: Tun) -> None:
        """Look at the interface where it is now, again and again.

        A socket of ours over there would tell, but also keep the namespace alive.
        """
        _log.info("the interface has left this network namespace")
        has_complained = False
        while True:
            try:
                link = call_where(tun.fd, lambda: _look(tun))
            except PlatformError as error:
                if error.errno == errno.EBADFD:  # deleted; the datapath will say the same
                    _log.info("the interface is gone: %s", error)
                    self._on_gone()
                    return
                if not has_complained:
                    has_complained = True
                    _log.warning("what happens to it there is not followed: %s", error)
                # Whoever moved it has set it up since, or will.
                link = replace(self._host.link, is_up=True)
            if link is not None:
                self._note(link)
            await asyncio.sleep(VISIT_SECONDS)


def _look(tun: Tun) -> Link | None:
    netconf = LinuxNetconf()
    try:
        return netconf.find_link(tun_name(tun.fd))
    finally:
        netconf.close()
