"""Notices that the network around a tunnel is another one than before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class NetworkWatch:
    """Notices that the host's addresses or default routes changed, or that it slept.

    Args:
        on_change: called on the loop with why, at most once a second.
        ignored: the index of the tunnel's own interface.
    """

    def __init__(
        self,
        on_change: Callable[[str], None],
        *,
        loop: asyncio.AbstractEventLoop,
        ignored: Callable[[], int],
    ) -> None:
        self._on_change = on_change
        self._loop = loop
        self._ignored = ignored

    def start(self) -> None:
        """Watch from now on. Raises PlatformError."""

    def close(self) -> None:
        """Watch no longer."""
