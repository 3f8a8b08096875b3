"""The batch paths against the plain one: same packets in, same bytes and same counts out.

The plain path (``read_frame`` and ``Core``, one packet at a time) is the reference. Both
run from the same state: same keys, same counters, same instants.
"""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.coalesce import TunWrite
from nvpn.datapath.offloads import VIRTIO_HEADER_SIZE, VirtioHeader, read_frame
from nvpn.datapath.python.core import Core
from nvpn.datapath.python.inbound import Inbound
from nvpn.datapath.python.opening import BatchOpener
from nvpn.datapath.python.outbound import Outbound
from nvpn.datapath.python.tun import TunPort
from nvpn.datapath.python.udp import Arrival, UdpSender
from nvpn.errors import DropReason
from nvpn.model.endpoint import Endpoint
from nvpn.overlay.api import Tun
from nvpn.wire.constants import REJECT_AFTER_MESSAGES
from tests.support.cores import MTU, START, THEM, Ends, ipv4, ipv6
from tests.support.segments import ACK, CWR, FIN, FLOWS, PSH, Flow

flows = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())


def payload(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# --- what stands in for the kernel ----------------------------------------------------


class Frames(TunPort):
    """A device: gives the frames it was made with, and notes what is written."""

    __slots__ = ("frames", "written")

    def __init__(self, core: Core, frames: list[bytes] | None = None) -> None:
        super().__init__(Tun((-1,), "frames", True, True, True), core, tso=True, uso=True)
        self.frames = frames or []
        self.written: list[bytes] = []

    def read(self, buffers: object) -> int:
        if not self.frames:
            return 0
        frame = self.frames.pop(0)
        (buffer,) = buffers  # type: ignore[misc]
        buffer[: len(frame)] = frame
        return len(frame)

    def write_merged(self, merged: TunWrite) -> None:
        self.written.append(b"".join(merged.pieces))

    def _write_pieces(self, pieces: list[Bytes]) -> None:
        self.written.append(b"".join(pieces))

    @property
    def packets(self) -> list[bytes]:
        """What a kernel would find in the writes."""
        return [
            packet
            for frame in self.written
            for packet in read_frame(VirtioHeader.parse(frame), frame[VIRTIO_HEADER_SIZE:])
        ]


@dataclass
class Wire:
    """A socket: notes what is sent, datagram by datagram."""

    sent: list[tuple[Endpoint, bytes, int]] = field(default_factory=list)
    sends: int = 0


class RecordingSender(UdpSender):
    """Sends into a list."""

    __slots__ = ("wire",)

    def __init__(self, core: Core, wire: Wire) -> None:
        super().__init__(core, lambda: START, gso=True, max_segments=64)
        self.wire = wire

    def send_many(self, peer, endpoint, pieces, segment, count, tos):  # type: ignore[no-untyped-def]
        whole = b"".join(pieces)
        datagrams = [whole[at : at + segment] for at in range(0, len(whole), segment)]
        assert len(datagrams) == count <= 64
        assert len(whole) <= 65507
        self.wire.sent += [(endpoint, datagram, tos) for datagram in datagrams]
        self.wire.sends += 1
        return True


def send(
    frames: list[tuple[VirtioHeader, bytes]], *, batches: bool, mtu: int = MTU
) -> tuple[Ends, Wire]:
    """What Alice sends for frames from her device."""
    ends, wire = Ends(mtu=mtu), Wire()
    tun = Frames(ends.alice, [header.pack() + packet for header, packet in frames])
    outbound = Outbound(ends.alice, tun, RecordingSender(ends.alice, wire), batches=batches)
    while tun.frames:
        outbound.move(ends.now)
    return ends, wire


def receive(
    ends: Ends, arrivals: list[tuple[list[bytes], int]], *, batches: bool
) -> tuple[Frames, Ends]:
    """What Bob writes for merged datagrams and the TOS that they came with."""
    tun = Frames(ends.bob)
    inbound = Inbound(ends.bob, tun, batches=batches)

    class Socket:
        def receive(self) -> Arrival | None:
            if not arrivals:
                return None
            datagrams, tos = arrivals.pop(0)
            whole = b"".join(datagrams)
            inbound.buffer[: len(whole)] = whole
            return Arrival(len(whole), len(datagrams[0]), Ends.alice_at, tos)

    while arrivals:
        inbound.move(Socket(), ends.now)  # type: ignore[arg-type]
    return tun, ends


def state(core: Core) -> tuple[object, ...]:
    """What a peer and the protocol can tell about a core."""
    peer = core.peers[THEM]
    return (
        core.activity(THEM),
        core.counters(THEM),
        core.drops(),
        core.take_events(),
        peer.endpoint,
        [(pair.next_counter, pair.window.greatest) for pair in peer.slots],
    )


# --- out ------------------------------------------------------------------------------


def same_out(frames: list[tuple[VirtioHeader, bytes]], mtu: int = MTU) -> Wire:
    """Send by both ways, compare everything; returns what the batch way sent."""
    plain, plain_wire = send(frames, batches=False, mtu=mtu)
    batch, batch_wire = send(frames, batches=True, mtu=mtu)
    assert [s[1].hex() for s in batch_wire.sent] == [s[1].hex() for s in plain_wire.sent]
    assert batch_wire.sent == plain_wire.sent
    assert state(batch.alice) == state(plain.alice)
    return batch_wire


@flows
@pytest.mark.parametrize("gso_size", [8, 535, 1000, 1368, 1372])
@pytest.mark.parametrize("count", [2, 44, 45, 47, 64, 65])
@pytest.mark.parametrize("rest", [0, 1, -1])
def test_a_superpacket_leaves_as_its_packets_would(
    flow: Flow, gso_size: int, count: int, rest: int
) -> None:
    gso_size = min(gso_size, MTU - flow.head_size)
    size = min(gso_size * count + rest, 65535 - flow.head_size)
    same_out([flow.superpacket(payload(size), gso_size)])


@flows
def test_a_superpacket_leaves_in_one_send(flow: Flow) -> None:
    gso_size = MTU - flow.head_size
    wire = same_out([flow.superpacket(payload(gso_size * 45), gso_size)])
    assert (len(wire.sent), wire.sends) == (45, 1)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "flags", [ACK, ACK | PSH, ACK | FIN, ACK | CWR | PSH, ACK | CWR | FIN | PSH]
)
@pytest.mark.parametrize("rest", [0, 7])
def test_flags_go_where_they_belong(version: int, flags: int, rest: int) -> None:
    flow = Flow.of(version, 6)
    same_out([flow.superpacket(payload(1000 * 4 + rest), 1000, flags=flags)])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("before", [1, 1000, 44_999, 45_000, 45_001])
def test_sequence_numbers_wrap(version: int, before: int) -> None:
    flow = Flow.of(version, 6)
    same_out([flow.superpacket(payload(45_000), 1000, sequence=2**32 - before)])


@pytest.mark.parametrize("mtu", [0, 576, 1280, 1419, 1420, 9000, 65535])
def test_any_mtu_pads_alike(mtu: int) -> None:
    same_out(
        [
            Flow.of(4, 6).superpacket(payload(500 * 20 + 3), 500),
            Flow.of(6, 17).superpacket(payload(500 * 20 + 3), 500),
        ],
        mtu,
    )


@flows
def test_a_checksum_that_comes_out_as_zero_is_written_alike(flow: Flow) -> None:
    # The payload that makes each segment's own sum zero.
    (probe,) = read_frame(*flow.superpacket(b"\0\0" + bytes(98), 100))
    at = flow.start + (16 if flow.protocol == 6 else 6)
    piece = probe[at : at + 2] + bytes(98)
    assert read_frame(*flow.superpacket(piece, 100))[0][at : at + 2] in (b"\0\0", b"\xff\xff")
    same_out([flow.superpacket(piece * 10, 100)])


@flows
@pytest.mark.parametrize("tos", [0, 1, 2, 3, 0xB9])
def test_the_congestion_marks_outside_are_alike(flow: Flow, tos: int) -> None:
    same_out([Flow.of(flow.version, flow.protocol, tos=tos).superpacket(payload(5000), 1000)])


@pytest.mark.parametrize(
    "frame",
    [
        Flow.of(4, 6, dont_fragment=False).superpacket(payload(5000), 1000),
        Flow.of(6, 6, extension=bytes([6, 0, 1, 4, 0, 0, 0, 0])).superpacket(payload(5000), 1000),
        Flow.of(4, 6, destination="10.9.9.9").superpacket(payload(5000), 1000),
        Flow.of(4, 6, options=b"").superpacket(payload(5000), 1000),
        Flow.of(4, 6).superpacket(payload(500), 1000),
        (VirtioHeader(), ipv4(payload=payload(1000))),
        (VirtioHeader(), ipv6()),
        (VirtioHeader(), b""),
        (VirtioHeader(), b"\x45"),
        (VirtioHeader(1, 1, 0, 1000, 20, 16), b"\x45" * 30),
        (VirtioHeader(1, 1, 0, 1000, 20, 16), bytes(5000)),
        (VirtioHeader(1, 5, 0, 1000, 20, 6), b"\x45" * 5000),
        (VirtioHeader(255, 255, 1, 1, 65535, 65535), b"\x45" * 5000),
    ],
    ids=lambda frame: f"{frame[0].gso_type}-{len(frame[1])}" if isinstance(frame, tuple) else None,
)
def test_what_is_odd_leaves_alike(frame: tuple[VirtioHeader, bytes]) -> None:
    same_out([frame])


@flows
def test_without_a_key_packets_wait_alike(flow: Flow) -> None:
    frame = flow.superpacket(payload(1000 * 45), 1000)
    results = []
    for batches in (False, True):
        ends, wire = Ends(session=False), Wire()
        tun = Frames(ends.alice, [frame[0].pack() + frame[1]])
        Outbound(ends.alice, tun, RecordingSender(ends.alice, wire), batches=batches).move(
            ends.now
        )
        assert wire.sent == []
        results.append((ends.alice.peers[THEM].staged.take(), state(ends.alice)))
    assert results[0] == results[1]
    assert len(results[0][0]) == 45


def test_counters_run_out_alike() -> None:
    frame = Flow.of(4, 6).superpacket(payload(1000 * 10), 1000)
    results = []
    for batches in (False, True):
        ends, wire = Ends(), Wire()
        current = ends.alice.peers[THEM].slots.current
        assert current is not None
        current.next_counter = REJECT_AFTER_MESSAGES - 4
        tun = Frames(ends.alice, [frame[0].pack() + frame[1]])
        Outbound(ends.alice, tun, RecordingSender(ends.alice, wire), batches=batches).move(
            ends.now
        )
        results.append((wire.sent, len(ends.alice.peers[THEM].staged), state(ends.alice)))
    assert results[0] == results[1]
    assert len(results[0][0]) == 4


_FRAMES = st.lists(
    st.builds(
        lambda flow, size, gso_size, flags, sequence: flow.superpacket(
            payload(size), gso_size, flags=flags, sequence=sequence
        ),
        st.sampled_from(list(FLOWS.values())),
        st.integers(1, 20_000),
        st.integers(300, 1360),
        st.sampled_from((ACK, ACK | PSH, ACK | FIN, ACK | CWR)),
        st.integers(0, 2**32 - 1),
    )
    | st.tuples(
        st.just(VirtioHeader()), st.builds(lambda n: ipv4(payload=bytes(n)), st.integers(0, 1400))
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(_FRAMES)
def test_mixtures_leave_alike(frames: list[tuple[VirtioHeader, bytes]]) -> None:
    same_out(frames)


# --- in -------------------------------------------------------------------------------


def seal_all(packets: list[bytes]) -> list[bytes]:
    """Alice's datagrams for packets, from the same keys and counters each time."""
    ends = Ends()
    return [ends.seal(packet) for packet in packets]


def same_in(arrivals: list[tuple[list[bytes], int]]) -> Frames:
    """Receive by both ways, compare everything; returns the batch way's device."""
    plain_tun, plain = receive(Ends(), list(arrivals), batches=False)
    batch_tun, batch = receive(Ends(), list(arrivals), batches=True)
    assert [p.hex() for p in batch_tun.packets] == [p.hex() for p in plain_tun.packets]
    assert state(batch.bob) == state(plain.bob)
    return batch_tun


@flows
@pytest.mark.parametrize("size", [1, 100, 535, 1000, 1368])
@pytest.mark.parametrize("count", [3, 10, 44])
@pytest.mark.parametrize("rest", [0, 1])
@pytest.mark.parametrize("flags", [ACK, ACK | PSH])
def test_a_train_arrives_as_its_packets_would(
    flow: Flow, size: int, count: int, rest: int, flags: int
) -> None:
    size = min(size, MTU - flow.head_size)
    packets = flow.segments(payload(size * count + rest * (size // 2)), size, flags=flags)
    tun = same_in([(seal_all(packets), 0)])
    assert tun.packets == packets
    assert len(tun.written) == 1


@flows
def test_a_train_of_numbered_packets_arrives_whole(flow: Flow) -> None:
    packets = [
        flow.packet(
            payload(500), sequence=1000 + 500 * index, identification=(0xFFF0 + index) & 0xFFFF
        )
        for index in range(30)
    ]
    tun = same_in([(seal_all(packets), 0)])
    assert len(tun.written) == 1


@flows
@pytest.mark.parametrize("where", [0, 1, 20, 29])
def test_a_forged_datagram_costs_only_itself(flow: Flow, where: int) -> None:
    packets = flow.segments(payload(500 * 30), 500)
    datagrams = seal_all(packets)
    forged = bytearray(datagrams[where])
    forged[-1] ^= 1
    datagrams[where] = bytes(forged)
    _, ends = receive(Ends(), [(datagrams, 0)], batches=True)
    assert ends.bob.drops() == {DropReason.BAD_TAG: 1}
    tun = same_in([(datagrams, 0)])
    assert tun.packets == packets[:where] + packets[where + 1 :]


@flows
def test_replayed_and_reordered_batches_are_judged_alike(flow: Flow) -> None:
    datagrams = seal_all(flow.segments(payload(500 * 30), 500))
    shuffled = random.Random(3).sample(datagrams, 30)
    same_in([(datagrams, 0), (datagrams, 0)])
    same_in([(datagrams[:20], 0), (datagrams[10:], 0)])
    same_in([(shuffled, 0), (datagrams, 0)])
    same_in([(datagrams[::2], 0), (datagrams[1::2], 0), (datagrams, 0)])
    same_in([([datagrams[0]] * 5, 0)])
    same_in([(datagrams[5:10] + datagrams[5:10], 0)])


@flows
@pytest.mark.parametrize(
    "change",
    ["type", "index", "reserved", "counter"],
)
def test_a_foreign_datagram_in_a_batch_is_judged_alike(flow: Flow, change: str) -> None:
    datagrams = seal_all(flow.segments(payload(500 * 10), 500))
    at = {"type": 0, "reserved": 1, "index": 5, "counter": 15}[change]
    foreign = bytearray(datagrams[4])
    foreign[at] ^= 0x81
    same_in([([*datagrams[:4], bytes(foreign), *datagrams[5:]], 0)])
    same_in([([bytes(foreign)] * 10, 0)])


@flows
@pytest.mark.parametrize("inner", [0, 1, 2, 3])
@pytest.mark.parametrize("outer", [0, 1, 2, 3, 0xB8])
def test_congestion_marks_are_merged_alike(flow: Flow, inner: int, outer: int) -> None:
    packets = Flow.of(flow.version, flow.protocol, tos=inner).segments(payload(500 * 10), 500)
    same_in([(seal_all(packets), outer)])


def test_a_source_that_is_not_the_peers_is_refused_alike() -> None:
    packets = Flow.of(4, 6, source="10.0.0.77").segments(payload(500 * 10), 500)
    assert same_in([(seal_all(packets), 0)]).written == []
    _, ends = receive(Ends(), [(seal_all(packets), 0)], batches=True)
    assert ends.bob.drops() == {DropReason.SOURCE_NOT_ALLOWED: 10}


def test_one_stolen_source_in_a_batch_is_refused_alike() -> None:
    flow = Flow.of(4, 6)
    packets = flow.segments(payload(500 * 10), 500)
    packets[5] = Flow.of(4, 6, source="10.0.0.77").packet(payload(500), sequence=3500)
    tun = same_in([(seal_all(packets), 0)])
    assert tun.packets == packets[:5] + packets[6:]


@pytest.mark.parametrize(
    ("flow", "at"),
    [
        pytest.param(flow, at, id=f"{name}, byte {at}")
        for name, flow in FLOWS.items()
        for at in range(flow.head_size)
    ],
)
def test_a_header_that_differs_anywhere_is_seen(flow: Flow, at: int) -> None:
    """Authentic, but not what TCP or UDP of one flow would be: nothing may be altered."""
    packets = flow.segments(payload(500 * 8), 500)
    odd = bytearray(packets[3])
    odd[at] ^= 0x04
    packets[3] = bytes(odd)
    plain_tun, plain = receive(Ends(), [(seal_raw(packets), 0)], batches=False)
    batch_tun, batch = receive(Ends(), [(seal_raw(packets), 0)], batches=True)
    assert batch_tun.packets == plain_tun.packets
    assert state(batch.bob) == state(plain.bob)


def seal_raw(packets: list[bytes]) -> list[bytes]:
    """Datagrams around plaintexts that Alice's own core would refuse to send."""
    ends = Ends()
    current = ends.alice.peers[THEM].slots.current
    assert current is not None
    datagrams = []
    for packet in packets:
        counter = current.reserve(1, ends.now).to_bytes(8, "little")
        plain = packet + bytes(-len(packet) % 16)
        body = bytearray(len(plain) + 16)
        current.seal(bytes(4) + counter, plain, None, body)
        datagrams.append(current.header + counter + bytes(body))
    return datagrams


@pytest.mark.parametrize("rest", [1, 31, 32, 33])
def test_a_short_datagram_at_the_end_is_judged_alike(rest: int) -> None:
    datagrams = seal_all(Flow.of(4, 6).segments(payload(500 * 10), 500))
    same_in([([*datagrams, datagrams[0][:rest]], 0)])
    keepalive = seal_raw([b""])[0]
    same_in([([*datagrams, keepalive], 0)])


@settings(deadline=None, max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from(list(FLOWS.values())))
def test_hostile_mixtures_are_judged_alike(rng: random.Random, flow: Flow) -> None:
    size = rng.choice([16, 100, 500, 1300])
    other = Flow.of(flow.version, flow.protocol, port=rng.choice([1, flow.port]))
    packets = []
    sequence = 0
    for _ in range(rng.randrange(3, 45)):
        one = rng.choice([flow, flow, flow, other])
        flags = rng.choice([ACK] * 12 + [ACK | PSH, ACK | FIN])
        packets.append(one.packet(rng.randbytes(size), sequence=sequence, flags=flags))
        sequence += size if rng.random() < 0.95 else 0
    datagrams = seal_all(packets)
    for _ in range(rng.randrange(3)):
        victim = rng.randrange(len(datagrams))
        kind = rng.randrange(4)
        if kind == 0:
            changed = bytearray(datagrams[victim])
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            datagrams[victim] = bytes(changed)
        elif kind == 1:
            datagrams[victim] = datagrams[rng.randrange(len(datagrams))]
        elif kind == 2:
            datagrams[victim] = rng.randbytes(len(datagrams[victim]))
        else:
            other_one = rng.randrange(len(datagrams))
            datagrams[victim], datagrams[other_one] = datagrams[other_one], datagrams[victim]
    equal = [one for one in datagrams if len(one) == len(datagrams[0])]
    same_in([(equal, rng.choice([0, 0, 1, 3]))])


def test_merged_datagrams_of_strangers_leave_nothing_behind() -> None:
    core, kept = Ends().bob, []
    opener = BatchOpener(core, Frames(core), buffer := bytearray(1 << 16))
    for kind, smallest in (4, 100), (4, 200), (1, 300):  # the first is for what is made once
        tracemalloc.start()
        for segment in range(smallest, smallest + 100):
            buffer[: 5 * segment] = (bytes([kind, 0, 0, 0]) + bytes(segment - 4)) * 5
            assert not opener.open(Arrival(5 * segment, segment, Ends.alice_at, 0), START)
        kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert max(kept[1:]) < 20_000
