"""What the datapath has to say, until somebody asks; bounded whatever the network does."""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice
from typing import Final

from nvpn.datapath.commands import PeerId
from nvpn.datapath.events import EndpointRoamed, Event, HandshakeReceived, InnerReceived
from nvpn.model.endpoint import Endpoint
from nvpn.wire.constants import HANDSHAKE_QUEUE_SIZE
from nvpn.wire.messages import MessageType, message_type

MAX_COOKIE_REPLIES: Final = 64
"""That wait. A flood of them, which only somebody who sees our messages can begin, costs
nobody else a handshake."""

MAX_DIVERTED: Final = 256
"""Diverted packets that wait. What comes meanwhile is dropped, as a full socket would."""

MAX_DIVERTED_OF_ONE: Final = 32
"""Of one peer, so that one who floods leaves room to the others."""


class EventQueue:
    """Events on their way up.

    Initiations and responses wait in a queue of their own: its depth is the queued work by
    which admission judges load, and the caller takes few at a time, so that neither a
    flood of them nor the millisecond that each one costs delays anything else. Cookie
    replies are no such work, and wait in another queue.

    INVARIANT: the other events are as many as commands and peers allow: what packets
    can repeat is kept once per peer.
    """

    __slots__ = (
        "_cookie_replies",
        "_diverted",
        "_diverted_of",
        "_events",
        "_handshakes",
        "_once",
        "_roamed",
    )

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._once: dict[Event, None] = {}
        self._handshakes: deque[HandshakeReceived] = deque()
        self._cookie_replies: deque[HandshakeReceived] = deque()
        self._roamed: dict[PeerId, Endpoint] = {}
        self._diverted: list[InnerReceived] = []
        self._diverted_of: Counter[PeerId] = Counter()

    def add(self, event: Event) -> None:
        """Append an event that packets cannot repeat, without new keys or commands."""
        self._events.append(event)

    def add_once(self, event: Event) -> None:
        """Append an event, unless an equal one waits."""
        self._once[event] = None

    def add_handshake(self, event: HandshakeReceived) -> bool:
        """Append a handshake message; False when the queue is full."""
        queue, room = self._handshakes, HANDSHAKE_QUEUE_SIZE
        if message_type(event.datagram) is MessageType.COOKIE_REPLY:
            queue, room = self._cookie_replies, MAX_COOKIE_REPLIES
        if len(queue) >= room:
            return False
        queue.append(event)
        return True

    def set_roamed(self, peer: PeerId, endpoint: Endpoint) -> None:
        """The peer's latest endpoint; it replaces one that was not taken yet."""
        self._roamed[peer] = endpoint

    def add_diverted(self, event: InnerReceived) -> bool:
        """Append a packet that was lifted out of the stream; False when too many wait, of its
        peer or of all."""
        if len(self._diverted) >= MAX_DIVERTED:
            return False
        if self._diverted_of[event.peer] >= MAX_DIVERTED_OF_ONE:
            return False
        self._diverted_of[event.peer] += 1
        self._diverted.append(event)
        return True

    @property
    def queued_handshakes(self) -> int:
        """Initiations and responses that wait."""
        return len(self._handshakes)

    def __bool__(self) -> bool:
        return bool(
            self._events
            or self._once
            or self._handshakes
            or self._cookie_replies
            or self._roamed
            or self._diverted
        )

    def take(self, max_handshakes: int | None = None) -> list[Event]:
        """Everything, but at most ``max_handshakes`` initiations and responses, and as many
        cookie replies.

        What concerns keys comes first, handshake messages last; each kind oldest first.
        """
        taken, self._events = self._events, []
        taken.extend(self._once)
        self._once.clear()
        if self._roamed:
            taken.extend(EndpointRoamed(peer, at) for peer, at in self._roamed.items())
            self._roamed.clear()
        taken.extend(self._diverted)
        self._diverted.clear()
        self._diverted_of.clear()
        for queue in (self._cookie_replies, self._handshakes):
            count = len(queue) if max_handshakes is None else min(len(queue), max_handshakes)
            taken.extend(islice(queue, count))
            for _ in range(count):
                queue.popleft()
        return taken
