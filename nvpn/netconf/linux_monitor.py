"""Tells when an interface of Linux changes: up, down, MTU, name, gone or moved away."""

from __future__ import annotations

import errno
import socket

from pyroute2.netlink import NLM_F_REQUEST, nlmsg
from pyroute2.netlink.rtnl import (
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTMGRP_LINK,
)
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg

from nvpn.netconf.api import Link, LinkChanged, LinkEvent, LinkLeft
from nvpn.netconf.linux_netlink import open_socket


def read_link(message: nlmsg) -> Link:
    """The interface that a link message speaks of."""
    name = message.get_attr("IFLA_IFNAME") or ""
    if isinstance(name, bytes):  # not UTF-8
        name = name.decode(errors="surrogateescape")
    return Link(
        index=message["index"],
        name=name,
        mtu=message.get_attr("IFLA_MTU") or 0,
        is_up=bool(message["flags"] & IFF_UP),
        kind=message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
        alias=message.get_attr("IFLA_IFALIAS") or "",
    )


class LinuxMonitor:
    """Watches one interface, by its index, in the network namespace this was made in."""

    def __init__(self, link: Link) -> None:
        self._index = link.index
        self._known = link
        self._socket = open_socket(RTMGRP_LINK)
        self._socket.socket.setblocking(False)

    def fileno(self) -> int:
        """For the event loop's ``add_reader``."""
        number: int = self._socket.socket.fileno()
        return number

    def close(self) -> None:
        """Let go of the descriptor."""
        self._socket.close()

    def take_events(self) -> list[LinkEvent]:
        """What happened since the last call; never blocks, never raises."""
        events: list[LinkEvent] = []
        has_lost = False
        while True:
            try:
                messages = self._socket.get()
            except BlockingIOError:
                if not has_lost:
                    return events
                # Only an empty queue has room for the answer, which comes here too.
                self._ask()
                has_lost = False
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return events
                has_lost = True
                continue
            for message in messages:
                if event := self._read(message):
                    events.append(event)

    def _read(self, message: nlmsg) -> LinkEvent | None:
        kind = message["header"]["type"]
        if kind not in (RTM_NEWLINK, RTM_DELLINK):
            return None
        # A bridge's view of its port comes as DELLINK too, but with a family.
        if message["index"] != self._index or message["family"] != socket.AF_UNSPEC:
            return None
        if kind == RTM_DELLINK:
            has_moved = message.get_attr("IFLA_NEW_NETNSID") is not None
            return LinkLeft(self._index, has_moved)
        link = read_link(message)
        if link == self._known:
            return None
        self._known = link
        return LinkChanged(link)

    def _ask(self) -> None:
        message = ifinfmsg()
        message["index"] = self._index
        try:
            self._socket.put(message, RTM_GETLINK, NLM_F_REQUEST)
        except OSError:
            pass  # the next change of the link will tell
