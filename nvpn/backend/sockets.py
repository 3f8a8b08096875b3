"""The UDP sockets of a tunnel: where they listen, how they are marked, and what follows them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from nvpn.datapath.commands import ReplaceSockets
from nvpn.errors import ControlError, PlatformError
from nvpn.transport.udp import UdpSockets, set_fwmark

_NO_SOCKETS: Final = UdpSockets(-1, -1, 0)


class TunnelSockets:
    """Port and mark are remembered; the sockets are there while the tunnel is up.

    Whatever takes sockets out of use returns them: they are to be closed when the datapath
    has let go of them, by :meth:`release`.

    Args:
        open_sockets: ``(port, fwmark) -> UdpSockets``, raises PlatformError.
    """

    def __init__(self, open_sockets: Callable[[int, int], UdpSockets]) -> None:
        self._open_sockets = open_sockets
        self._current = _NO_SOCKETS
        self._retired: list[UdpSockets] = []
        self.is_up = False
        self.port = 0
        """Where they listen, or will; 0 before one was chosen."""
        self.fwmark = 0

    def command(self) -> ReplaceSockets:
        """Tells the datapath which there are now, so that it forgets what it knew of others."""
        return ReplaceSockets(self._current.ipv4, self._current.ipv6)

    def bring_up(self) -> None:
        """Open them. Raises ControlError: the port cannot be bound; all is as before."""
        self._current = self._open(self.port, self.fwmark)
        self.port = self._current.port
        self.is_up = True

    def bring_down(self) -> UdpSockets:
        """Take them out of use."""
        self.is_up = False
        old, self._current = self._current, _NO_SOCKETS
        self._retired.append(old)
        return old

    def move(
        self, port: int | None, fwmark: int | None
    ) -> tuple[list[ReplaceSockets], UdpSockets | None]:
        """Open what a new port or mark needs.

        Returns the commands that put it to use, and the sockets that are out of use then.

        Raises:
            ControlError: nothing was changed.
        """
        wanted_mark = self.fwmark if fwmark is None else fwmark
        if not self.is_up:
            self.fwmark = wanted_mark
            if port is not None:
                self.port = port
            return [], None
        if port is not None and (port == 0 or port != self.port):
            new = self._open(port, wanted_mark)
            old, self._current = self._current, new
            self._retired.append(old)
            self.port, self.fwmark = new.port, wanted_mark
            return [self.command()], old
        if wanted_mark != self.fwmark:
            try:
                set_fwmark(self._current, wanted_mark)
            except PlatformError as error:
                raise ControlError(error.errno or errno.EPERM, str(error)) from None
            self.fwmark = wanted_mark
            # The same sockets again: routes may lead elsewhere now, so that the datapath
            # has to forget the source addresses it stuck to.
            return [self.command()], None
        return [], None

    def release(self, old: UdpSockets) -> None:
        """Close what is out of use. Again: nothing."""
        if old in self._retired:
            self._retired.remove(old)
            old.close()

    def close(self) -> None:
        """Close all of them."""
        for sockets in (self._current, *self._retired):
            sockets.close()
        self._current = _NO_SOCKETS
        self._retired.clear()

    def _open(self, port: int, fwmark: int) -> UdpSockets:
        try:
            return self._open_sockets(port, fwmark)
        except PlatformError as error:
            raise ControlError(error.errno or errno.EADDRINUSE, str(error)) from None
