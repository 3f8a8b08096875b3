"""All that a tunnel from a file offers beside moving packets, begun and ended in one place.

Each service has a moment for everything: ``prepare`` while keys and peers are there and no
socket is; ``start`` when the interface is up; ``change`` after a reload; ``prepare_stop`` while
all still works; ``close``. The session calls these, and knows no service by name.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from nvpn.backend.api import TunnelBackend
from nvpn.config.model import TunnelConfig
from nvpn.control.server import Operation
from nvpn.daemon.surroundings import Surroundings
from nvpn.model.changes import Plan
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice
from nvpn.resilience.registry import Breakers

_log: Final = logging.getLogger(__name__)

Overlay = Callable[[TunnelConfig, Plan], Awaitable[None]]
"""Bring the host to a configuration that is not (only) the file's, and the peers by a plan.

All or nothing: it raises NvpnError, and all is as before."""


class Services:
    """Of one tunnel. A bare device has none.

    Args:
        overlay: for what somebody else tells us to be.
    """

    def __init__(
        self, name: str, backend: TunnelBackend, *, around: Surroundings, overlay: Overlay
    ) -> None:
        self._name = name
        self._backend = backend
        self._around = around
        self._overlay = overlay
        self.breakers: Final = Breakers()
        """Of whatever may fail: names, stores, servers."""

    def operations(self) -> dict[str, Operation]:
        """What the control socket offers for them."""
        return {}

    def effective(self, config: TunnelConfig) -> TunnelConfig:
        """What a configuration of the file comes to, with what others tell us."""
        return config

    def leased(self, old: TunnelConfig, new: TunnelConfig) -> Plan:
        """From one configuration of the file to another: what changes for others' prefixes."""
        return ()

    async def prepare(self, config: TunnelConfig) -> tuple[PublicKey, ...]:
        """Before the sockets. The peers that are there now and in no file.

        Raises:
            NvpnError: the tunnel cannot be what its file says.
        """
        self.breakers.change(config.resilience)
        return ()

    async def start(self, config: TunnelConfig) -> None:
        """The interface is up. Raises NvpnError."""

    async def change(self, old: TunnelConfig, new: TunnelConfig) -> list[str]:
        """The file has changed, and what it says is in force. Sentences of warning.

        Never raises: there is nobody left who could take it back.
        """
        self.breakers.change(new.resilience)
        return []

    def notice(self, notice: Notice) -> None:
        """Something happened to a peer."""

    async def prepare_stop(self) -> None:
        """Say goodbye, give back what is others'. Bounded; never raises."""

    async def close(self) -> None:
        """At once. Never raises."""
