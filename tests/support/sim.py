"""A world with a clock of its own: hosts (a real Device on a real Core) and a bad network.

Everything random comes from one seed, so that a failure can be run again; the seed is in
the world's ``repr``, which pytest prints. Time is virtual nanoseconds and jumps from one
happening to the next: a day costs what happens in it.
"""

from __future__ import annotations

import heapq
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from nvpn.datapath.commands import Command, ReplaceSockets
from nvpn.datapath.events import Event
from nvpn.datapath.python.core import Core
from nvpn.errors import DropReason
from nvpn.model.clock import MILLISECOND, SECOND, Now
from nvpn.model.endpoint import Endpoint, Source
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.notices import Notice
from nvpn.model.prefixes import Prefix, format_address
from nvpn.protocol.device import Device
from nvpn.protocol.tai64n import TimestampSource
from nvpn.wire.messages import MessageType, message_type

START = 1_000 * SECOND  # of the boot clock: nothing may depend on it being small
WALL = 1_700_000_000 * SECOND


@dataclass(frozen=True, slots=True)
class Weather:
    """What the network does to a datagram; probabilities from 0 to 1."""

    latency: int = 10 * MILLISECOND
    jitter: int = 0  # up to so much later, each datagram by itself: it reorders
    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0


@dataclass(frozen=True, slots=True)
class Flight:
    """A datagram that was sent, whatever became of it."""

    at: int
    sender: str
    source: Endpoint
    target: Endpoint
    datagram: bytes = field(repr=False)

    @property
    def kind(self) -> MessageType | None:
        return message_type(self.datagram)

    @property
    def is_keepalive(self) -> bool:
        return self.kind is MessageType.TRANSPORT and len(self.datagram) == 32

    @property
    def sender_index(self) -> int:
        return int.from_bytes(self.datagram[4:8], "little")


class Engine(Protocol):
    """What a host needs of a Device; other implementations are played through it."""

    def handle_event(self, event: Event, now: Now) -> None: ...
    def handle_timeout(self, now: Now) -> None: ...
    def next_timeout(self) -> int | None: ...
    def take_commands(self) -> list[Command]: ...
    def take_notices(self) -> list[Notice]: ...


class World:
    """Time, randomness, and the network between the hosts."""

    def __init__(self, seed: int, weather: Weather | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.weather = weather or Weather()
        self.time = START
        self.flights: list[Flight] = []
        self.happenings = 0
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._hosts: dict[tuple[bytes, int, int, int], Host] = {}
        self._catch: list[tuple[MessageType, str | None, list[Flight]]] = []
        self.blocked: set[tuple[str, str]] = set()  # (sender, receiver): a firewall
        self.dead: set[tuple[bytes, int, int, int]] = set()  # nothing gets there, or from there

    def __repr__(self) -> str:
        return f"World(seed={self.seed}, at={(self.time - START) / SECOND:.3f} s)"

    # --- time -------------------------------------------------------------------------

    def at(self, time: int, action: Callable[[], None]) -> None:
        self.happenings += 1
        heapq.heappush(self._agenda, (max(time, self.time), self.happenings, action))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.run_until(self.time + round(seconds * SECOND))

    def run_until(self, end: int) -> None:
        while self._agenda and self._agenda[0][0] <= end:
            self.time, _, action = heapq.heappop(self._agenda)
            action()
        self.time = end

    def every(self, seconds: float, action: Callable[[], None], *, until: float) -> None:
        """Do something now, and again and again for so many seconds."""
        end = self.time + round(until * SECOND)

        def again() -> None:
            action()
            if self.time + round(seconds * SECOND) <= end:
                self.at(self.time + round(seconds * SECOND), again)

        self.at(self.time, again)

    @property
    def elapsed(self) -> float:
        return (self.time - START) / SECOND

    # --- network ----------------------------------------------------------------------

    def place(self, host: Host, *endpoints: Endpoint) -> None:
        """Reach the host there from now on, and nowhere else."""
        self._hosts = {where: who for where, who in self._hosts.items() if who is not host}
        self._hosts.update({endpoint.remote: host for endpoint in endpoints})

    def send(self, flight: Flight) -> None:
        self.flights.append(flight)
        for caught in self._catch:
            kind, sender, held = caught
            if flight.kind is kind and sender in (None, flight.sender):
                self._catch.remove(caught)
                held.append(flight)
                return
        weather, roll = self.weather, self.random.random
        copies = 2 if weather.duplication and roll() < weather.duplication else 1
        for _ in range(copies):
            if weather.loss and roll() < weather.loss:
                continue
            datagram = flight.datagram
            if weather.corruption and roll() < weather.corruption:
                datagram = self.corrupt(datagram)
            delay = weather.latency + (self.random.randrange(weather.jitter + 1))
            self.fly(replace(flight, datagram=datagram), delay)

    def fly(self, flight: Flight, delay: int) -> None:
        self.at(self.time + delay, lambda: self._arrive(flight))

    def corrupt(self, datagram: bytes) -> bytes:
        bit = self.random.randrange(len(datagram) * 8)
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    def hold_next(self, kind: MessageType, sender: str | None = None) -> list[Flight]:
        """Keep the next such message from arriving; it will be the list's only item."""
        held: list[Flight] = []
        self._catch.append((kind, sender, held))
        return held

    def sent(
        self, kind: MessageType | None = None, sender: str | None = None, *, after: int = 0
    ) -> list[Flight]:
        return [
            flight
            for flight in self.flights
            if (kind is None or flight.kind is kind)
            and (sender is None or flight.sender == sender)
            and flight.at >= after
        ]

    def _arrive(self, flight: Flight) -> None:
        host = self._hosts.get(flight.target.remote)
        if host is None or (flight.sender, host.name) in self.blocked:
            return
        if not self.dead.isdisjoint((flight.target.remote, flight.source.remote)):
            return
        host.receive(flight.datagram, flight.source, at=flight.target)


EngineFactory = Callable[["Host"], Engine]


class Host:
    """A Device on a Core, driven as a backend would.

    ``delays``: commands reach the core, and events the device, up to so many nanoseconds
    late, in order, as with a datapath on threads of its own. 0: at once.
    """

    def __init__(
        self,
        world: World,
        name: str,
        outer: str,
        *,
        engine: EngineFactory | None = None,
        timestamps: TimestampSource | None = None,
        rng: Callable[[int], bytes] | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.key = PrivateKey(random.Random(f"{world.seed} {name}").randbytes(32))
        self.public = self.key.public()
        self.outer = Endpoint.parse(outer)
        self.others: tuple[Endpoint, ...] = ()
        self.delays = 0
        self.delivered: list[bytes] = []
        self.delivered_at: list[int] = []
        self.notices: list[Notice] = []
        self.wall_offset = 0
        self.wakes = 0
        self._factory = engine
        self._rng = rng or world.random.randbytes
        self._timestamps = timestamps
        self._life = 0
        self._asleep_until = 0
        world.place(self, self.outer)
        self._start()

    def __repr__(self) -> str:
        return f"Host({self.name}, {self.world})"

    def _start(self) -> None:
        self._life += 1
        self._wake_at: int | None = None
        self._last_down = self._last_up = 0
        self.core = Core(mtu=1420, random=self._rng)
        if self._factory is not None:
            self.engine: Engine = self._factory(self)
            return
        self.engine = Device(
            datapath=self.core,
            random=self._rng,
            timestamps=self._timestamps or TimestampSource(),
        )
        self.device.set_private_key(self.key, self.now)
        self.device.bring_up(self.now)
        self.turn()

    @property
    def device(self) -> Device:
        assert isinstance(self.engine, Device)
        return self.engine

    @property
    def now(self) -> Now:
        return Now(self.world.time, WALL + self.world.time - START + self.wall_offset)

    @property
    def drops(self) -> dict[DropReason, int]:
        """Datapath and protocol together."""
        total: dict[DropReason, int] = dict(self.core.drops())
        if isinstance(self.engine, Device):
            for reason, count in self.engine.drops().items():
                total[reason] = total.get(reason, 0) + count
        return total

    # --- what a test does -------------------------------------------------------------

    def meet(
        self,
        other: Host,
        *allowed: str,
        endpoint: bool = True,
        preshared: PresharedKey | None = None,
        keepalive: int = 0,
    ) -> None:
        """Configure the other host as a peer."""
        device = self.device
        device.add_peer(other.public)
        device.set_preshared_key(other.public, preshared)
        if endpoint:
            device.set_endpoint(other.public, other.outer, self.now)
        for prefix in allowed:
            device.add_allowed_ip(other.public, Prefix.parse(prefix))
        device.set_persistent_keepalive(other.public, keepalive, self.now)
        self.turn()

    def send(self, packet: bytes) -> None:
        """A program on this host sends."""
        self.core.send_inner(packet, self.now.boot)
        self.turn()

    def receive(self, datagram: bytes, source: Endpoint, *, at: Endpoint | None = None) -> None:
        """A datagram arrives, at one of our places if there are several."""
        if self.world.time < self._asleep_until:
            return
        if at is not None and self.others:
            source = source._replace(source=Source(at.address))
        self.core.receive(datagram, source, self.now.boot)
        self.turn()

    def restart(self) -> None:
        """As after kill -9: nothing is known any more, not even a peer."""
        self.delivered.clear()
        self.delivered_at.clear()
        self._start()

    def move(self, outer: str) -> None:
        """Another address from now on, as behind a NAT that changed its mind."""
        self.outer = Endpoint.parse(outer)
        self.world.place(self, self.outer)
        self.core.apply([ReplaceSockets(-1, -1)], self.now.boot)

    def spread(self, *outers: str) -> tuple[Endpoint, ...]:
        """Be reached at these addresses, too; answers leave from where the question came.

        What has no place to leave from leaves from the first.
        """
        self.others = tuple(map(Endpoint.parse, outers))
        self.world.place(self, self.outer, *self.others)
        return self.outer, *self.others

    def suspend(self, seconds: float) -> None:
        """Hear nothing, do nothing; the boot clock runs on."""
        self._asleep_until = self.world.time + round(seconds * SECOND)
        self.world.at(self._asleep_until, self.turn)

    # --- the loop ---------------------------------------------------------------------

    def turn(self) -> None:
        """Until nobody has anything to say any more."""
        if self.world.time < self._asleep_until:
            return
        while self._step():
            pass
        self.notices += self.engine.take_notices()
        self._plan_wake()

    def _step(self) -> bool:
        deadline = self.engine.next_timeout()
        if deadline is not None and deadline <= self.world.time:
            self.engine.handle_timeout(self.now)
        events = self.core.take_events()
        if events:
            self._hand_up(events)
        commands = self.engine.take_commands()
        if commands:
            self._hand_down(commands)
        datagrams = self.core.take_datagrams()
        for out in datagrams:
            self.world.send(
                Flight(
                    self.world.time,
                    self.name,
                    self._leaves_from(out.endpoint),
                    out.endpoint,
                    out.datagram,
                )
            )
        inner = self.core.take_inner()
        self.delivered += inner
        self.delivered_at += [self.world.time] * len(inner)
        return bool(events or commands or datagrams or inner)

    def _leaves_from(self, target: Endpoint) -> Endpoint:
        for place in self.others:
            if target.source is not None and place.address == target.source.address:
                return place
        return self.outer

    def _hand_up(self, events: Sequence[Event]) -> None:
        if not self.delays:
            self._handle(events)
            return
        self._last_up = max(self._last_up, self.world.time + self._delay())
        self._later(self._last_up, lambda: self._handle(events))

    def _hand_down(self, commands: Sequence[Command]) -> None:
        if not self.delays:
            self.core.apply(commands, self.now.boot)
            return
        self._last_down = max(self._last_down, self.world.time + self._delay())
        self._later(self._last_down, lambda: self.core.apply(commands, self.now.boot))

    def _handle(self, events: Sequence[Event]) -> None:
        for event in events:
            self.engine.handle_event(event, self.now)

    def _delay(self) -> int:
        return self.world.random.randrange(self.delays)

    def _later(self, time: int, action: Callable[[], None]) -> None:
        life = self._life

        def then() -> None:
            if life == self._life:
                action()
                self.turn()

        self.world.at(time, then)

    def _plan_wake(self) -> None:
        deadline = self.engine.next_timeout()
        if deadline is None or (self._wake_at is not None and self._wake_at <= deadline):
            return
        self._wake_at = deadline
        life = self._life

        def wake() -> None:
            if life == self._life and self._wake_at == deadline:
                self._wake_at = None
                self.wakes += 1
                self.turn()

        self.world.at(deadline, wake)


class Pair:
    """Alice (10.0.0.1) and Bob (10.0.0.2), who know each other and are both up."""

    def __init__(
        self,
        seed: int = 1,
        *,
        weather: Weather | None = None,
        delays: int = 0,
        preshared: bytes | None = None,
        keepalive: int = 0,
        **alice_options: Any,
    ) -> None:
        self.world = World(seed, weather)
        self.alice = Host(self.world, "alice", "192.0.2.1:1001", **alice_options)
        self.bob = Host(self.world, "bob", "192.0.2.2:1002")
        psk = None if preshared is None else PresharedKey(preshared)
        self.alice.meet(self.bob, "10.0.0.2/32", preshared=psk, keepalive=keepalive)
        self.bob.meet(self.alice, "10.0.0.1/32", preshared=psk)
        # A backend waits until the configuration is in force; the lag begins after that.
        self.alice.delays = self.bob.delays = delays

    def __repr__(self) -> str:
        return f"Pair({self.world})"

    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    def alice_sends(self, payload: bytes = b"hello") -> bytes:
        packet = inner("10.0.0.1", "10.0.0.2", payload)
        self.alice.send(packet)
        return packet

    def bob_sends(self, payload: bytes = b"hello") -> bytes:
        packet = inner("10.0.0.2", "10.0.0.1", payload)
        self.bob.send(packet)
        return packet

    def connect(self) -> None:
        """Alice begins a session by a first packet, which arrives; a second passes."""
        self.alice_sends(b"first")
        self.run(1)
        assert self.bob.delivered, f"no session: {self}"
        self.alice.delivered.clear()
        self.bob.delivered.clear()
        self.world.flights.clear()


def inner(source: str, destination: str, payload: bytes = b"") -> bytes:
    """An IPv4 packet as a TUN device delivers it."""
    addresses = Prefix.parse(f"{source}/32").packed + Prefix.parse(f"{destination}/32").packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0)
    return header + addresses + payload


def describe(flight: Flight) -> str:
    """One line of a transcript, without anything that depends on a key."""
    name = "keepalive" if flight.is_keepalive else flight.kind.name.lower()  # type: ignore[union-attr]
    at = (flight.at - START) / SECOND
    target = format_address(flight.target.address)
    return f"{at:9.3f} {flight.sender:5} -> {target} {name} {len(flight.datagram)}"


__all__ = [
    "START",
    "WALL",
    "Engine",
    "Flight",
    "Host",
    "Pair",
    "PublicKey",
    "Weather",
    "World",
    "describe",
    "inner",
]
