"""Inner packets: lengths, padding and congestion marks."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.inner import (
    CE,
    ECT0,
    ECT1,
    NOT_ECT,
    Inner,
    merge_ecn,
    outer_tos,
    padded_size,
    parse_inner,
    traffic_class,
)
from tests.support.cores import checksum, ipv4, ipv6
from tests.support.vectors import vectors

DROP = -1


def number(address: str) -> int:
    return int(ipaddress.ip_address(address))


def test_headers_are_read_and_padding_is_not_counted() -> None:
    source, destination = number("10.0.0.1"), number("10.0.0.2")
    assert parse_inner(ipv4(payload=b"abc") + bytes(9)) == Inner(4, 23, source, destination)
    source, destination = number("fd00::1"), number("fd00::2")
    assert parse_inner(ipv6(payload=b"abc") + bytes(5)) == Inner(6, 43, source, destination)


def test_an_ipv6_packet_without_payload_is_a_packet() -> None:
    inner = parse_inner(ipv6())
    assert inner is not None
    assert inner.length == 40


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(19),
        ipv4()[:19],
        ipv6()[:39],
        b"\x55" + ipv4()[1:],
        b"\x05" + ipv6()[1:],
        ipv4(payload=b"abc")[:-1],
        ipv6(payload=b"abc")[:-1],
        b"\x45\0\0\x13" + ipv4()[4:],
        b"\x45\0\0\0" + ipv4()[4:],
        b"\x45\0\xff\xff" + ipv4()[4:],
        b"\x60\0\0\0\xff\xff" + ipv6()[6:],
    ],
)
def test_what_is_not_a_whole_ip_packet_is_refused(packet: bytes) -> None:
    assert parse_inner(packet) is None


@given(st.binary(max_size=100), st.sampled_from((b"", b"\x45\0", b"\x60\0\0\0")))
def test_no_bytes_raise_and_no_length_exceeds_what_is_there(tail: bytes, head: bytes) -> None:
    packet = head + tail
    inner = parse_inner(packet)
    if inner is not None:
        assert (20 if inner.version == 4 else 40) <= inner.length <= len(packet)
        assert merge_ecn(bytearray(packet), CE) in (True, False)


@pytest.mark.parametrize(("size", "mtu", "padded"), vectors()["padding"])
def test_each_padding_vector_holds(size: int, mtu: int, padded: int) -> None:
    assert padded_size(size, mtu) == padded


@given(st.integers(0, 65535), st.integers(68, 65535))
def test_padding_adds_at_most_15_bytes_and_never_crosses_the_mtu(size: int, mtu: int) -> None:
    padded = padded_size(size, mtu)
    assert size <= padded < size + 16
    if size <= mtu:
        assert padded <= mtu


# --- ECN ------------------------------------------------------------------------------

# RFC 6040, figure 4: the inner mark, then what it becomes for each outer mark.
DECAPSULATION = {
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT0: NOT_ECT, ECT1: NOT_ECT, CE: DROP},
    ECT0: {NOT_ECT: ECT0, ECT0: ECT0, ECT1: ECT1, CE: CE},
    ECT1: {NOT_ECT: ECT1, ECT0: ECT1, ECT1: ECT1, CE: CE},
    CE: {NOT_ECT: CE, ECT0: CE, ECT1: CE, CE: CE},
}


@pytest.mark.parametrize("outer", (NOT_ECT, ECT0, ECT1, CE))
@pytest.mark.parametrize("inner", (NOT_ECT, ECT0, ECT1, CE))
@pytest.mark.parametrize("make", (ipv4, ipv6))
@pytest.mark.parametrize("dscp", (0, 0xFC, 0xB8))
def test_marks_are_merged_as_the_rfc_says(make: object, inner: int, outer: int, dscp: int) -> None:
    packet = bytearray(make(payload=b"data", tos=dscp | inner))  # type: ignore[operator]
    expected = DECAPSULATION[inner][outer]
    kept = merge_ecn(packet, 0xFC | outer)
    assert kept is (expected != DROP)
    if kept:
        assert bytes(packet) == make(  # type: ignore[operator]
            payload=b"data", tos=dscp | expected
        )


@given(st.binary(min_size=20, max_size=20))
def test_a_changed_mark_keeps_a_right_checksum_right_and_a_wrong_one_wrong(raw: bytes) -> None:
    packet = bytearray(b"\x45" + raw[1:2] + b"\0\x14" + raw[4:])
    before = checksum(packet)
    merge_ecn(packet, CE)
    assert checksum(packet) == before


@pytest.mark.parametrize(
    ("inner", "outer"), [(NOT_ECT, NOT_ECT), (ECT0, ECT0), (ECT1, ECT1), (CE, ECT0)]
)
def test_the_outer_header_copies_the_mark_and_hides_the_class(inner: int, outer: int) -> None:
    for make in (ipv4, ipv6):
        packet = make(tos=0xB8 | inner)
        assert traffic_class(packet) == 0xB8 | inner
        assert outer_tos(traffic_class(packet)) == outer
