"""The port filter's rules, and what is lifted out of the stream.

``CASES`` are also asked of the Rust twin, in ``native/core/tests/filter.rs``.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.commands import Diversion, Divert, PeerId, Rule, SendInner, SetFilter
from nvpn.datapath.events import InnerReceived
from nvpn.datapath.filter import PortFilter, comes_from, is_diverted
from nvpn.datapath.flow import flow_of
from nvpn.datapath.inner import parse_inner
from nvpn.datapath.python.event_queue import MAX_DIVERTED_OF_ONE
from nvpn.errors import DropReason
from nvpn.model.prefixes import Prefix
from tests.support.cores import THEM, Ends, ipv4, ipv6

TCP, UDP, ICMP = 6, 17, 1


def ports(source: int, destination: int, more: bytes = bytes(16)) -> bytes:
    return struct.pack(">HH", source, destination) + more


def udp(destination: int, payload: bytes = b"control") -> bytes:
    return struct.pack(">HHHH", 5000, destination, 8 + len(payload), 0) + payload


FRAGMENT_FIRST = bytes([UDP, 0, 0, 1, 0, 0, 0, 7])


ACCEPT_SSH = Rule(accept=True, protocol=TCP, destination_ports=(22, 22))
DROP_HIGH = Rule(accept=False, source_ports=(1024, 65535))

SSH = ipv4(protocol=TCP, payload=ports(40000, 22))
WEB = ipv4(protocol=TCP, payload=ports(40000, 443))
PING = ipv4(protocol=ICMP, payload=bytes(8))
LATER_TCP = ipv4(protocol=TCP, payload=bytes(8), fragment=9)
LATER_UDP = ipv4(protocol=UDP, payload=bytes(8), fragment=9)
# What a later fragment could complete, past the rules.
TO_OPTIONS = bytes([60, 0, 0, 1, 0, 0, 0, 7])
HIDDEN_TCP = ipv6(protocol=44, payload=TO_OPTIONS + bytes([TCP]) + bytes(7))
HIDDEN_PROTOCOL = ipv6(protocol=44, payload=TO_OPTIONS)

# Rules, whether what no rule matches passes, a packet, whether it passes.
CASES = [
    ([], True, SSH, True),
    ([], False, SSH, False),
    ([ACCEPT_SSH], False, SSH, True),
    ([ACCEPT_SSH], False, WEB, False),
    ([ACCEPT_SSH], False, PING, False),
    ([ACCEPT_SSH], False, LATER_TCP, True),
    ([ACCEPT_SSH], False, LATER_UDP, False),
    ([DROP_HIGH], True, SSH, False),
    ([DROP_HIGH], True, PING, True),
    ([DROP_HIGH], True, LATER_TCP, True),
    ([ACCEPT_SSH, DROP_HIGH], True, SSH, True),
    ([ACCEPT_SSH, DROP_HIGH], True, WEB, False),
    ([Rule(accept=False, protocol=TCP)], True, LATER_TCP, False),
    ([DROP_HIGH], True, HIDDEN_TCP, False),
    ([Rule(accept=False, protocol=TCP)], True, HIDDEN_PROTOCOL, False),
    ([Rule(accept=True, peer=THEM)], False, SSH, True),
    ([Rule(accept=True, peer=PeerId(9))], False, SSH, False),
    ([Rule(accept=True, source=Prefix.parse("10.0.0.0/24"))], False, SSH, True),
    ([Rule(accept=True, source=Prefix.parse("10.0.1.0/24"))], False, SSH, False),
    ([Rule(accept=True, destination=Prefix.parse("10.0.0.2/32"))], False, SSH, True),
    ([Rule(accept=True, destination=Prefix.parse("10.0.0.3/32"))], False, SSH, False),
    ([Rule(accept=True, destination=Prefix.parse("::/0"))], False, SSH, False),
    ([Rule(accept=True, destination_ports=(20, 25))], False, SSH, True),
    ([Rule(accept=True, destination_ports=(23, 25))], False, SSH, False),
    ([Rule(accept=True, source_ports=(40000, 40000))], False, SSH, True),
]


@pytest.mark.parametrize(("rules", "otherwise", "packet", "passes"), CASES)
def test_the_first_rule_that_matches_decides(
    rules: list[Rule], otherwise: bool, packet: bytes, passes: bool
) -> None:
    inner = parse_inner(packet)
    assert inner is not None
    port_filter = PortFilter(rules, otherwise=otherwise)
    assert port_filter.accepts(THEM, inner, packet, 0) is passes


def test_what_is_filtered_is_counted_and_goes_nowhere() -> None:
    ends = Ends()
    ends.tell(ends.bob, SetFilter((ACCEPT_SSH,)))
    for packet in (SSH, WEB, PING):
        ends.alice.send_inner(packet, ends.now)
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == [SSH]
    assert ends.bob.drops() == {DropReason.FILTERED: 2}
    ends.tell(ends.bob, SetFilter(None))
    ends.alice.send_inner(WEB, ends.now)
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == [WEB]


def test_a_source_that_is_not_the_peers_is_no_matter_for_the_filter() -> None:
    ends = Ends()
    ends.tell(ends.bob, SetFilter((), otherwise=False))
    ends.tell(ends.alice, SendInner(ipv4("10.0.0.77", protocol=TCP, payload=ports(1, 2))))
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.drops() == {DropReason.SOURCE_NOT_ALLOWED: 1}


# By its own word its header ends within: checksum and address would be port and length.
HEADLESS = b"\x42" + ipv4(protocol=UDP, payload=bytes(10 * 256 - 12))[1:10] + b"\0\7"
HEADLESS += ipv4(protocol=UDP, payload=bytes(10 * 256 - 12))[12:]

PLACES = (
    Diversion(Prefix.parse("10.0.0.2/32"), 7),
    Diversion(Prefix.parse("fd00::/64"), 9),
)


@pytest.mark.parametrize(
    ("packet", "diverted"),
    [
        (ipv4(protocol=UDP, payload=udp(7)), True),
        (ipv6(protocol=UDP, payload=udp(9)), True),
        (ipv4(protocol=UDP, payload=udp(7, b"")), True),
        (ipv4(protocol=UDP, payload=udp(9)), False),
        (ipv6(protocol=UDP, payload=udp(7)), False),
        (ipv4(destination="10.0.0.3", protocol=UDP, payload=udp(7)), False),
        (ipv4(protocol=TCP, payload=udp(7)), False),
        (ipv4(protocol=UDP, payload=udp(7)[:-1]), False),
        (ipv4(protocol=UDP, payload=udp(7)[:6]), False),
        (ipv4(protocol=UDP, payload=udp(7)[:-3], fragment=0x2000), False),
        (ipv4(protocol=UDP, payload=udp(7), fragment=1), False),
        (ipv4(protocol=UDP, payload=udp(7), fragment=0x2000), False),
        (ipv6(protocol=44, payload=FRAGMENT_FIRST + udp(9)), False),
        (HEADLESS, False),
    ],
)
def test_only_whole_datagrams_to_such_a_place_are_diverted(packet: bytes, diverted: bool) -> None:
    inner = parse_inner(packet)
    assert inner is not None
    assert is_diverted(PLACES, inner, packet) is diverted


def test_diverted_packets_are_events_and_bounded() -> None:
    ends = Ends()
    ends.tell(ends.bob, Divert(PLACES))
    control, other = (ipv4(protocol=UDP, payload=udp(port)) for port in (7, 8))
    for packet in (control, other):
        ends.alice.send_inner(packet, ends.now)
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == [other]
    assert InnerReceived(THEM, control) in ends.bob.take_events()

    for _ in range(300):
        ends.alice.send_inner(control, ends.now)
    ends.carry(ends.alice, ends.bob)
    diverted = [event for event in ends.bob.take_events() if isinstance(event, InnerReceived)]
    assert len(diverted) == MAX_DIVERTED_OF_ONE
    assert ends.bob.drops() == {DropReason.QUEUE_FULL: 300 - MAX_DIVERTED_OF_ONE}
    assert ends.bob.take_inner() == []


def test_an_inner_packet_that_is_sent_takes_the_way_of_all_others() -> None:
    ends = Ends()
    ends.tell(ends.alice, SendInner(SSH), SendInner(ipv4(destination="10.9.9.9")), SendInner(b""))
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == [SSH]
    assert ends.alice.drops() == {DropReason.NO_ROUTE: 1, DropReason.BAD_INNER: 1}


@given(
    st.sampled_from((b"\x45\0\0\x28", b"\x60\0\0\0\0\0\0\x40", b"\x60\0\0\0\0\x28\x2c\x40")),
    st.binary(min_size=40, max_size=120),
)
def test_no_packet_raises(head: bytes, tail: bytes) -> None:
    inner = parse_inner(head + tail)
    if inner is not None:
        packet = (head + tail)[: inner.length]
        flow_of(packet)
        PortFilter([ACCEPT_SSH, DROP_HIGH], otherwise=False).accepts(THEM, inner, packet, 0)
        is_diverted(PLACES, inner, packet)
        comes_from([Diversion(Prefix.parse("::/0"), 7)], inner, packet)
