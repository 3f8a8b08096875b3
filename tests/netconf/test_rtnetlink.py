"""Packing and parsing of netlink messages."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.netconf import rtnetlink as rt
from nvpn.netconf.linux_monitor import parse_link


def test_attributes_are_padded_to_four_bytes_and_read_back() -> None:
    body = rt.pack_attribute(3, "wg0") + rt.pack_attribute(4, 1420) + rt.pack_attribute(1, b"abc")

    assert len(body) % 4 == 0
    assert rt.parse_attributes(body) == {
        3: b"wg0\0",
        4: struct.pack("=I", 1420),
        1: b"abc",
    }


def test_a_nest_is_marked_and_read_back() -> None:
    nest = rt.pack_attribute(18, [rt.pack_attribute(1, "veth")])

    assert struct.unpack_from("=HH", nest)[1] & 0x8000
    assert rt.parse_attributes(rt.parse_attributes(nest)[18]) == {1: b"veth\0"}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_parsers_raise(data: bytes) -> None:
    rt.parse_attributes(data)
    parse_link(data)
    for _, _, _, body in rt.parse_messages(data):
        assert len(body) <= len(data)


def test_a_message_that_claims_more_than_there_is_ends_the_datagram() -> None:
    good = rt.HEADER.pack(20, rt.RTM_NEWLINK, 0, 7, 0) + b"body"
    cut = rt.HEADER.pack(400, rt.RTM_NEWLINK, 0, 8, 0) + b"body"

    assert list(rt.parse_messages(good + cut)) == [(rt.RTM_NEWLINK, 0, 7, b"body")]
