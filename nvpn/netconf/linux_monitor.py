"""Tells when an interface of Linux changes: up, down, MTU, name, gone or moved away."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from nvpn.netconf import rtnetlink as rt
from nvpn.netconf.api import AddressesChanged, Link, LinkChanged, LinkEvent, LinkLeft

_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFF_UP: Final = 0x1
_RECEIVE_BYTES: Final = 1 << 18
_GROUPS: Final = rt.RTMGRP_LINK | rt.RTMGRP_IPV4_IFADDR | rt.RTMGRP_IPV6_IFADDR


def parse_link(body: bytes) -> Link | None:
    """The interface that a link message speaks of; None when it is cut short."""
    if len(body) < rt.LINK.size:
        return None
    _, _, index, flags, _ = rt.LINK.unpack_from(body)
    attributes = rt.parse_attributes(body[rt.LINK.size :])
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="surrogateescape")
    mtu = attributes.get(_IFLA_MTU, b"")
    return Link(
        index, name, struct.unpack("=I", mtu)[0] if len(mtu) == 4 else 0, bool(flags & _IFF_UP)
    )


class LinuxMonitor:
    """Watches one interface, by its index, in the network namespace this was made in."""

    def __init__(self, link: Link) -> None:
        self._index = link.index
        self._known = link
        self._socket = rt.open_socket(_GROUPS)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For the event loop's ``add_reader``."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of the descriptor."""
        self._socket.close()

    def take_events(self) -> list[LinkEvent]:
        """What happened since the last call; never blocks, never raises."""
        events: list[LinkEvent] = []
        has_lost = False
        while True:
            try:
                datagram = self._socket.recv(_RECEIVE_BYTES)
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
                if not has_lost:
                    events.append(AddressesChanged())
                has_lost = True
                continue
            for kind, _, _, body in rt.parse_messages(datagram):
                if event := self._read(kind, body):
                    events.append(event)

    def _read(self, kind: int, body: bytes) -> LinkEvent | None:
        if kind in (rt.RTM_NEWADDR, rt.RTM_DELADDR):
            return AddressesChanged()
        if kind not in (rt.RTM_NEWLINK, rt.RTM_DELLINK):
            return None
        link = parse_link(body)
        # A bridge's view of its port comes as DELLINK too, but with a family.
        if link is None or link.index != self._index or body[0] != socket.AF_UNSPEC:
            return None
        if kind == rt.RTM_DELLINK:
            return LinkLeft(link.index)
        if link == self._known:
            return None
        self._known = link
        return LinkChanged(link)

    def _ask(self) -> None:
        body = rt.LINK.pack(0, 0, self._index, 0, 0)
        length = rt.HEADER.size + len(body)
        header = rt.HEADER.pack(length, rt.RTM_GETLINK, rt.NLM_F_REQUEST, 0, 0)
        try:
            self._socket.send(header + body)
        except OSError:
            pass  # the next change of the link will tell
