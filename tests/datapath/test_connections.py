"""How much is remembered of what we say, and that nothing from a peer is too odd to look at.

What passes and what does not is asked of both datapaths: tests/conformance/test_connections.py.
"""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.commands import PeerId, Rule
from nvpn.datapath.connections import (
    MAX_CONVERSATIONS,
    MAX_CONVERSATIONS_OF_A_PEER,
    MAX_FRAGMENTED_OF_A_PEER,
    Connections,
)
from nvpn.datapath.filter import PortFilter
from nvpn.datapath.flow import flow_of
from nvpn.datapath.inner import Inner, parse_inner
from nvpn.model.clock import SECOND
from tests.support.cores import ipv4

UDP = 17
FRIEND, FLOODER = PeerId(1), PeerId(2)


def udp(ours: int, theirs: int, *, back: bool = False, fragment: int = 0) -> bytes:
    source, destination = (theirs, ours) if back else (ours, theirs)
    payload = struct.pack(">HHHH", source, destination, 8, 0)
    ends = ("10.0.0.2", "10.0.0.1") if back else ("10.0.0.1", "10.0.0.2")
    return ipv4(*ends, payload, protocol=UDP, fragment=fragment)


def header(packet: bytes) -> Inner:
    inner = parse_inner(packet)
    assert inner is not None
    return inner


class Memory:
    def __init__(self) -> None:
        self.connections = Connections()
        self.now = 0

    def say(self, peer: PeerId, ours: int, theirs: int = 53) -> None:
        packet = udp(ours, theirs)
        self.connections.note_sent(peer, header(packet), packet, self.now)

    def expects(self, peer: PeerId, ours: int, theirs: int = 53) -> bool:
        packet = udp(ours, theirs, back=True)
        inner, flow = header(packet), flow_of(packet)
        return self.connections.expects(peer, inner, flow, packet, self.now)


def test_who_says_much_forgets_what_he_said_first_and_nobody_else_does() -> None:
    memory = Memory()
    memory.say(FRIEND, 1)
    for number in range(MAX_CONVERSATIONS_OF_A_PEER + 1):
        memory.say(FLOODER, number)
    assert not memory.expects(FLOODER, 0)
    assert memory.expects(FLOODER, 1)
    assert memory.expects(FLOODER, MAX_CONVERSATIONS_OF_A_PEER)
    assert memory.expects(FRIEND, 1)
    for peer in range(3, 20):
        for number in range(MAX_CONVERSATIONS // 16):
            memory.say(PeerId(peer), number)
    assert memory.connections.sizes[0] == MAX_CONVERSATIONS
    assert memory.expects(FRIEND, 1)


def test_what_is_over_makes_room_while_others_begin() -> None:
    memory = Memory()
    for number in range(100):
        memory.say(FRIEND, number)
    memory.now = 30 * SECOND
    for number in range(50):
        memory.say(FRIEND, 1000 + number)
    assert memory.connections.sizes[0] == 50


def test_fragments_are_bounded_too() -> None:
    connections = Connections()
    rules = [Rule(accept=True, protocol=UDP)]
    port_filter = PortFilter(rules, otherwise=False, connections=connections)
    for number in range(MAX_FRAGMENTED_OF_A_PEER + 1):
        packet = bytearray(udp(1, 2, back=True, fragment=0x2000))
        packet[4:6] = number.to_bytes(2, "big")
        assert port_filter.accepts(FRIEND, header(packet), packet, 0)
    assert connections.sizes == (0, MAX_FRAGMENTED_OF_A_PEER)

    def continues(number: int) -> bool:
        packet = bytearray(udp(1, 2, back=True, fragment=1))
        packet[4:6] = number.to_bytes(2, "big")
        return port_filter.accepts(FRIEND, header(packet), packet, 0)

    assert not continues(0)
    assert continues(1)
    port_filter.forget(FRIEND)
    assert not continues(1)
    assert connections.sizes == (0, 0)


def test_peers_that_may_do_everything_are_not_looked_at() -> None:
    connections = Connections()
    rules = [Rule(accept=False, peer=FLOODER)]
    port_filter = PortFilter(rules, otherwise=True, connections=connections)
    for peer in (FRIEND, FLOODER):
        port_filter.note_sent(peer, udp(1, 2), 0)
    assert connections.sizes == (1, 0)
    cut_off = ipv4("10.0.0.2", "10.0.0.1", b"x", protocol=UDP)
    assert port_filter.accepts(FRIEND, header(cut_off), cut_off, 0)
    assert not port_filter.accepts(FLOODER, header(cut_off), cut_off, 0)


HEADS = st.sampled_from(
    [
        b"\x45\0\0\x28\0\0\0\0\x40\x01",
        b"\x45\0\0\x40\0\0\0\0\x40\x06",
        b"\x45\0\0\x40\0\0\x20\0\x40\x11",
        b"\x60\0\0\0\0\x20\x3a\x40",
        b"\x60\0\0\0\0\x20\x2c\x40",
        b"\x60\0\0\0\0\x28\x00\x40",
    ]
)


@given(st.lists(st.tuples(st.booleans(), HEADS, st.binary(min_size=40, max_size=80))))
def test_no_packet_raises(packets: list[tuple[bool, bytes, bytes]]) -> None:
    rules = [Rule(accept=True, protocol=UDP)]
    port_filter = PortFilter(rules, otherwise=False, connections=Connections())
    for is_ours, head, tail in packets:
        inner = parse_inner(head + tail)
        if inner is None:
            continue
        packet = (head + tail)[: inner.length]
        if is_ours:
            port_filter.note_sent(FRIEND, packet, 0)
        else:
            port_filter.accepts(FRIEND, inner, packet, 0)
