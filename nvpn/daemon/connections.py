"""Tells who comes and goes: from a backend's notices to events.

A peer that leaves is described as it was when it was seen last, for one that was removed
cannot be asked for any more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from nvpn.backend.alarm import Alarm, open_alarm
from nvpn.daemon.events import EventBus, PeerConnected, PeerDisconnected, Roamed
from nvpn.daemon.presence import Presence
from nvpn.model.clock import Now, read_clocks
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.snapshot import PeerSnapshot

SILENT: Final = "silent"
UNANSWERED: Final = "unanswered"
REMOVED: Final = "removed"
LINK_DOWN: Final = "link down"
GOODBYE: Final = "goodbye"
STOPPING: Final = "stopping"

_RESULTS: Final = {
    NoticeKind.HANDSHAKE_COMPLETED: "completed",
    NoticeKind.HANDSHAKE_UNANSWERED: "unanswered",
    NoticeKind.HANDSHAKE_GIVEN_UP: "given-up",
}


class Peers(Protocol):
    """What is asked of a :class:`nvpn.backend.api.TunnelBackend`."""

    def peer(self, peer: PublicKey) -> PeerSnapshot | None:
        """One peer now, None for an unknown one."""

    def subscribe(self, listener: Callable[[Notice], None]) -> None:
        """Call ``listener`` on the loop for every notice."""


class Connections:
    """Publishes :class:`PeerConnected`, :class:`PeerDisconnected` and :class:`Roamed`.

    Args:
        backend: notices of its peers; a session that is there already is told as new.
        bus: where to publish.
    """

    def __init__(
        self,
        backend: Peers,
        bus: EventBus,
        loop: asyncio.AbstractEventLoop,
        *,
        clocks: Callable[[], Now] = read_clocks,
        alarm: Callable[[asyncio.AbstractEventLoop, Callable[[], None]], Alarm] = open_alarm,
    ) -> None:
        self._backend = backend
        self._bus = bus
        self._clocks = clocks
        self._presence = Presence()
        self._last_seen: dict[PublicKey, PeerConnected] = {}
        self._handshakes: Counter[str] = Counter(dict.fromkeys(_RESULTS.values(), 0))
        self._alarm = alarm(loop, self._expire)
        self._is_closed = False
        backend.subscribe(self._notice)

    def __contains__(self, peer: PublicKey) -> bool:
        return peer in self._presence

    def __len__(self) -> int:
        """How many peers are connected now."""
        return len(self._presence)

    @property
    def handshakes(self) -> Mapping[str, int]:
        """How many handshakes there were, by what became of them."""
        return self._handshakes

    def goodbye(self, peer: PublicKey) -> None:
        """The peer said that it goes."""
        self._leave(peer, GOODBYE)

    def end(self) -> None:
        """The tunnel stops: nobody is connected any more, and nobody comes."""
        for peer in self._presence:
            self._leave(peer, STOPPING)
        self.close()

    def close(self) -> None:
        """Hear and tell nothing any more."""
        if not self._is_closed:
            self._is_closed = True
            self._alarm.close()

    def _notice(self, notice: Notice) -> None:
        if self._is_closed:
            return
        if notice.kind in _RESULTS:
            self._handshakes[_RESULTS[notice.kind]] += 1
        if notice.kind is NoticeKind.HANDSHAKE_COMPLETED:
            self._shook_hands(notice)
        elif notice.kind is NoticeKind.ROAMED:
            self._roamed(notice)
        elif notice.kind is NoticeKind.HANDSHAKE_GIVEN_UP:
            self._leave(notice.peer, UNANSWERED)
        elif notice.kind is NoticeKind.SESSION_ENDED:
            is_there = self._backend.peer(notice.peer) is not None
            self._leave(notice.peer, LINK_DOWN if is_there else REMOVED)

    def _shook_hands(self, notice: Notice) -> None:
        is_new = self._presence.shook_hands(notice.peer, notice.wall, self._clocks())
        self._alarm.set(self._presence.next_timeout())
        if is_new:
            event = self._describe(notice)
            self._last_seen[notice.peer] = event
            self._bus.publish(event)

    def _describe(self, notice: Notice) -> PeerConnected:
        seen = self._backend.peer(notice.peer)
        if seen is None:
            return PeerConnected(notice.peer, endpoint=notice.endpoint)
        return PeerConnected(
            notice.peer, seen.name, notice.endpoint or seen.endpoint, seen.allowed_ips
        )

    def _roamed(self, notice: Notice) -> None:
        if notice.peer in self._presence:
            event = self._describe(notice)
            self._last_seen[notice.peer] = event
            self._bus.publish(Roamed(event.peer, event.name, event.endpoint))

    def _leave(self, peer: PublicKey, why: str) -> None:
        if self._presence.leave(peer):
            self._tell_gone(peer, why)

    def _expire(self) -> None:
        for peer in self._presence.expire(self._clocks()):
            self._tell_gone(peer, SILENT)
        self._alarm.set(self._presence.next_timeout())

    def _tell_gone(self, peer: PublicKey, why: str) -> None:
        last = self._last_seen.pop(peer, PeerConnected(peer))
        now = self._backend.peer(peer)
        if now is not None:
            # Names and allowed IPs come and go with leases.
            last = PeerConnected(peer, now.name, now.endpoint, now.allowed_ips)
        self._bus.publish(PeerDisconnected(peer, last.name, last.endpoint, last.addresses, why))
