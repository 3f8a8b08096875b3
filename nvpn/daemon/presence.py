"""Who is connected. Pure over ``now``.

A peer is connected from a handshake on until 180 s after its last one: by then the session
that it made is dead for both sides (the paper's REJECT_AFTER_TIME), and a peer that had
anything to send, or to answer, would have renewed it. It ends earlier when we end it, or when
the peer answers none of our initiations any more.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from nvpn.model.clock import SECOND, Now
from nvpn.model.keys import PublicKey

SESSION_NS: Final = 180 * SECOND


class Presence:
    """Remembers until when each peer is connected if nothing else happens."""

    def __init__(self) -> None:
        self._until: dict[PublicKey, int] = {}
        # When to look at a peer next: it may turn out to be too early, never too late.
        self._due: list[tuple[int, PublicKey]] = []
        self._due_at: dict[PublicKey, int] = {}

    def __contains__(self, peer: PublicKey) -> bool:
        return peer in self._until

    def __len__(self) -> int:
        return len(self._until)

    def __iter__(self) -> Iterator[PublicKey]:
        return iter(list(self._until))

    def shook_hands(self, peer: PublicKey, wall: int, now: Now) -> bool:
        """A handshake completed at ``wall``, Unix nanoseconds. Whether that connects the peer.

        One that was so long ago that its session is dead changes nothing.
        """
        age = max(now.wall - wall, 0)
        if age >= SESSION_NS:
            return False
        is_new = peer not in self._until
        self._until[peer] = until = max(self._until.get(peer, 0), now.boot - age + SESSION_NS)
        if peer not in self._due_at or until < self._due_at[peer]:
            self._look_at(peer, until)
        return is_new

    def leave(self, peer: PublicKey) -> bool:
        """The session is over now. Whether the peer was connected."""
        return self._until.pop(peer, None) is not None

    def expire(self, now: Now) -> list[PublicKey]:
        """Those whose session has died of age since the last call, in that order."""
        gone = []
        while self._due and self._due[0][0] <= now.boot:
            at, peer = heapq.heappop(self._due)
            if self._due_at.get(peer) != at:
                continue  # it was to be looked at earlier, and has been
            del self._due_at[peer]
            until = self._until.get(peer)
            if until is None:
                continue
            if until > now.boot:
                self._look_at(peer, until)
            else:
                del self._until[peer]
                gone.append(peer)
        return gone

    def next_timeout(self) -> int | None:
        """When :meth:`expire` may have something to say: boot nanoseconds."""
        return self._due[0][0] if self._due else None

    def _look_at(self, peer: PublicKey, at: int) -> None:
        self._due_at[peer] = at
        heapq.heappush(self._due, (at, peer))
