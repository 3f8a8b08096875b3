from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.channel.frames import FrameKind, cut
from nvpn.channel.messages import Release, decode, encode
from nvpn.channel.packets import (
    channel_address,
    channel_prefix,
    pack_packet,
    parse_packet,
    without_channel,
)
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix, format_address

ZERO = PublicKey(bytes(32))
COUNTING = PublicKey(bytes(range(32)))
HERE, THERE = channel_address(COUNTING), channel_address(ZERO)


def test_addresses_are_those_of_the_vectors_in_the_specification() -> None:
    assert format_address(channel_address(ZERO)) == "fe80::56e8:a57c:11d1:6180"
    assert format_address(channel_address(COUNTING)) == "fe80::ee18:e8c:1485:6d99"
    assert str(channel_prefix(ZERO)) == "fe80::56e8:a57c:11d1:6180/128"


PACKET = pack_packet(HERE, THERE, b"hello")


def test_a_packet_is_one_that_the_kernel_would_make() -> None:
    assert PACKET.hex() == (
        "60000000000d11ff" + HERE.hex() + THERE.hex() + "223e223e000d8c0a" + b"hello".hex()
    )


@given(st.binary(max_size=1192))
def test_what_is_packed_is_parsed(payload: bytes) -> None:
    packet = pack_packet(HERE, THERE, payload)
    assert packet[46:48] != b"\0\0"
    assert parse_packet(packet, source=HERE, destination=THERE) == payload
    # A transport message is padded; the padding is not the packet's.
    assert parse_packet(packet + bytes(15), source=HERE, destination=THERE) == payload


@pytest.mark.parametrize("at", range(len(PACKET)))
def test_a_bit_that_is_another_makes_it_none_of_ours(at: int) -> None:
    broken = bytearray(PACKET)
    broken[at] ^= 0x10
    # Traffic class, flow label and hop limit say nothing here.
    expected = b"hello" if at in (1, 2, 3, 7) else None
    assert parse_packet(bytes(broken), source=HERE, destination=THERE) == expected


def test_it_counts_whose_and_whither() -> None:
    assert parse_packet(PACKET, source=THERE, destination=THERE) is None
    assert parse_packet(PACKET, source=HERE, destination=HERE) is None


@given(st.binary(max_size=80), st.integers(0, len(PACKET)))
def test_no_bytes_raise(tail: bytes, kept: int) -> None:
    parse_packet(PACKET[:kept] + tail, source=HERE, destination=THERE)
    parse_packet(tail, source=HERE, destination=THERE)


def test_a_packet_cut_short_is_none() -> None:
    for end in range(len(PACKET)):
        assert parse_packet(PACKET[:end], source=HERE, destination=THERE) is None


def test_the_vectors_of_the_specification_hold() -> None:
    text = (Path(__file__).parents[2] / "docs" / "channel.md").read_text()
    vectors = text.partition("## Vectors")[2]
    for key in (ZERO, COUNTING):
        assert f"`{format_address(channel_address(key))}`" in vectors
    (datagram,) = cut(FrameKind.REQUEST, bytes(range(1, 9)), encode(Release()))
    lines = [line.strip() for line in vectors.splitlines() if line.startswith("    ")]
    message = "".join(line for line in lines if '"' in line).encode()
    assert encode(decode(message)) == message
    packet = "".join(line for line in lines if '"' not in line)
    assert packet == pack_packet(HERE, THERE, datagram).hex()


def test_of_allowed_ips_only_the_peers_own_channel_address_is_left_out() -> None:
    others = tuple(
        map(Prefix.parse, ("10.0.0.1/32", "fe80::/64", "fe80::1/128", str(channel_prefix(ZERO))))
    )
    assert without_channel(COUNTING, (*others, channel_prefix(COUNTING))) == others
    assert without_channel(COUNTING, ()) == ()
    assert without_channel(ZERO, others) == others[:3]
