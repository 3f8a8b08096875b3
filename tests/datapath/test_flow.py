"""What an inner packet shows of its flow, and which fragment it is.

The packets are also asked of the Rust twin, in ``native/core/tests/filter.rs``.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.flow import Fragment, NoPorts, Ports, flow_of
from nvpn.datapath.inner import parse_inner
from tests.support.cores import ipv4, ipv6

TCP, UDP, SCTP, ICMP = 6, 17, 132, 1


def ports(source: int, destination: int, more: bytes = bytes(16)) -> bytes:
    return struct.pack(">HH", source, destination) + more


FRAGMENT_FIRST = bytes([UDP, 0, 0, 1, 0, 0, 0, 7])
FRAGMENT_LATER = bytes([UDP, 0, 0, 9, 0, 0, 0, 7])
ATOMIC = bytes([UDP, 0, 0, 0, 0, 0, 0, 7])
INTO_FRAGMENT = bytes([44, 0, 0, 1, 0, 0, 0, 7])
OPTIONS = bytes([60]) + bytes(7)
LAST_OPTIONS = bytes([TCP]) + bytes(7)
HOP_BY_HOP = bytes([TCP, 1]) + bytes(14)


@pytest.mark.parametrize(
    ("packet", "protocol", "shown"),
    [
        (ipv4(protocol=TCP, payload=ports(1, 2)), TCP, (1, 2)),
        (ipv4(protocol=UDP, payload=ports(0xFFFF, 53)), UDP, (0xFFFF, 53)),
        (ipv4(protocol=SCTP, payload=ports(3, 4)), SCTP, (3, 4)),
        (ipv4(protocol=ICMP, payload=ports(1, 2)), ICMP, NoPorts.NONE),
        (ipv4(protocol=TCP, payload=b"abc"), TCP, NoPorts.CUT_OFF),
        (b"\x4f" + ipv4(protocol=TCP, payload=ports(1, 2))[1:], TCP, NoPorts.CUT_OFF),
        (b"\x41" + ipv4(protocol=TCP, payload=ports(1, 2))[1:], TCP, (1, 2)),
        (ipv4(protocol=UDP, payload=ports(1, 2), fragment=0x2000), UDP, (1, 2)),
        (ipv4(protocol=UDP, payload=ports(1, 2), fragment=1), UDP, NoPorts.ELSEWHERE),
        (ipv6(protocol=TCP, payload=ports(1, 2)), TCP, (1, 2)),
        (ipv6(protocol=0, payload=HOP_BY_HOP + ports(1, 2)), TCP, (1, 2)),
        (ipv6(protocol=0, payload=HOP_BY_HOP[:7]), 0, NoPorts.CUT_OFF),
        (ipv6(protocol=0, payload=HOP_BY_HOP[:8]), TCP, NoPorts.CUT_OFF),
        (ipv6(protocol=44, payload=FRAGMENT_FIRST), UDP, NoPorts.CUT_OFF),
        (ipv6(protocol=44, payload=FRAGMENT_FIRST[:7]), 44, NoPorts.CUT_OFF),
        (ipv6(protocol=44, payload=FRAGMENT_FIRST + ports(1, 2)), UDP, (1, 2)),
        (ipv6(protocol=44, payload=FRAGMENT_LATER), UDP, NoPorts.ELSEWHERE),
        (ipv6(protocol=59), 59, NoPorts.NONE),
        (ipv6(protocol=51, payload=FRAGMENT_FIRST + ports(1, 2)), 51, NoPorts.CUT_OFF),
        (ipv6(protocol=44, payload=ATOMIC + ports(1, 2)), UDP, (1, 2)),
        (
            ipv6(protocol=44, payload=INTO_FRAGMENT + FRAGMENT_FIRST + ports(1, 2)),
            44,
            NoPorts.CUT_OFF,
        ),
        (ipv6(protocol=60, payload=OPTIONS * 7 + LAST_OPTIONS + ports(1, 2)), TCP, (1, 2)),
        (ipv6(protocol=60, payload=OPTIONS * 8 + LAST_OPTIONS + ports(1, 2)), 60, NoPorts.CUT_OFF),
    ],
)
def test_each_packet_shows_its_flow(packet: bytes, protocol: int, shown: Ports) -> None:
    flow = flow_of(packet)
    assert (flow.protocol, flow.ports) == (protocol, shown)


@pytest.mark.parametrize(
    ("packet", "fragment"),
    [
        (ipv4(protocol=UDP, payload=bytes(24)), None),
        (ipv4(protocol=UDP, payload=bytes(24), fragment=0x4000), None),
        (ipv4(protocol=UDP, payload=bytes(24), fragment=0x2000), Fragment(7, UDP, 0, 24)),
        (ipv4(protocol=UDP, payload=bytes(24), fragment=0x2003), Fragment(7, UDP, 24, 48)),
        (ipv4(protocol=UDP, payload=bytes(9), fragment=6), Fragment(7, UDP, 48, 57)),
        (ipv6(protocol=44, payload=FRAGMENT_FIRST + bytes(24)), Fragment(7, 0, 0, 24)),
        (ipv6(protocol=44, payload=FRAGMENT_LATER + bytes(9)), Fragment(7, 0, 8, 17)),
        (ipv6(protocol=44, payload=ATOMIC + bytes(24)), None),
    ],
)
def test_a_fragment_is_told_by_its_packet_and_its_place(
    packet: bytes, fragment: Fragment | None
) -> None:
    assert flow_of(packet).fragment == fragment


@given(
    st.sampled_from((b"\x45\0\0\x28", b"\x60\0\0\0\0\0\0\x40", b"\x60\0\0\0\0\x28\x2c\x40")),
    st.binary(min_size=40, max_size=120),
)
def test_no_packet_raises(head: bytes, tail: bytes) -> None:
    inner = parse_inner(head + tail)
    if inner is not None:
        flow = flow_of((head + tail)[: inner.length])
        assert flow.at < len(head + tail) or flow.ports in (NoPorts.CUT_OFF, NoPorts.NONE)
