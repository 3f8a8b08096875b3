"""The ICMP errors for packets with nowhere to go."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.icmp import ErrorLimit, unreachable
from nvpn.datapath.inner import parse_inner
from nvpn.model.clock import SECOND
from nvpn.model.prefixes import parse_address
from tests.support.cores import START, checksum, ipv4, ipv6

ICMPV4, ICMPV6 = 1, 58


def answer_to(packet: bytes) -> bytes:
    answer = unreachable(packet)
    assert answer is not None
    return answer


def icmpv6_checksum(packet: bytes) -> int:
    pseudo = packet[8:40] + struct.pack(">II", len(packet) - 40, ICMPV6)
    return checksum(pseudo + packet[40:])


def test_ipv4_says_host_unreachable_and_quotes_the_packet() -> None:
    packet = ipv4(payload=b"q" * 100, protocol=17)
    answer = answer_to(packet)
    assert answer[9] == ICMPV4
    assert answer[20:22] == b"\3\1"
    assert answer[28:] == packet
    assert answer[12:16] == parse_address("10.0.0.2")
    assert answer[16:20] == parse_address("10.0.0.1")
    assert checksum(answer[:20]) == 0
    assert checksum(answer[20:]) == 0
    assert int.from_bytes(answer[2:4], "big") == len(answer)


def test_ipv6_says_address_unreachable_and_quotes_the_packet() -> None:
    packet = ipv6(payload=b"q" * 101, protocol=17)
    answer = answer_to(packet)
    assert answer[6] == ICMPV6
    assert answer[40:42] == b"\1\3"
    assert answer[48:] == packet
    assert answer[8:24] == parse_address("fd00::2")
    assert answer[24:40] == parse_address("fd00::1")
    assert icmpv6_checksum(answer) == 0
    assert int.from_bytes(answer[4:6], "big") == len(answer) - 40


@pytest.mark.parametrize("size", [0, 8, 9, 547, 548, 1400, 65000])
def test_an_error_is_no_longer_than_hosts_must_take(size: int) -> None:
    ours4 = answer_to(ipv4(payload=bytes(size), protocol=6))
    ours6 = answer_to(ipv6(payload=bytes(size), protocol=6))
    assert len(ours4) == min(576, 28 + 20 + size)
    assert len(ours6) == min(1280, 48 + 40 + size)
    assert checksum(ours4[20:]) == 0
    assert icmpv6_checksum(ours6) == 0


def test_what_follows_the_packet_is_not_quoted() -> None:
    packet = ipv4(payload=b"x", protocol=17)
    assert answer_to(packet + b"secret padding")[28:] == packet


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_an_icmp_error_gets_no_error(kind: int) -> None:
    assert unreachable(ipv4(payload=bytes([kind]) + bytes(30), protocol=ICMPV4)) is None


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 127, 137])
def test_an_icmpv6_error_or_redirect_gets_no_error(kind: int) -> None:
    assert unreachable(ipv6(payload=bytes([kind]) + bytes(30), protocol=ICMPV6)) is None


def test_an_icmpv6_error_behind_extension_headers_gets_no_error() -> None:
    options = bytes([ICMPV6, 1]) + bytes(14)
    hop_by_hop = bytes([60, 0]) + bytes(6)
    error = ipv6(payload=hop_by_hop + options + b"\1" + bytes(7), protocol=0)
    request = ipv6(payload=hop_by_hop + options + b"\x80" + bytes(7), protocol=0)
    assert unreachable(error) is None
    assert answer_to(request)[48:] == request


def test_pings_are_answered() -> None:
    assert unreachable(ipv4(payload=b"\x08" + bytes(7), protocol=ICMPV4)) is not None
    assert unreachable(ipv6(payload=b"\x80" + bytes(7), protocol=ICMPV6)) is not None


def test_only_the_first_fragment_gets_an_error() -> None:
    assert unreachable(ipv4(payload=bytes(16), fragment=0x2000)) is not None
    assert unreachable(ipv4(payload=bytes(16), fragment=0x2001)) is None
    first = bytes([17, 0, 0, 1]) + bytes(4)
    later = bytes([17, 0, 0, 9]) + bytes(4)
    assert unreachable(ipv6(payload=first + bytes(8), protocol=44)) is not None
    assert unreachable(ipv6(payload=later + bytes(8), protocol=44)) is None


@pytest.mark.parametrize("destination", ["224.0.0.1", "239.1.1.1", "255.255.255.255", "0.0.0.0"])
def test_many_hosts_get_no_error_from_ipv4(destination: str) -> None:
    assert unreachable(ipv4(destination=destination)) is None


@pytest.mark.parametrize("source", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_a_source_that_is_no_host_gets_no_error_in_ipv4(source: str) -> None:
    assert unreachable(ipv4(source=source)) is None


@pytest.mark.parametrize("address", ["::", "::1", "ff02::1"])
def test_an_address_that_is_no_host_gets_no_error_in_ipv6(address: str) -> None:
    assert unreachable(ipv6(source=address)) is None
    assert unreachable(ipv6(destination=address)) is None


@given(
    st.sampled_from((b"", b"\x45\0\0\x40", b"\x4f\0\0\x40", b"\x60\0\0\0\0\x10\0\x40")),
    st.binary(max_size=120),
)
def test_no_bytes_raise_and_every_answer_is_a_packet(head: bytes, tail: bytes) -> None:
    answer = unreachable(head + tail)
    if answer is not None:
        inner = parse_inner(answer)
        assert inner is not None
        assert inner.length == len(answer)
        # An error must never beget an error.
        assert unreachable(answer) is None


def test_errors_are_rationed() -> None:
    limit = ErrorLimit()
    assert sum(limit.allow(START) for _ in range(200)) == 50
    assert not limit.allow(START + 9_999_999)
    assert limit.allow(START + SECOND // 100)
    assert not limit.allow(START + SECOND // 100)
    assert sum(limit.allow(START + 3600 * SECOND) for _ in range(200)) == 50
