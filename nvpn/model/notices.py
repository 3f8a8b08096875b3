"""What a running tunnel tells whoever runs it: for logs, the state file and hooks."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey


class NoticeKind(enum.Enum):
    """What happened to a peer. The value is what a log says."""

    # Both sides are known to hold the keys of a new session.
    HANDSHAKE_COMPLETED = "handshake completed"
    # The peer did not answer twice in a row: it may be somewhere else.
    HANDSHAKE_UNANSWERED = "handshake unanswered"
    # The peer answered none of our initiations; what waited for it was dropped.
    HANDSHAKE_GIVEN_UP = "handshake given up"
    # An authentic packet came from another place than before.
    ROAMED = "roamed"
    # No new session came for so long that the keys were erased.
    SESSION_EXPIRED = "session expired"
    # The peer was removed, or the interface went down, while there was a session.
    SESSION_ENDED = "session ended"


@dataclass(frozen=True, slots=True)
class Notice:
    """One event worth telling; ``wall`` is Unix time in nanoseconds."""

    kind: NoticeKind
    peer: PublicKey
    wall: int
    endpoint: Endpoint | None = None
