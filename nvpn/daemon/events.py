"""What happens in a running tunnel, as values, and the one stream of them.

Whoever learns of something publishes it once. Hooks and metrics listen; whoever reads slowly,
such as a program at the other end of the control socket, subscribes: it has a queue of its
own, loses what does not fit, and is told how many that were. Nobody here waits for a reader.

When is a peer *connected*? As long as there is a session, and a session lives 180 s from its
handshake, so that a peer with anything to say renews it in time: ``nvpn show`` draws the same
line. A client needs an address, too: without one nothing passes. The first three are published
by :mod:`nvpn.daemon.connections`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, Union, get_args

from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix

CAPACITY: Final = 1000
"""Events that wait for one reader at most."""

AT_ONCE: Final = 100
"""Events that a reader is given together at most: to make text of them takes a millisecond."""

BEGINNING: Final = 60 * SECOND
"""For so long it is kept how a tunnel's stream began: who looks out for new tunnels finds one
later than its first peers do.
"""

FIRST_KEPT: Final = 500
"""Of these events, the last ones."""


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """The first handshake of a peer that had no session, or a client's lease after that."""

    kind: ClassVar[str] = "connected"
    peer: PublicKey
    name: str = ""
    endpoint: Endpoint | None = None
    addresses: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """The peer's session is over. ``why`` is for people and programs: ``silent``, …"""

    kind: ClassVar[str] = "disconnected"
    peer: PublicKey
    name: str = ""
    endpoint: Endpoint | None = None
    addresses: tuple[Prefix, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Roamed:
    """A connected peer is reached somewhere else from now on."""

    kind: ClassVar[str] = "roamed"
    peer: PublicKey
    name: str = ""
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Leased:
    """A client was given addresses, or was given them on."""

    kind: ClassVar[str] = "leased"
    peer: PublicKey
    name: str = ""
    addresses: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A client's addresses are free again. ``why``: ``expired``, ``released``, ``idle``, …"""

    kind: ClassVar[str] = "lease-ended"
    peer: PublicKey
    name: str = ""
    addresses: tuple[Prefix, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A client asked in vain. ``code`` is that of the answer, ``why`` its sentence."""

    kind: ClassVar[str] = "refused"
    peer: PublicKey
    name: str = ""
    code: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client has joined."""

    kind: ClassVar[str] = "admitted"
    peer: PublicKey
    name: str = ""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A client was sent away for good."""

    kind: ClassVar[str] = "revoked"
    peer: PublicKey
    name: str = ""


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """A service that we depend on is left alone, tried, or used again."""

    kind: ClassVar[str] = "breaker"
    service: str
    state: str


@dataclass(frozen=True, slots=True)
class Lost:
    """So many events did not fit into the queue of this one subscriber."""

    kind: ClassVar[str] = "lost"
    count: int


Event = Union[  # noqa: UP007
    PeerConnected,
    PeerDisconnected,
    Roamed,
    Leased,
    LeaseEnded,
    Refused,
    Admitted,
    Revoked,
    BreakerChanged,
    Lost,
]

KINDS: Final = tuple(event.kind for event in get_args(Event) if event is not Lost)
"""What may happen; to lose something happens to a subscriber alone."""


class Happening(NamedTuple):
    """An event and when it was published, Unix time in nanoseconds."""

    at: int
    event: Event


class EventBus:
    """The stream of one tunnel. All calls come from the event loop.

    Args:
        clock: Unix time in nanoseconds.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._listeners: list[Callable[[Event], None]] = []
        self._subscriptions: set[Subscription] = set()
        # None is as good as zero to a person, and not to who computes rates.
        self._counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._is_closed = False
        self._begun_at = clock()
        self._first: deque[Happening] = deque(maxlen=FIRST_KEPT)
        self._first_lost = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """How many events of each kind there were."""
        return self._counts

    def publish(self, event: Event) -> None:
        """Tell everybody. Never waits; after :meth:`close`: nobody."""
        if self._is_closed:
            return
        self._counts[event.kind] += 1
        if self._subscriptions or self._first or self._is_beginning():
            happening = Happening(self._clock(), event)
            self._keep(happening)
            for subscription in self._subscriptions:
                subscription.put(happening)
        # After that, for a listener may publish what follows from it.
        for listener in self._listeners:
            listener(event)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` for every event; it must not block or raise."""
        self._listeners.append(listener)

    def subscribe(self, capacity: int = CAPACITY, *, from_start: bool = False) -> Subscription:
        """Everything from now on, for one reader, who closes it when done.

        Args:
            from_start: and what came before, if the stream has begun just now.
        """
        subscription = Subscription(self._subscriptions.discard, capacity)
        if from_start and self._is_beginning():
            if self._first_lost:
                subscription.put(Happening(self._first[0].at, Lost(self._first_lost)))
            for happening in self._first:
                subscription.put(happening)
        if self._is_closed:
            subscription.end()
        else:
            self._subscriptions.add(subscription)
        return subscription

    def _is_beginning(self) -> bool:
        return self._clock() - self._begun_at <= BEGINNING

    def _keep(self, happening: Happening) -> None:
        if not self._is_beginning():
            self._first.clear()
            return
        self._first_lost += len(self._first) == FIRST_KEPT
        self._first.append(happening)

    def close(self) -> None:
        """No more events: readers get what is there, and then the end."""
        self._is_closed = True
        for subscription in list(self._subscriptions):
            subscription.end()
        self._subscriptions.clear()


class Subscription:
    """A reader's queue: bounded, and honest about what it could not keep."""

    def __init__(self, forget: Callable[[Subscription], None], capacity: int) -> None:
        self._forget = forget
        self._capacity = capacity
        self._waiting: deque[Happening] = deque()
        self._lost = 0
        self._lost_at = 0
        self._is_ended = False
        self._ready = asyncio.Event()

    def put(self, happening: Happening) -> None:
        """For the bus."""
        # What comes after a loss is lost, too, until the reader has been told of it there.
        if self._lost or len(self._waiting) >= self._capacity:
            self._lost += 1
            self._lost_at = happening.at
        else:
            self._waiting.append(happening)
        self._ready.set()

    def end(self) -> None:
        """For the bus: nothing comes after what is there."""
        self._is_ended = True
        self._ready.set()

    async def next(self) -> Sequence[Happening]:
        """Some of what has come, oldest first, waiting for it; empty: the end."""
        await self._ready.wait()
        waiting = self._waiting
        happenings = [waiting.popleft() for _ in range(min(len(waiting), AT_ONCE))]
        if self._lost and not waiting:
            happenings.append(Happening(self._lost_at, Lost(self._lost)))
            self._lost = 0
        if not waiting and not self._is_ended:
            self._ready.clear()
        return happenings

    def close(self) -> None:
        """The reader is gone."""
        self._forget(self)
        self.end()
