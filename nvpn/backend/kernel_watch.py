"""Tells from looking at the kernel's counters again and again what happened to peers.

The kernel's WireGuard has no events. But a handshake has a date, an endpoint moves, and a
peer that is sent to while its session is too old to send with is being asked for a new one:
the kernel's initiations count as sent bytes, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from nvpn.model.clock import SECOND, Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot

RENEWAL_NS: Final = 135 * SECOND
"""A session is renewed after 120 s at the latest (REKEY_AFTER_TIME): one older than this
that is used has a handshake that was not answered."""

SESSION_NS: Final = 180 * SECOND
"""An older session carries nothing any more (REJECT_AFTER_TIME)."""

UNANSWERED_NS: Final = 12 * SECOND
"""Two initiations (REKEY_TIMEOUT each, with jitter) and the time for an answer."""

GIVEN_UP_NS: Final = 90 * SECOND
"""So long the kernel tries before it drops what waits (REKEY_ATTEMPT_TIME)."""


class _Watched:
    """What was seen of a peer last; times are of the boot clock."""

    __slots__ = (
        "endpoint",
        "handshake_at",
        "last_handshake",
        "seeking_since",
        "told_at",
        "tx_bytes",
    )

    def __init__(self, peer: PeerSnapshot, now: Now) -> None:
        self.endpoint: Endpoint | None = None
        self.last_handshake = 0
        self.tx_bytes = 0
        # When the session was new, None without one.
        self.handshake_at: int | None = None
        # Since when it is sent to without a session that could be sent with.
        self.seeking_since: int | None = None
        self.told_at = 0
        self.take(peer, now)

    def take(self, peer: PeerSnapshot, now: Now) -> None:
        if peer.last_handshake != self.last_handshake:
            age = max(now.wall - peer.last_handshake, 0)
            self.handshake_at = now.boot - age if peer.last_handshake else None
        self.last_handshake = peer.last_handshake
        self.endpoint = peer.endpoint
        self.tx_bytes = peer.tx_bytes


class KernelWatch:
    """Compares what it is shown with what it was shown before."""

    def __init__(self) -> None:
        self._peers: dict[PublicKey, _Watched] = {}

    def expect_moves(self, peers: Iterable[PublicKey]) -> None:
        """Their endpoints were set by us: that is not roaming."""
        for peer in peers:
            if (watched := self._peers.get(peer)) is not None:
                watched.endpoint = None

    def look(self, snapshot: TunnelSnapshot, now: Now) -> list[Notice]:
        """What happened since the last look. A peer that is seen first has no past."""
        before, self._peers = self._peers, {}
        notices: list[Notice] = []
        for peer in snapshot.peers:
            watched = before.get(peer.public_key)
            if watched is None:
                watched = _Watched(peer, now)
                if peer.last_handshake:
                    notices.append(
                        Notice(
                            NoticeKind.HANDSHAKE_COMPLETED,
                            peer.public_key,
                            peer.last_handshake,
                            peer.endpoint,
                        )
                    )
            else:
                notices += _compare(watched, peer, now)
            self._peers[peer.public_key] = watched
        for key in before.keys() - self._peers.keys():
            gone = before[key]
            if gone.handshake_at is not None and now.boot - gone.handshake_at < SESSION_NS:
                notices.append(Notice(NoticeKind.SESSION_ENDED, key, now.wall, gone.endpoint))
        return notices


def _compare(watched: _Watched, peer: PeerSnapshot, now: Now) -> Iterator[Notice]:
    is_new = peer.last_handshake not in (0, watched.last_handshake)
    has_moved = (
        peer.endpoint is not None
        and watched.endpoint is not None
        and peer.endpoint.remote != watched.endpoint.remote
    )
    has_sent = peer.tx_bytes > watched.tx_bytes
    watched.take(peer, now)
    key = peer.public_key
    if is_new:
        watched.seeking_since = None
        # Unix time as the kernel read it, for a look comes late.
        yield Notice(NoticeKind.HANDSHAKE_COMPLETED, key, peer.last_handshake, peer.endpoint)
    if has_moved:
        yield Notice(NoticeKind.ROAMED, key, now.wall, peer.endpoint)
    is_old = watched.handshake_at is None or now.boot - watched.handshake_at > RENEWAL_NS
    if is_new or not has_sent or not is_old:
        return
    if watched.seeking_since is None or now.boot - watched.told_at > GIVEN_UP_NS:
        watched.seeking_since = watched.told_at = now.boot
    elif now.boot - watched.seeking_since >= GIVEN_UP_NS:
        watched.seeking_since = None
        yield Notice(NoticeKind.HANDSHAKE_GIVEN_UP, key, now.wall, peer.endpoint)
    elif now.boot - watched.told_at >= UNANSWERED_NS:
        watched.told_at = now.boot
        yield Notice(NoticeKind.HANDSHAKE_UNANSWERED, key, now.wall, peer.endpoint)
