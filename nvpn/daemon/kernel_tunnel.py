"""A tunnel that the Linux kernel carries, put together for the daemon."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any, Final

from nvpn.backend.kernel import KernelBackend
from nvpn.backend.kernel_channel import ChannelPlace
from nvpn.channel.packets import CHANNEL_PORT
from nvpn.daemon.channel_guard import ChannelGuard
from nvpn.daemon.host import TunnelHost
from nvpn.daemon.leftovers import Leftovers
from nvpn.daemon.namespaces import Namespaces
from nvpn.daemon.tunnel import Tunnel, explain_existing
from nvpn.errors import PlatformError
from nvpn.model.prefixes import Interface
from nvpn.netconf.api import Link
from nvpn.netconf.linux import LinuxNetconf
from nvpn.netconf.linux_wireguard import (
    KIND,
    KernelWireguard,
    WireguardLinks,
    explain_absence,
)
from nvpn.transport.link_local import LinkLocalUdp

_LINK_LOCAL_LENGTH: Final = 64


def why_no_kernel() -> str:
    """Why the kernel cannot carry a tunnel here; empty when it can."""
    return explain_absence()


def create_kernel_tunnel(
    name: str,
    netconf: LinuxNetconf,
    leftovers: Leftovers,
    *,
    namespaces: Namespaces,
    loop: asyncio.AbstractEventLoop,
    on_gone: Callable[[], None],
    on_failure: Callable[[BaseException], None],
    take_over: bool,
    reason: str,
) -> Tunnel:
    """Make the kernel's link, or take one over that is there.

    Args:
        netconf: of the namespace that the interface is in.
        namespaces: that one, and the one in which the kernel's UDP sockets are.
        on_gone: the interface was deleted by somebody, or moved away; the monitor of links
            finds that out, and calls it.
        on_failure: a bug of ours ended the backend.
        take_over: an existing link goes on as it is until it is configured.
        reason: why the kernel carries it, for people.

    Raises:
        PlatformError: the interface exists, no permission, no WireGuard in this kernel.
    """
    existing = netconf.find_link(name)
    if existing is not None and not (take_over and existing.kind == KIND):
        raise PlatformError(
            f"create interface {name}", errno=errno.EEXIST, hint=explain_existing(existing)
        )
    wireguard = namespaces.at_home(KernelWireguard)
    try:
        links = namespaces.at_home(WireguardLinks)
    except BaseException:
        wireguard.close()
        raise

    def claim() -> None:
        leftovers.note("link", {"kind": KIND})
        links.sign(link)

    def let_go(is_ours: bool) -> None:
        try:
            if is_ours:
                links.remove(link.index)
                leftovers.forget("link")
        finally:
            links.close()

    try:
        link = existing or _create(name, netconf, namespaces, links, leftovers)
    except BaseException:
        links.close()
        wireguard.close()
        raise
    host = TunnelHost(netconf, link, max_segments=None)
    backend = KernelBackend(
        name=name,
        index=link.index,
        wireguard=wireguard,
        raise_link=host.raise_link,
        let_go=let_go,
        claim=None if existing is None else claim,
        mtu=link.mtu,
        loop=loop,
        reason=reason,
        on_failure=on_failure,
        channel_place=_channel_place(
            link, netconf, namespaces, ChannelGuard(name, leftovers, run=namespaces.at_home)
        ),
    )
    return Tunnel(None, backend, host)


def _channel_place(
    link: Link, netconf: LinuxNetconf, namespaces: Namespaces, guard: ChannelGuard
) -> ChannelPlace:
    def enter(address: bytes) -> LinkLocalUdp:
        guard.set(link.index, address)
        try:
            netconf.add_address(link, Interface(address, _LINK_LOCAL_LENGTH))
        except PlatformError:
            guard.drop()
            raise
        try:
            return namespaces.at_home(lambda: LinkLocalUdp(address, CHANNEL_PORT, link.index))
        except PlatformError:
            leave(address)
            raise

    def leave(address: bytes) -> None:
        guard.drop()
        netconf.remove_address(link, Interface(address, _LINK_LOCAL_LENGTH))

    return ChannelPlace(enter, leave)


def _create(
    name: str,
    netconf: LinuxNetconf,
    namespaces: Namespaces,
    links: WireguardLinks,
    leftovers: Leftovers,
) -> Link:
    # On disk before it is there: the kernel keeps it when we are killed.
    leftovers.note("link", {"kind": KIND})
    try:
        if namespaces.is_apart:
            # Asked from here, the kernel has its UDP sockets here.
            _create_from_here(name, namespaces.home)
        else:
            links.create(name)
    except BaseException:
        leftovers.forget("link")
        raise
    link = netconf.find_link(name)
    if link is None:
        raise PlatformError(f"find interface {name}", errno=errno.ENODEV)
    links.sign(link)
    return link


def _create_from_here(name: str, home: int) -> None:
    here = WireguardLinks()
    try:
        here.create(name, namespace=home)
    finally:
        here.close()


def undo_link(name: str, value: Any) -> None:
    """Remove the kernel's link that a dead daemon left. Raises PlatformError."""
    netconf = LinuxNetconf()
    try:
        link = netconf.find_link(name)
    finally:
        netconf.close()
    if link is None:
        return
    links = WireguardLinks()
    try:
        links.remove(link.index)
    finally:
        links.close()
