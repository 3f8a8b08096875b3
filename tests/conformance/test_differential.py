"""Both datapaths get the same packets, and must make the same of them: every byte, every drop.

The inner transport checksums are right here: of a wrong one the native datapath makes a
right one, because it leaves them to the kernel, as the kernel's own WireGuard does.

NVPN_FUZZ_ROUNDS sets how many rounds; NVPN_FUZZ_SEED repeats one.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from nvpn.datapath.commands import (
    Diversion,
    Divert,
    InsertPrefix,
    PeerId,
    Rule,
    SendHandshake,
    SetAdmission,
    SetFilter,
)
from nvpn.model.clock import SECOND
from nvpn.model.prefixes import Prefix
from nvpn.wire.crypto import mac
from tests.support.cores import ipv4, ipv6
from tests.support.datapaths import (
    HAS_NATIVE,
    NATIVE_SETUPS,
    PYTHON_SETUPS,
    Correspondent,
    Rig,
    Setup,
)
from tests.support.segments import ACK, FIN, PSH, SYN, Flow

ROUNDS = int(os.environ.get("NVPN_FUZZ_ROUNDS", "60"))
KEY = bytes(range(32))
RST = 0x04

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not HAS_NATIVE, reason="the native datapath is not built here"),
]


def named(setups: Sequence[Setup], name: str) -> Setup:
    return next(setup for setup in setups if setup.name == name)


PAIRS = [
    (named(PYTHON_SETUPS, "python"), named(NATIVE_SETUPS, "native")),
    (named(PYTHON_SETUPS, "python, no batches"), named(NATIVE_SETUPS, "native")),
    (named(PYTHON_SETUPS, "python, no batches"), named(NATIVE_SETUPS, "native, no batches")),
    (
        named(PYTHON_SETUPS, "python, no batches"),
        named(NATIVE_SETUPS, "native, three eager workers"),
    ),
    (
        named(PYTHON_SETUPS, "python, two queues"),
        named(NATIVE_SETUPS, "native, two queues, two workers"),
    ),
    (named(PYTHON_SETUPS, "python, bare device"), named(NATIVE_SETUPS, "native, bare device")),
]


class Side:
    """One datapath with two peers, and what has come out of it."""

    def __init__(self, setup: Setup) -> None:
        self.rig = Rig(setup)
        self.peers = [self.rig.correspondent(1, 4), self.rig.correspondent(2, 6)]
        self.rig.tell(
            InsertPrefix(self.peers[0].peer, Prefix.parse("10.0.0.0/8")),
            SetAdmission(KEY, bytes(32), bytes(32)),
        )
        for peer in self.peers:
            peer.establish()

    def outcome(self, *, one_flow: bool = True) -> object:
        """Everything that can be seen from outside; packets of each flow in their order, if
        there is but one between two addresses."""
        self.rig.turn(60)  # on the loop, four datagrams a turn
        self.rig.settle()
        delivered: dict[bytes, list[bytes]] = defaultdict(list)
        for packet in self.rig.delivered:
            addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
            delivered[addresses + packet[:1]].append(packet)
        self.rig.delivered.clear()
        if not one_flow:
            for several in delivered.values():
                several.sort()
        sent = [[(data, tos) for data, _, tos in peer.receive()] for peer in self.peers]
        events = sorted(type(event).__name__ for event in self.rig.events)
        self.rig.events.clear()
        numbers = [
            (self.rig.datapath.counters(peer.peer), self.rig.datapath.activity(peer.peer))
            for peer in self.peers
        ]
        return dict(delivered), sent, events, numbers, self.rig.datapath.drops()


def names(pair: tuple[Setup, Setup]) -> str:
    return " | ".join(setup.name for setup in pair)


@pytest.fixture(params=PAIRS, ids=names)
def sides(request: pytest.FixtureRequest) -> Iterator[tuple[Side, Side]]:
    with ExitStack() as stack:
        made = tuple(Side(setup) for setup in request.param)
        for side in made:
            stack.enter_context(side.rig)
        yield made


def agree(sides: tuple[Side, Side], *, one_flow: bool = True) -> None:
    reference, other = (side.outcome(one_flow=one_flow) for side in sides)
    assert other == reference


def packets(rng: random.Random, number: int, count: int, *, inbound: bool) -> list[bytes]:
    """Packets between the host and peer ``number``: a flow, or this and that."""
    version = rng.choice([4, 6])
    hosts = ["10.0.0.1", f"10.0.{number}.2"] if version == 4 else ["fd00::1", f"fd00:{number}::2"]
    if rng.random() < 0.2:
        hosts[1] = "10.0.7.7" if version == 4 else "fd00:9::9"  # the first peer's, or nobody's
    source, destination = reversed(hosts) if inbound else hosts
    if rng.random() < 0.6:
        flow = Flow.of(
            version,
            rng.choice([6, 17]),
            source=source,
            destination=destination,
            source_port=rng.randrange(1, 1 << 16),
            tos=rng.choice([0, 0, 1, 2, 3, 0xB8]),
            dont_fragment=rng.random() < 0.8,
        )
        size = rng.choice([1, 16, 100, rng.randrange(1, 1420 - flow.head_size)])
        data = rng.randbytes(size * count - rng.randrange(size))
        flags = rng.choice([ACK, ACK | PSH])
        sequence = rng.choice([1000, (1 << 32) - 500])
        return flow.segments(data, size, flags=flags, sequence=sequence)
    make = ipv4 if version == 4 else ipv6
    tos = rng.choice([0, 1, 2, 3])
    most = 1500 - (20 if version == 4 else 40)
    sizes = [rng.randrange(most) for _ in range(count)]
    return [make(source, destination, rng.randbytes(size), tos=tos) for size in sizes]


def arrivals(rng: random.Random, peers: Sequence[Correspondent]) -> list[bytes]:
    """What one of the peers, or somebody in its name, might send."""
    number = rng.randrange(len(peers))
    peer = peers[number]
    batch = [
        peer.packet_from(packet)
        for packet in packets(rng, number + 1, rng.randrange(1, 45), inbound=True)
    ]
    kind = rng.randrange(8)
    if kind == 0:
        batch += rng.choices(batch, k=len(batch))
    elif kind == 1:
        rng.shuffle(batch)
    elif kind == 2:
        at = rng.randrange(len(batch))
        forged = bytearray(batch[at])
        forged[rng.randrange(8, len(forged))] ^= 1 << rng.randrange(8)
        batch[at] = bytes(forged)
    elif kind == 3:
        sizes = [0, 1, 15, 16, 19, 20, 32, 64]
        batch = [
            peer.seal(rng.choice([b"\x45", b"\x60", b"\0"]) * rng.choice(sizes)) for _ in range(9)
        ]
    elif kind == 4:
        batch = [rng.randbytes(rng.choice([0, 1, 3, 4, 16, 31, 32, 148])) for _ in range(9)]
    elif kind == 5:
        body = b"\1\0\0\0" + rng.randbytes(112)
        batch.insert(rng.randrange(len(batch)), body + mac(KEY, body) + bytes(16))
    elif kind == 6:
        peer.counter += rng.choice([1, 63, 64, 65, 1000, 8000, 9000])
        batch += [peer.seal(b"", counter=max(0, peer.counter - rng.randrange(9000)))]
    return batch


def test_whatever_arrives_becomes_the_same(sides: tuple[Side, Side]) -> None:
    rng = seeded()
    for _ in range(ROUNDS):
        batch = arrivals(rng, sides[0].peers)
        number = rng.randrange(2)
        merged = len({len(one) for one in batch}) == 1 and 0 < len(batch[0]) * len(batch) < 65_000
        merged = merged and rng.random() < 0.8
        tos = rng.choice([0, 0, 1, 2, 3])
        for side in sides:
            peer = side.peers[number]
            if merged:
                peer.send_merged(batch)
            else:
                peer.send(*batch, tos=tos)
        agree(sides)


def test_whatever_is_sent_becomes_the_same(sides: tuple[Side, Side]) -> None:
    rng = seeded()
    for _ in range(ROUNDS):
        number = rng.randrange(1, 3)
        outgoing = packets(rng, number, rng.randrange(1, 45), inbound=False)
        if rng.random() < 0.2:
            at = rng.randrange(len(outgoing))
            outgoing[at] = outgoing[at][: rng.randrange(len(outgoing[at]))] or b"\0"
        for side in sides:
            for packet in outgoing:
                side.rig.send(packet)
            side.rig.settle()
        agree(sides)


@pytest.mark.parametrize(
    "sides", [pair for pair in PAIRS if pair[0].vnet_hdr], indirect=True, ids=names
)
def test_superpackets_of_every_shape_become_the_same(sides: tuple[Side, Side]) -> None:
    rng = seeded()
    for _ in range(ROUNDS):
        version, protocol = rng.choice([4, 6]), rng.choice([6, 17])
        flow = Flow.of(
            version,
            protocol,
            source="10.0.0.1" if version == 4 else "fd00::1",
            destination=rng.choice(["10.0.1.2", "10.0.2.2", "192.0.2.1"])
            if version == 4
            else rng.choice(["fd00:1::2", "fd00:2::2", "fd00:9::9"]),
            dont_fragment=rng.random() < 0.8,
            tos=rng.choice([0, 1, 2, 3]),
        )
        gso_size = rng.choice([1, 8, 500, 1420 - flow.head_size])
        most = min(60_000, gso_size * 128)
        header, packet = flow.superpacket(
            rng.randbytes(rng.randrange(1, most)),
            gso_size,
            flags=rng.choice([ACK, ACK | PSH, 0x11, 0x90]),
            sequence=rng.randrange(1 << 32),
        )
        if rng.random() < 0.2:
            field = rng.choice(["flags", "gso_type", "gso_size", "csum_start", "csum_offset"])
            values = [0, 1, 2, 6, 16, 20, 39, 40, 90, 200]
            if field == "gso_size":  # so many that the correspondent can take them
                values = [0, 200, 1419, 1421, 65_535]
            header = header._replace(**{field: rng.choice(values)})
        for side in sides:
            side.rig.send(packet, header)
        agree(sides)


def test_every_size_becomes_the_same(sides: tuple[Side, Side]) -> None:
    for first in range(0, 1481, 64):
        sizes = range(first, min(first + 64, 1481))
        for side in sides:
            for size in sizes:
                side.rig.send(ipv4("10.0.0.1", "10.0.1.2", bytes(size)))
        agree(sides)
        back = [ipv4("10.0.1.2", "10.0.0.1", bytes(size)) for size in sizes]
        datagrams = [sides[0].peers[0].packet_from(packet) for packet in back]
        for side in sides:
            side.peers[0].send(*datagrams)
        agree(sides)


def test_ages_are_judged_the_same(sides: tuple[Side, Side]) -> None:
    begun = sides[0].rig.now
    for age in (0, 119, 120, 121, 164, 165, 166, 179, 180, 181, 600):
        datagram = sides[0].peers[0].packet_from(ipv4("10.0.1.2", "10.0.0.1", b"x"))
        for side in sides:
            side.rig.now = begun + age * SECOND
            side.rig.send(ipv4("10.0.0.1", "10.0.1.2", b"x"))
        agree(sides)
        for side in sides:
            side.peers[0].send(datagram)
        agree(sides)


def test_copies_of_handshakes_leave_the_same(sides: tuple[Side, Side]) -> None:
    rng = seeded()
    for _ in range(ROUNDS // 6):
        message = b"\1\0\0\0" + rng.randbytes(144)
        whom = rng.randrange(2)
        copies = rng.choices(range(2), k=rng.randrange(9))
        retries = rng.random() < 0.5
        for side in sides:
            also = tuple(side.peers[number].endpoint for number in copies)
            side.rig.tell(SendHandshake(side.peers[whom].peer, message, retries, also))
        agree(sides)


def small_talk(rng: random.Random, *, inbound: bool) -> bytes:
    """One of the few packets that a host and the first peer have for each other."""
    packet = plain_talk(rng, inbound=inbound)
    while rng.random() < 0.15:
        packet = with_one_header_more(rng, packet)
    return packet


def with_one_header_more(rng: random.Random, packet: bytes) -> bytes:
    """Options of IPv4, as long as they fit, or an extension header of IPv6."""
    if packet[0] >> 4 == 4:
        if packet[0] == 0x4F:
            return packet
        head = bytes([packet[0] + 1, packet[1]]) + (len(packet) + 4).to_bytes(2, "big")
        return head + packet[4:20] + bytes([1, 1, 1, rng.choice([0, 7])]) + packet[20:]
    kind = rng.choice([0, 43, 44, 60, 60, 51, 135, 253])
    size = 8 if kind == 44 else rng.choice([8, 16])
    header = bytes([packet[6], size // 8 - 1 + (rng.random() < 0.1)]) + bytes(size - 2)
    head = packet[:4] + (len(packet) - 40 + size).to_bytes(2, "big") + bytes([kind])
    return head + packet[7:40] + header + packet[40:]


def plain_talk(rng: random.Random, *, inbound: bool) -> bytes:
    version = rng.choice([4, 6])
    hosts = ["10.0.0.1", "10.0.1.2"] if version == 4 else ["fd00::1", "fd00:1::2"]
    ports = [rng.choice([22, 40000]), rng.choice([53, 443])]
    if inbound:
        hosts.reverse()
        ports.reverse()
    kind = rng.randrange(8)
    if kind < 4:
        flow = Flow(version, rng.choice([6, 17]), *hosts, *ports)
        return flow.packet(b"x" * 20, flags=rng.choice([ACK, ACK, SYN, SYN | ACK, FIN | ACK, RST]))
    make, icmp = (ipv4, 1) if version == 4 else (ipv6, 58)
    if kind == 4:
        return make(
            *hosts, rng.choice([b"x" * 8, b"\0\x50\0\x51" * 5]), protocol=rng.choice([47, 132])
        )
    if kind == 5:
        echo = rng.choice([0, 8, 128, 129, 3, 5]), 0, 0, rng.choice([7, 8]), 1
        return make(*hosts, struct.pack(">BBHHH", *echo), protocol=icmp)
    if kind == 6:
        about = small_talk(rng, inbound=not inbound)[: rng.choice([20, 24, 28, 40, 44, 48, 999])]
        error = rng.choice([1, 2, 3, 4, 5, 11]), 0, 0, 0
        return make(*hosts, struct.pack(">BBHI", *error) + about, protocol=icmp)
    place = rng.choice([0, 0, 1, 2, 3])
    more = rng.random() < 0.7
    body = struct.pack(">HHHH", *ports, 24, 0) if place == 0 else bytes(8)
    body += bytes(rng.choice([0, 8, 16]))
    if version == 6:
        header = struct.pack(">BBHI", 17, 0, place << 3 | more, rng.choice([1, 2]))
        return ipv6(*hosts, header + body, protocol=44)
    return ipv4(*hosts, body, protocol=17, fragment=place | more << 13)


PLACES = (
    Diversion(Prefix.parse("10.0.0.1/32"), 22),
    Diversion(Prefix.parse("fd00::/16"), 40000),
)


def some_filter(rng: random.Random) -> SetFilter:
    if rng.random() < 0.1:
        return SetFilter(None)
    rules = [
        Rule(
            accept=rng.random() < 0.5,
            peer=rng.choice([None, None, PeerId(1), PeerId(2)]),
            protocol=rng.choice([None, 6, 17, 1, 58]),
            destination_ports=rng.choice([None, (22, 22), (1, 1023)]),
        )
        for _ in range(rng.randrange(4))
    ]
    return SetFilter(tuple(rules), rng.random() < 0.3, rng.random() < 0.8)


def test_whatever_is_filtered_is_the_same(sides: tuple[Side, Side]) -> None:
    rng = seeded()
    for _ in range(ROUNDS // 5):
        asked = some_filter(rng)
        for side in sides:
            if rng.random() < 0.5:
                side.rig.now += rng.choice([20, 31, 181, 241, 7441]) * SECOND
        sides[1].rig.now = sides[0].rig.now = max(side.rig.now for side in sides)
        ours = Divert(tuple(rng.sample(PLACES, rng.randrange(3))))
        for side in sides:
            side.rig.tell(asked, ours)
            side.peers[0].establish()
        for _ in range(rng.randrange(1, 4)):
            questions = [small_talk(rng, inbound=False) for _ in range(rng.randrange(9))]
            answers = [small_talk(rng, inbound=True) for _ in range(rng.randrange(9))]
            for side in sides:
                for packet in questions:
                    side.rig.send(packet)
                side.rig.settle()
                side.peers[0].send(*map(side.peers[0].packet_from, answers))
            agree(sides, one_flow=False)


def seeded() -> random.Random:
    seed = int(os.environ.get("NVPN_FUZZ_SEED", time.time_ns() % 10**9))
    print(f"NVPN_FUZZ_SEED={seed}")
    return random.Random(seed)
