from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.datapath.coalesce import TunWrite, coalesce
from nvpn.datapath.offloads import NO_OFFLOAD, VIRTIO_HEADER_SIZE, VirtioHeader, read_frame
from tests.support.segments import ACK, CWR, ECE, FIN, FLOWS, PSH, SYN, Flow

flows = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
tcp = pytest.mark.parametrize("flow", [Flow.of(4, 6), Flow.of(6, 6)], ids=["ipv4", "ipv6"])


def payload(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def merge(packets: list[bytes]) -> list[TunWrite]:
    return coalesce(packets, tso=True, uso=True)


def unmerge(write: TunWrite) -> list[bytes]:
    """What a kernel makes of a write: the code for the other direction serves as one."""
    frame = b"".join(write.pieces)
    return read_frame(VirtioHeader.parse(frame), frame[VIRTIO_HEADER_SIZE:])


@flows
@pytest.mark.parametrize("rest", [0, 1, 1367])
def test_a_train_becomes_one_packet_that_stands_for_it(flow: Flow, rest: int) -> None:
    packets = flow.segments(payload(1368 * 10 + rest), 1368, flags=ACK | PSH)
    (write,) = merge(packets)
    assert unmerge(write) == packets
    assert write.packets == packets


@flows
def test_a_packet_alone_is_written_as_it_is(flow: Flow) -> None:
    packet = flow.packet(payload(100))
    (write,) = merge([packet])
    assert write.pieces == [NO_OFFLOAD, packet]


@flows
def test_two_flows_woven_into_each_other_are_both_merged(flow: Flow) -> None:
    one = flow.segments(payload(5000, 1), 1000)
    two = replace(flow, port=443).segments(payload(5000, 2), 1000)
    writes = merge([packet for pair in zip(one, two, strict=True) for packet in pair])
    assert [unmerge(write) for write in writes] == [one, two]


@flows
def test_what_the_device_does_not_take_merged_stays_apart(flow: Flow) -> None:
    packets = flow.segments(payload(5000), 1000)
    writes = coalesce(packets, tso=flow.protocol != 6, uso=flow.protocol != 17)
    assert [write.pieces for write in writes] == [[NO_OFFLOAD, packet] for packet in packets]


def _changed(**fields: object) -> Callable[[Flow], Flow]:
    return lambda flow: replace(flow, **fields)  # type: ignore[arg-type]


@flows
@pytest.mark.parametrize(
    "change",
    [
        _changed(source_port=40001),
        _changed(port=1),
        _changed(tos=2),
        _changed(ttl=63),
    ],
    ids=["source port", "port", "tos", "ttl"],
)
def test_packets_that_differ_in_what_they_share_stay_apart(
    flow: Flow, change: Callable[[Flow], Flow]
) -> None:
    first = flow.packet(payload(1000))
    second = change(flow).packet(payload(1000), sequence=2000)
    assert [write.packets for write in merge([first, second])] == [[first], [second]]


@tcp
@pytest.mark.parametrize(
    "change",
    [
        _changed(acknowledgement=1),
        _changed(window=1),
        _changed(options=bytes.fromhex("0101080a0000000100000003")),
        _changed(options=b""),
    ],
    ids=["acknowledgement", "window", "timestamps", "no options"],
)
def test_tcp_packets_with_other_news_stay_apart(
    flow: Flow, change: Callable[[Flow], Flow]
) -> None:
    first = flow.packet(payload(1000))
    second = change(flow).packet(payload(1000), sequence=2000)
    assert [write.packets for write in merge([first, second])] == [[first], [second]]


@tcp
@pytest.mark.parametrize(
    "flags", [0, SYN, ACK | FIN, ACK | CWR, ACK | ECE, ACK | 0x04, ACK | 0x20]
)
def test_only_plain_data_is_merged(flow: Flow, flags: int) -> None:
    packets = [flow.packet(payload(100), sequence=s, flags=flags) for s in (0, 100)]
    assert [write.packets for write in merge(packets)] == [[packet] for packet in packets]


@tcp
@pytest.mark.parametrize("gap", [-1000, -1, 1, 1000])
def test_a_gap_or_an_overlap_ends_a_train(flow: Flow, gap: int) -> None:
    first = flow.packet(payload(1000), sequence=5000)
    second = flow.packet(payload(1000), sequence=6000 + gap)
    assert [write.packets for write in merge([first, second])] == [[first], [second]]


@tcp
def test_a_push_ends_a_train(flow: Flow) -> None:
    packets = [
        flow.packet(payload(1000), sequence=0),
        flow.packet(payload(1000), sequence=1000, flags=ACK | PSH),
        flow.packet(payload(1000), sequence=2000),
        flow.packet(payload(1000), sequence=3000),
    ]
    assert [write.packets for write in merge(packets)] == [packets[:2], packets[2:]]


@tcp
def test_an_acknowledgement_without_data_is_never_swallowed(flow: Flow) -> None:
    data = flow.segments(payload(3000), 1000)
    bare = flow.packet(sequence=4000)
    writes = merge([bare, bare, *data, bare])
    assert [write.packets for write in writes] == [[bare], [bare], data, [bare]]


@flows
def test_a_shorter_packet_ends_a_train_and_a_longer_one_begins_another(flow: Flow) -> None:
    sizes = [1000, 1000, 500, 500, 1000]
    sequence, packets = 0, []
    for size in sizes:
        packets.append(flow.packet(payload(size), sequence=sequence))
        sequence += size
    writes = merge(packets)
    assert [write.packets for write in writes] == [packets[:3], packets[3:4], packets[4:]]


@flows
def test_no_train_grows_beyond_what_an_ip_packet_can_be(flow: Flow) -> None:
    packets = flow.segments(payload(1000 * 100), 1000)
    writes = merge(packets)
    assert [packet for write in writes for packet in unmerge(write)] == packets
    assert all(len(b"".join(write.pieces)) <= 65535 + VIRTIO_HEADER_SIZE for write in writes)
    assert len(writes) == 2


@pytest.mark.parametrize("version", [4, 6])
def test_udp_trains_keep_to_what_every_kernel_takes(version: int) -> None:
    packets = Flow.of(version, 17).segments(payload(100 * 130), 100)
    assert [len(write.packets) for write in merge(packets)] == [64, 64, 2]


@tcp
def test_sequence_numbers_wrap_within_a_train(flow: Flow) -> None:
    packets = flow.segments(payload(3000), 1000, sequence=2**32 - 1500)
    (write,) = merge(packets)
    assert unmerge(write) == packets


@pytest.mark.parametrize("protocol", [6, 17])
def test_what_may_be_fragmented_stays_apart(protocol: int) -> None:
    packets = Flow.of(4, protocol, dont_fragment=False).segments(payload(3000), 1000)
    assert [write.packets for write in merge(packets)] == [[packet] for packet in packets]


@pytest.mark.parametrize("protocol", [6, 17])
def test_a_damaged_ip_header_is_left_to_the_kernel_to_find(protocol: int) -> None:
    packets = Flow.of(4, protocol).segments(payload(3000), 1000)
    damaged = bytearray(packets[1])
    damaged[11] ^= 1
    writes = merge([packets[0], bytes(damaged), packets[2]])
    assert [write.packets for write in writes] == [[packets[0]], [bytes(damaged)], [packets[2]]]


def test_udp_without_checksums_gets_none() -> None:
    flow = Flow.of(4, 17)
    packets = [flow.packet(payload(100), udp_checksum=False) for _ in range(3)]
    assert [write.pieces for write in merge(packets)] == [[NO_OFFLOAD, one] for one in packets]


@flows
def test_nothing_overtakes_what_is_not_understood(flow: Flow) -> None:
    one, two = flow.segments(payload(2000), 1000)
    odd = replace(flow, protocol=6).packet(flags=ACK | FIN)
    assert [write.packets for write in merge([one, odd, two])] == [[one], [odd], [two]]


_ANY_FLOW = st.builds(
    lambda flow, port, tos, dont_fragment: replace(
        flow, port=port, tos=tos, dont_fragment=dont_fragment
    ),
    st.sampled_from(list(FLOWS.values())),
    st.integers(1, 2),
    st.sampled_from((0, 2)),
    st.booleans(),
)
_PACKETS = st.lists(
    st.tuples(
        _ANY_FLOW,
        st.sampled_from((0, 1, 99, 100)),
        st.sampled_from((ACK, ACK, ACK, ACK | PSH, ACK | FIN)),
        st.sampled_from((0, 0, 0, 1)),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(_PACKETS)
def test_every_flow_comes_out_as_it_went_in(plan: list[tuple[Flow, int, int, int]]) -> None:
    sequences: dict[Flow, int] = {}
    packets = []
    for flow, size, flags, gap in plan:
        sequence = sequences.get(flow, 0) + gap
        sequences[flow] = sequence + size
        packets.append(flow.packet(bytes(range(size)), sequence=sequence, flags=flags))
    out = [packet for write in merge(packets) for packet in unmerge(write)]
    assert sorted(out) == sorted(packets)
    for flow in map(_identity, packets):
        assert [p for p in out if _identity(p) == flow] == [
            p for p in packets if _identity(p) == flow
        ]


def _identity(packet: bytes) -> bytes:
    """Protocol, addresses and ports."""
    if packet[0] >> 4 == 4:
        return packet[9:10] + packet[12:24]
    return packet[6:7] + packet[8:44]


@given(st.lists(st.binary(min_size=20, max_size=120), max_size=8))
def test_no_bytes_do_more_than_stay_apart(packets: list[bytes]) -> None:
    writes = merge(packets)
    assert sorted(p for write in writes for p in write.packets) == sorted(packets)
