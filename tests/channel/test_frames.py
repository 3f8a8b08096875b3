from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.channel.drops import ChannelDrop
from nvpn.channel.frames import (
    MAX_DATAGRAM,
    MAX_UNFINISHED,
    PATIENCE,
    Frame,
    FrameKind,
    Reassembler,
    cut,
)
from nvpn.channel.schema import MAX_BODY
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey

ID = b"12345678"
A, B = (PublicKey(bytes([n]) * 32) for n in (0xAA, 0xBB))
NOW = 1000 * SECOND
LONG = bytes(range(256)) * 12


def test_a_frame_is_twelve_bytes_and_a_piece() -> None:
    assert cut(FrameKind.REQUEST, ID, b"{}") == (b"\x01\x01\x00\x01" + ID + b"{}",)
    assert [len(part) for part in cut(FrameKind.NOTICE, ID, LONG)] == [1192, 1192, 12 + 712]
    assert cut(FrameKind.RESPONSE, ID, LONG)[2][:4] == b"\x01\x02\x02\x03"
    assert len(cut(FrameKind.REQUEST, ID, bytes(MAX_BODY))) == 7
    # With the headers of UDP, IPv6 and a transport message, padded: a link of 1280 will do.
    assert MAX_DATAGRAM + 48 <= 1280 - 32


@given(st.integers(0, MAX_BODY), st.randoms())
def test_parts_may_come_in_any_order_and_twice(size: int, order: Any) -> None:
    body = bytes(size)
    parts = list(cut(FrameKind.REQUEST, ID, body))
    order.shuffle(parts)
    joined = Reassembler()
    given = [joined.receive(A, part, NOW) for part in parts[:-1] * 2]
    assert given == [None] * len(given)
    assert joined.receive(A, parts[-1], NOW) == Frame(FrameKind.REQUEST, ID, body)
    assert len(joined) == 0


def test_parts_are_those_of_one_peer_one_kind_and_one_id() -> None:
    first, *rest = cut(FrameKind.REQUEST, ID, LONG)
    joined = Reassembler()
    assert joined.receive(A, first, NOW) is None
    assert all(joined.receive(B, part, NOW) is None for part in rest)
    assert len(joined) == 2

    # Another message takes the place of the one that was begun.
    answer = cut(FrameKind.RESPONSE, ID, LONG)
    assert joined.receive(A, answer[1], NOW) is None
    assert all(joined.receive(A, part, NOW) is None for part in rest)
    assert joined.drops() == {ChannelDrop.UNFINISHED: 2}


def test_missing_parts_are_waited_for_a_while() -> None:
    first, *rest = cut(FrameKind.REQUEST, ID, LONG)
    joined = Reassembler()
    joined.receive(A, first, NOW)
    assert all(joined.receive(A, part, NOW + PATIENCE) is None for part in rest)
    assert joined.drops() == {ChannelDrop.UNFINISHED: 1}
    assert joined.receive(A, first, NOW + PATIENCE + 1) is not None


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", ChannelDrop.MALFORMED),
        (b"\1\1\0\1" + ID[:7], ChannelDrop.MALFORMED),
        (b"\2\1\0\1" + ID, ChannelDrop.OTHER_VERSION),
        (b"\0\1\0\1" + ID, ChannelDrop.OTHER_VERSION),
        (b"\1\0\0\1" + ID, ChannelDrop.MALFORMED),
        (b"\1\4\0\1" + ID, ChannelDrop.MALFORMED),
        (b"\1\1\1\1" + ID, ChannelDrop.MALFORMED),
        (b"\1\1\0\0" + ID, ChannelDrop.MALFORMED),
        (b"\1\1\0\x09" + ID, ChannelDrop.MALFORMED),
        (b"\1\1\0\1" + ID + bytes(1181), ChannelDrop.MALFORMED),
    ],
)
def test_what_is_no_frame_is_counted(datagram: bytes, reason: ChannelDrop) -> None:
    joined = Reassembler()
    assert joined.receive(A, datagram, NOW) is None
    assert joined.drops() == {reason: 1}
    assert len(joined) == 0


def test_a_message_that_is_too_long_is_none() -> None:
    joined = Reassembler()
    for part in range(8):
        datagram = bytes((1, 1, part, 8)) + ID + bytes(1180)
        assert joined.receive(A, datagram, NOW) is None
    assert joined.drops() == {ChannelDrop.MALFORMED: 1}
    assert len(joined) == 0


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=40), st.integers(0, SECOND))))
def test_no_datagrams_raise(datagrams: list[tuple[bool, bytes, int]]) -> None:
    joined = Reassembler()
    now = NOW
    for is_a, datagram, later in datagrams:
        now += later
        joined.receive(A if is_a else B, datagram, now)
        joined.receive(A if is_a else B, b"\1" + datagram, now)


def test_parts_from_ten_thousand_peers_are_bounded() -> None:
    joined = Reassembler()
    peers = [PublicKey(n.to_bytes(32, "big")) for n in range(10_000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for peer, part in itertools.product(peers, range(2)):
        joined.receive(peer, bytes((1, 1, part, 8)) + ID + bytes(1180), NOW)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(joined) == MAX_UNFINISHED
    assert joined.drops() == {ChannelDrop.UNFINISHED: 10_000 - MAX_UNFINISHED}
    assert held < 2 * 1024 * 1024
    # One of them does not push the others out, and who comes after them gets through.
    for n in range(1000):
        joined.receive(A, bytes((1, 1, 0, 8)) + n.to_bytes(8, "big"), NOW)
    assert len(joined) == MAX_UNFINISHED
    for part in cut(FrameKind.REQUEST, ID, LONG):
        whole = joined.receive(B, part, NOW)
    assert whole == Frame(FrameKind.REQUEST, ID, LONG)
