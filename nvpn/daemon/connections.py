"""Tells who comes and goes: from a backend's notices to events.

A client counts from the moment on that it has an address as well as a session; one that
only uses an invitation never does. A peer that leaves is described as it was when it was seen
last, for one that was removed cannot be asked for any more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from nvpn.backend.alarm import Alarm, open_alarm
from nvpn.channel.messages import Goodbye, GoodbyeReason
from nvpn.daemon.events import (
    Event,
    EventBus,
    Leased,
    PeerConnected,
    PeerDisconnected,
    Roamed,
)
from nvpn.daemon.presence import Presence
from nvpn.model.changes import Owner
from nvpn.model.clock import SECOND, Now, read_clocks
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot
from nvpn.wire.token_bucket import TokenBucket

SILENT: Final = "silent"
UNANSWERED: Final = "unanswered"
REMOVED: Final = "removed"
LINK_DOWN: Final = "link down"
GOODBYE: Final = "goodbye"
STOPPING: Final = "stopping"

_LEAVING: Final = frozenset({GoodbyeReason.STOPPING.value, GoodbyeReason.REVOKED.value})
_RESULTS: Final = {
    NoticeKind.HANDSHAKE_COMPLETED: "completed",
    NoticeKind.HANDSHAKE_UNANSWERED: "unanswered",
    NoticeKind.HANDSHAKE_GIVEN_UP: "given-up",
}


_ROAMING: Final = TokenBucket(interval=2 * SECOND, burst=10)


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
        # Those that were told of, which are not all of those who have a session.
        self._connected: dict[PublicKey, PeerConnected] = {}
        # When each one's roaming may be told of in full again.
        self._roaming: dict[PublicKey, int] = {}
        self._handshakes: Counter[str] = Counter(dict.fromkeys(_RESULTS.values(), 0))
        self._alarm = alarm(loop, self._expire)
        self._is_closed = False
        backend.subscribe(self._notice)
        bus.listen(self._hear)

    def __contains__(self, peer: PublicKey) -> bool:
        return peer in self._connected

    def __len__(self) -> int:
        """How many peers are connected now."""
        return len(self._connected)

    @property
    def handshakes(self) -> Mapping[str, int]:
        """How many handshakes there were, by what became of them."""
        return self._handshakes

    def goodbye(self, peer: PublicKey) -> None:
        """The peer said that it goes."""
        self._leave(peer, GOODBYE)

    def hear_goodbye(self, peer: PublicKey, notice: Goodbye) -> None:
        """The same, over the channel; who only ends our lease stays."""
        if notice.reason in _LEAVING:
            self.goodbye(peer)

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

    def _hear(self, event: Event) -> None:
        if not isinstance(event, Leased) or self._is_closed:
            return
        if (known := self._connected.get(event.peer)) is not None:
            self._connected[event.peer] = replace(known, addresses=event.addresses)
        elif event.peer in self._presence:
            self._arrive(event.peer, addresses=event.addresses)

    def _shook_hands(self, notice: Notice) -> None:
        self._presence.shook_hands(notice.peer, notice.wall, self._clocks())
        self._alarm.set(self._presence.next_timeout())
        if notice.peer in self._connected:
            self._roamed(notice)  # what was left out until now
        elif notice.peer in self._presence:
            self._arrive(notice.peer, notice.endpoint)

    def _arrive(
        self,
        peer: PublicKey,
        endpoint: Endpoint | None = None,
        addresses: tuple[Prefix, ...] = (),
    ) -> None:
        """A peer with a session is told of, unless it is a client that waits for its lease."""
        seen = self._backend.peer(peer) or PeerSnapshot(peer)
        addresses = seen.allowed_ips or addresses
        if seen.owner is Owner.LEASE and not addresses:
            return
        event = PeerConnected(peer, seen.name, endpoint or seen.endpoint, addresses)
        self._connected[peer] = event
        self._bus.publish(event)

    def _roamed(self, notice: Notice) -> None:
        """Told of a few times, and no more: a peer may be elsewhere with each packet, and must
        not crowd out what is told of others."""
        known, endpoint = self._connected.get(notice.peer), notice.endpoint
        if known is None or endpoint is None or _is_same(known.endpoint, endpoint):
            return
        full_again = _ROAMING.take(self._roaming.get(notice.peer, 0), self._clocks().boot)
        if full_again is not None:
            self._roaming[notice.peer] = full_again
            self._connected[notice.peer] = replace(known, endpoint=endpoint)
            self._bus.publish(Roamed(known.peer, known.name, endpoint))

    def _leave(self, peer: PublicKey, why: str) -> None:
        if self._presence.leave(peer):
            self._tell_gone(peer, why)

    def _expire(self) -> None:
        for peer in self._presence.expire(self._clocks()):
            self._tell_gone(peer, SILENT)
        self._alarm.set(self._presence.next_timeout())

    def _tell_gone(self, peer: PublicKey, why: str) -> None:
        self._roaming.pop(peer, None)
        last = self._connected.pop(peer, None)
        if last is None:
            return
        now = self._backend.peer(peer)
        if now is not None:
            # Names change, and leases end before their clients go.
            addresses = now.allowed_ips or last.addresses
            last = PeerConnected(peer, now.name, now.endpoint or last.endpoint, addresses)
        self._bus.publish(PeerDisconnected(peer, last.name, last.endpoint, last.addresses, why))


def _is_same(known: Endpoint | None, endpoint: Endpoint) -> bool:
    return known is not None and known.remote == endpoint.remote
