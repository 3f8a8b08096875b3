"""The host's name servers while a tunnel is up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nvpn.daemon.leftovers import Leftovers
from nvpn.model.name_servers import NameServers
from nvpn.netconf.api import Link


class NameService:
    """The host's DNS while the tunnel is up. Nothing here raises or takes longer than 5 s.

    Args:
        link: whose name servers they are.
        warn: gets a sentence for everything that did not work.
        netns: as configured: whose resolv.conf it is; empty for the host's.
    """

    def __init__(
        self, link: Link, leftovers: Leftovers, *, warn: Callable[[str], None], netns: str = ""
    ) -> None:
        self._link = link
        self._leftovers = leftovers
        self._warn = warn
        self._netns = netns

    async def set(self, wanted: NameServers | None) -> None:
        """Make it so; None takes back what we set. Again with another value: changes over."""

    async def unset(self) -> None:
        """Take back what we set."""


def undo_dns(name: str, value: Any) -> None:
    """Undo what a dead daemon's :class:`NameService` noted. Raises PlatformError."""
