"""A datagram of ours that is about to be sent again."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.commands import DestroyPeer, EraseKeys, SendHandshake, SetPeerEndpoint
from nvpn.datapath.inner import parse_inner, udp_payload
from nvpn.errors import DropReason
from nvpn.wire.messages import Initiation
from tests.support.cores import THEM, Ends, endpoint, ipv4, ipv6

INSIDE4, INSIDE6 = "10.0.0.2", "fd00::2"


def udp(payload: bytes, port: int = 1002) -> bytes:
    return struct.pack(">HHHH", 51820, port, 8 + len(payload), 0) + payload


def looping(version: int) -> Ends:
    """Alice's route to Bob's endpoint leads to Bob."""
    ends = Ends()
    inside = f"{INSIDE4}:1002" if version == 4 else f"[{INSIDE6}]:1002"
    ends.tell(ends.alice, SetPeerEndpoint(THEM, endpoint(inside)._replace(learned_at=ends.now)))
    return ends


def packet(version: int, payload: bytes, port: int = 1002, *, fragment: bool = False) -> bytes:
    if version == 4:
        more = 0x2000 if fragment else 0
        return ipv4("10.0.0.1", INSIDE4, udp(payload, port), protocol=17, fragment=more)
    body, protocol = udp(payload, port), 17
    if fragment:
        body, protocol = struct.pack(">BBHI", 17, 0, 1, 7) + body, 44
    return ipv6("fd00::1", INSIDE6, body, protocol=protocol)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("fragment", [False, True])
def test_it_goes_round_once(version: int, fragment: bool) -> None:
    ends = looping(version)
    datagram = ends.seal(ipv4("10.0.0.1", INSIDE4, b"ping"))
    ends.alice.send_inner(packet(version, datagram, fragment=fragment), ends.now)
    assert ends.alice.take_datagrams() == []
    assert ends.alice.take_inner() == []
    assert ends.alice.drops() == {DropReason.ROUTING_LOOP: 1}


@pytest.mark.parametrize("version", [4, 6])
def test_initiations_do_not_wait_for_themselves(version: int) -> None:
    ends = looping(version)
    initiation = Initiation(77, bytes(32), bytes(48), bytes(28)).pack()
    ends.tell(ends.alice, EraseKeys(THEM), SendHandshake(THEM, initiation))
    ends.alice.take_datagrams()
    ends.alice.take_events()
    ends.alice.send_inner(packet(version, initiation), ends.now)
    assert ends.alice.drops() == {DropReason.ROUTING_LOOP: 1}
    assert ends.alice.take_events() == [], "nobody asks for a handshake because of a handshake"


@pytest.mark.parametrize("version", [4, 6])
def test_what_others_send_to_the_same_place_passes(version: int) -> None:
    ends = looping(version)
    datagram = ends.seal(ipv4("10.0.0.1", INSIDE4, b"ping"))
    theirs = datagram[:4] + bytes([datagram[4] ^ 1]) + datagram[5:]
    for other in (packet(version, theirs), packet(version, datagram, 1003), packet(version, b"")):
        ends.alice.send_inner(other, ends.now)
    assert len(ends.alice.take_datagrams()) == 3
    assert not ends.alice.drops()


def test_our_datagrams_to_another_place_pass() -> None:
    ends = Ends()  # Bob's endpoint is outside: this is something else that looks alike
    datagram = ends.seal(ipv4("10.0.0.1", INSIDE4, b"ping"))
    ends.alice.send_inner(packet(4, datagram), ends.now)
    assert len(ends.alice.take_datagrams()) == 1


def test_what_is_over_is_forgotten() -> None:
    ends = looping(4)
    datagram = ends.seal(ipv4("10.0.0.1", INSIDE4, b"ping"))
    initiation = Initiation(77, bytes(32), bytes(48), bytes(28)).pack()
    ends.tell(ends.alice, SendHandshake(THEM, initiation), EraseKeys(THEM))
    inner = parse_inner(packet(4, datagram))
    assert inner is not None
    assert not ends.alice.own.hold(packet(4, datagram), inner)
    assert ends.alice.own.hold(packet(4, initiation), inner)
    ends.tell(ends.alice, DestroyPeer(THEM))
    assert not ends.alice.own.hold(packet(4, initiation), inner)


@given(st.sampled_from((b"\x45", b"\x60")), st.binary(min_size=39, max_size=80))
def test_no_packet_raises(first: bytes, rest: bytes) -> None:
    inner = parse_inner(first + rest)
    if inner is not None:
        udp_payload(first + rest, inner.version)
        assert not Ends().alice.own.hold(first + rest, inner)
