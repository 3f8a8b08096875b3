"""What every backend offers: plans in, snapshots and notices out."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nvpn.model.changes import Plan
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.snapshot import TunnelSnapshot


class NoticeKind(enum.Enum):
    """What happened to a peer, for logs, the state file and hooks."""

    HANDSHAKE_COMPLETED = "handshake completed"
    HANDSHAKE_GIVEN_UP = "handshake given up"
    ROAMED = "roamed"
    SESSION_EXPIRED = "session expired"


@dataclass(frozen=True, slots=True)
class Notice:
    """One event worth telling; ``wall`` is Unix time in nanoseconds."""

    kind: NoticeKind
    peer: PublicKey
    wall: int
    endpoint: Endpoint | None = None


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
