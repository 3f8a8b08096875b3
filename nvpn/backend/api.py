"""What every backend offers: plans in, snapshots and notices out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nvpn.model.changes import Plan
from nvpn.model.notices import Notice
from nvpn.model.snapshot import TunnelSnapshot


class Backend(Protocol):
    """A tunnel that can be changed and looked at. All calls come from the event loop."""

    async def apply(self, plan: Plan) -> None:
        """Apply a plan, all or nothing.

        Raises:
            ControlError: EADDRINUSE and the like; nothing was changed then.
        """

    def snapshot(self) -> TunnelSnapshot:
        """The tunnel now."""

    def subscribe(self, listener: Callable[[Notice], None]) -> None:
        """Call ``listener`` on the loop for every notice; it must not block or raise."""

    async def close(self) -> None:
        """Stop, wipe keys, let go of descriptors."""
