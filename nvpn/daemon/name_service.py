"""The host's name servers while a tunnel is up.

DNS trouble costs a warning, never the tunnel: a tunnel without names is still one.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from nvpn.control.paths import state_directory
from nvpn.daemon.leftovers import Leftovers
from nvpn.daemon.threads import run_in_thread
from nvpn.errors import PlatformError
from nvpn.model.name_servers import NameServers
from nvpn.netconf.api import Link
from nvpn.netconf.dns import RESOLVED, DnsWriter, WriterAbsentError, find_writers, writer_named

_T = TypeVar("_T")

_KIND: Final = "dns"
_SET_SECONDS: Final = 5.0
_UNSET_SECONDS: Final = 2.0
"""Less than whoever stops us has patience for."""


class NameService:
    """The host's DNS while the tunnel is up. Nothing here raises or takes longer than 5 s.

    Args:
        link: whose name servers they are.
        warn: gets a sentence for everything that did not work.
        netns: as configured: whose resolv.conf it is; empty for the host's.
        etc: where resolv.conf is.
    """

    def __init__(
        self,
        link: Link,
        leftovers: Leftovers,
        *,
        warn: Callable[[str], None],
        netns: str = "",
        etc: Path = Path("/etc"),
    ) -> None:
        self._link = link
        self._leftovers = leftovers
        self._warn = warn
        self._netns = netns
        self._etc = etc
        self._state = Path(state_directory())
        self._used: DnsWriter | None = None
        # One that hangs and is not waited for any more is not overtaken.
        self._writing = threading.Lock()

    async def set(self, wanted: NameServers | None) -> None:
        """Make it so; None takes back what we set. Again with another value: changes over."""
        if wanted is None:
            await self.unset()
            return
        if "/" in self._netns:
            self._warn(
                f"name servers are not set: {self._netns} is a path, and only a named network"
                f" namespace has a resolv.conf of its own, in {self._etc}/netns/NAME"
            )
            return
        try:
            await asyncio.wait_for(self._set(wanted), _SET_SECONDS)
        except asyncio.TimeoutError:
            way = "" if self._used is None else f" by {self._used.name}"
            self._complain(f"cannot set name servers{way} within {_SET_SECONDS:g} seconds")
        except PlatformError as error:
            self._complain(str(error))

    async def unset(self) -> None:
        """Take back what we set."""
        writer, self._used = self._used, None
        if writer is None:
            return
        try:
            await asyncio.wait_for(self._in_turn(lambda: writer.unset(self._link)), _UNSET_SECONDS)
        except asyncio.TimeoutError:
            self._warn(
                f"cannot take back name servers by {writer.name} within {_UNSET_SECONDS:g} seconds"
            )
        except PlatformError as error:
            self._warn(str(error))
        else:
            self._leftovers.forget(_KIND)

    async def _set(self, wanted: NameServers) -> None:
        """By the first writer that is there. Raises PlatformError: it refused."""
        link = self._link
        for writer in await run_in_thread(self._find_writers, name="dns"):
            if self._used is not None and self._used.name != writer.name:
                await self.unset()
            had_set = self._used is not None
            self._used = writer
            self._leftovers.note(
                _KIND, {"writer": writer.name, "link": link.name, "index": link.index}
            )
            try:
                unmet = await self._in_turn(_setting(writer, link, wanted))
            except PlatformError as error:
                if not had_set:
                    self._used = None
                    self._leftovers.forget(_KIND)
                if isinstance(error, WriterAbsentError):
                    continue
                raise
            for sentence in unmet:
                self._warn(sentence)
            return

    async def _in_turn(self, call: Callable[[], _T]) -> _T:
        def run() -> _T:
            with self._writing:
                return call()

        return await run_in_thread(run, name="dns")

    def _find_writers(self) -> list[DnsWriter]:
        if not self._netns:
            return find_writers(etc=self._etc, state=self._state)
        # What `ip netns exec` puts over /etc/resolv.conf; no daemon serves a namespace.
        path = self._etc / "netns" / self._netns / "resolv.conf"
        return [writer_named(str(path), state=self._state)]

    def _complain(self, sentence: str) -> None:
        self._warn(f"{sentence}; the tunnel goes on without them")


def undo_dns(name: str, value: Any) -> None:
    """Undo what a dead daemon's :class:`NameService` noted. Raises PlatformError."""
    writer = value.get("writer") if isinstance(value, dict) else None
    link_name, index = (value.get("link"), value.get("index")) if writer else (None, None)
    if not (isinstance(writer, str) and isinstance(link_name, str) and isinstance(index, int)):
        return  # no note of ours
    if writer == RESOLVED and not _is_there(link_name, index):
        return  # resolved has forgotten it together with the link
    link = Link(index, link_name, 0, False)
    writer_named(writer, state=Path(state_directory())).unset(link)


def _setting(writer: DnsWriter, link: Link, wanted: NameServers) -> Callable[[], tuple[str, ...]]:
    return lambda: writer.set(link, wanted)


def _is_there(name: str, index: int) -> bool:
    """The number of a link that is gone may be another's by now."""
    try:
        return socket.if_nametoindex(name) == index
    except OSError:
        return False
