from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.offloads import (
    GSO_NONE,
    NEEDS_CSUM,
    BadFrame,
    VirtioHeader,
    gso_max_segs,
    read_frame,
)
from tests.support.segments import ACK, CWR, FIN, FLOWS, PSH, Flow

flows = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())


def payload(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@flows
@pytest.mark.parametrize("gso_size", [1, 8, 535, 1368, 1400])
@pytest.mark.parametrize("count", [2, 3, 45])
@pytest.mark.parametrize("rest", [0, 1, -1])
def test_a_superpacket_becomes_the_packets_it_stands_for(
    flow: Flow, gso_size: int, count: int, rest: int
) -> None:
    data = payload(max(1, gso_size * count + rest))
    assert read_frame(*flow.superpacket(data, gso_size)) == flow.segments(data, gso_size)


@flows
def test_a_superpacket_of_a_single_segment_is_that_segment(flow: Flow) -> None:
    data = payload(100)
    assert read_frame(*flow.superpacket(data, 1368)) == [flow.packet(data)]


@pytest.mark.parametrize("version", [4, 6])
def test_flags_go_where_the_sender_meant_them(version: int) -> None:
    flow = Flow.of(version, 6)
    frame = flow.superpacket(payload(3000), 1000, flags=ACK | PSH | FIN | CWR)
    flags = [packet[flow.start + 13] for packet in read_frame(*frame)]
    assert flags == [ACK | CWR, ACK, ACK | PSH | FIN]


@pytest.mark.parametrize("version", [4, 6])
def test_sequence_numbers_wrap(version: int) -> None:
    flow, start = Flow.of(version, 6), 2**32 - 1500
    data = payload(3000)
    packets = read_frame(*flow.superpacket(data, 1000, sequence=start))
    assert packets == flow.segments(data, 1000, sequence=start)


@pytest.mark.parametrize("protocol", [6, 17])
def test_packets_that_may_be_fragmented_are_numbered(protocol: int) -> None:
    flow = Flow.of(4, protocol, dont_fragment=False, identification=0xFFFF)
    data = payload(3000)
    packets = read_frame(*flow.superpacket(data, 1000))
    assert packets == flow.segments(data, 1000)
    assert [packet[4:6].hex() for packet in packets] == ["ffff", "0000", "0001"]


@pytest.mark.parametrize("protocol", [6, 17])
def test_extension_headers_are_carried_along(protocol: int) -> None:
    extension = bytes([protocol, 0, 1, 4, 0, 0, 0, 0])  # destination options, padded
    flow = Flow.of(6, protocol, extension=extension)
    data = payload(3000)
    assert read_frame(*flow.superpacket(data, 1000)) == flow.segments(data, 1000)


@flows
def test_the_hint_about_the_header_length_is_not_believed(flow: Flow) -> None:
    data = payload(3000)
    header, packet = flow.superpacket(data, 1000)
    for wrong in (0, 20, 65535):
        assert read_frame(header._replace(header_length=wrong), packet) == flow.segments(
            data, 1000
        )


@flows
@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_a_checksum_left_undone_is_done(flow: Flow, size: int) -> None:
    data = payload(size)
    header, packet = flow.superpacket(data, 1)
    header = header._replace(gso_type=GSO_NONE, gso_size=0)
    assert read_frame(header, packet) == [flow.packet(data)]


def test_a_udp_checksum_of_zero_is_written_as_its_twin() -> None:
    flow = Flow.of(4, 17)
    # The two bytes that make everything else sum up to zero.
    probe = int.from_bytes(flow.packet(b"\0\0")[26:28], "big")
    header, packet = flow.superpacket(probe.to_bytes(2, "big"), 1)
    (complete,) = read_frame(header._replace(gso_type=GSO_NONE, gso_size=0), packet)
    assert complete[26:28] == b"\xff\xff"


def test_a_complete_packet_is_left_alone() -> None:
    packet = payload(100)
    assert read_frame(VirtioHeader(), packet) == [packet]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gso_type": 3}, "never asked for"),
        ({"gso_size": 0}, "segment size"),
        ({"flags": 0}, "segment size"),
        ({"csum_start": 0}, "inside of the IP header"),
        ({"csum_start": 24}, "inside of the IP header"),
        ({"csum_start": 65535}, "inside of the IP header"),
        ({"gso_type": GSO_NONE, "csum_start": 65535}, "outside of the packet"),
        ({"gso_type": GSO_NONE, "csum_offset": 65535}, "outside of the packet"),
    ],
)
def test_a_contradiction_is_refused(change: dict[str, int], why: str) -> None:
    header, packet = Flow.of(4, 6).superpacket(payload(3000), 1000)
    with pytest.raises(BadFrame, match=why):
        read_frame(header._replace(**change), packet)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("words", range(5))
def test_a_tcp_header_shorter_than_tcp_headers_are_is_refused(version: int, words: int) -> None:
    header, packet = Flow.of(version, 6).superpacket(payload(3000), 1000)
    start = header.csum_start
    shortened = packet[: start + 12] + bytes([words << 4]) + packet[start + 13 :]
    with pytest.raises(BadFrame, match="transport header"):
        read_frame(header, shortened)


@given(
    st.builds(
        VirtioHeader,
        st.sampled_from((0, NEEDS_CSUM, 255)),
        st.sampled_from((0, 1, 3, 4, 5, 0x81, 0x84, 255)),
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.integers(0, 80) | st.integers(0, 65535),
        st.sampled_from((0, 6, 16)) | st.integers(0, 65535),
    ),
    st.binary(max_size=200),
)
def test_no_frame_does_more_than_be_refused(header: VirtioHeader, packet: bytes) -> None:
    try:
        packets = read_frame(header, packet)
    except BadFrame:
        return
    assert sum(map(len, packets)) <= len(packet) * (1 + len(packet))


@given(st.binary(max_size=9))
def test_a_frame_shorter_than_its_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadFrame):
        VirtioHeader.parse(data)


def test_a_header_survives_its_bytes() -> None:
    header = VirtioHeader(1, 4, 60, 1368, 40, 16)
    assert VirtioHeader.parse(header.pack()) == header
    assert len(header.pack()) == 10


@pytest.mark.parametrize(
    ("mtu", "most", "expected"),
    [
        (1420, 64, 45),
        (1420, 128, 45),
        (1280, 64, 49),
        (576, 64, 64),
        (576, 128, 107),
        (65475, 64, 1),
        (65535, 64, 1),
    ],
)
def test_as_many_segments_are_asked_for_as_one_send_carries(
    mtu: int, most: int, expected: int
) -> None:
    assert gso_max_segs(mtu, most) == expected
