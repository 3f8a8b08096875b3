"""Whom to ask whether they speak on the channel: nobody twice, and strangers hardly ever.

A peer with stock WireGuard drops what we say and stays silent. So it is asked one thing in one
datagram, only in a session in which it sends data anyway, and its silence is remembered: for an
hour, then two, and so on up to a day. What a peer said of itself holds for an hour, or until
its session ends.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from nvpn.channel.messages import Hello
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey

FIRST_LOOK: Final = 10 * SECOND
"""After so long in a session we look whether data flows in it, then after twice as long, …"""

SESSION: Final = 180 * SECOND
"""No session is used longer (REJECT_AFTER_TIME); it is renewed before."""

HOLDS: Final = 3600 * SECOND
"""How long an introduction holds."""

FIRST_PAUSE: Final = 3600 * SECOND
LONGEST_PAUSE: Final = 24 * 3600 * SECOND

MAX_PEERS: Final = 131_072
"""Remembered. Then whoever had no session for longest is forgotten."""


@dataclass(slots=True)
class _Peer:
    """``session`` is when the present session began, 0 without one; ``pause`` how long the
    peer is left alone after silence, until ``quiet_until``.
    """

    session: int = 0
    is_watched: bool = False
    hello: Hello | None = None
    told_at: int = 0
    pause: int = 0
    quiet_until: int = 0


class Acquaintances:
    """What we know of whom; pure over ``now``, in monotonic nanoseconds greater than 0."""

    def __init__(self) -> None:
        self._peers: OrderedDict[PublicKey, _Peer] = OrderedDict()
        # Peers that are to be looked at, by when: a heap.
        self._looks: list[tuple[int, PublicKey]] = []

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, peer: PublicKey) -> Hello | None:
        """How it introduced itself, if that still holds."""
        known = self._peers.get(peer)
        return None if known is None else known.hello

    def begin_session(self, peer: PublicKey, now: int) -> None:
        """A handshake with the peer was completed."""
        known = self._know(peer)
        known.session = now
        if _is_unknown(known, now) and not known.is_watched:
            known.is_watched = True
            heapq.heappush(self._looks, (now + FIRST_LOOK, peer))

    def end_session(self, peer: PublicKey) -> None:
        """There is no session any more. Silence stays remembered."""
        known = self._peers.get(peer)
        if known is not None:
            known.session = 0
            known.hello = None

    def forget(self, peer: PublicKey) -> None:
        """The peer is gone."""
        self._peers.pop(peer, None)

    def next_look(self) -> int | None:
        """When :meth:`take_look` has somebody to look at; None for never."""
        return self._looks[0][0] if self._looks else None

    def take_look(self, now: int) -> PublicKey | None:
        """A peer of which :meth:`look` wants to hear now; None: nobody any more."""
        while self._looks and self._looks[0][0] <= now:
            _, peer = heapq.heappop(self._looks)
            known = self._peers.get(peer)
            if known is None:
                continue
            known.is_watched = False
            if known.session and now - known.session < SESSION and _is_unknown(known, now):
                return peer
        return None

    def look(self, peer: PublicKey, data_received_at: int, now: int) -> bool:
        """Whether to ask the peer now, once; then :meth:`introduce` or :meth:`fall_silent`.

        Args:
            data_received_at: when data came from it last, 0 for never.
        """
        known = self._peers.get(peer)
        if known is None:
            return False
        if data_received_at >= known.session:
            # Until there is an answer: the next session must not begin to ask again.
            self._leave_alone(known, now)
            return True
        known.is_watched = True
        heapq.heappush(self._looks, (now + max(now - known.session, FIRST_LOOK), peer))
        return False

    def introduce(self, peer: PublicKey, hello: Hello, now: int) -> None:
        """The peer said who it is, be it that we asked or that it did."""
        known = self._know(peer)
        known.hello = hello
        known.told_at = now
        known.pause = known.quiet_until = 0

    def fall_silent(self, peer: PublicKey, now: int) -> None:
        """The peer did not answer."""
        known = self._peers.get(peer)
        if known is not None:
            known.hello = None
            known.pause = min(max(known.pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
            self._leave_alone(known, now)

    def _leave_alone(self, known: _Peer, now: int) -> None:
        known.quiet_until = now + max(known.pause, FIRST_PAUSE)

    def _know(self, peer: PublicKey) -> _Peer:
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= MAX_PEERS:
                self._peers.popitem(last=False)
            known = self._peers[peer] = _Peer()
        else:
            self._peers.move_to_end(peer)
        return known


def _is_unknown(known: _Peer, now: int) -> bool:
    """Whether we would like to ask: it has not said who it is, nor been silent lately."""
    has_said = known.hello is not None and now - known.told_at < HOLDS
    return not has_said and now >= known.quiet_until
