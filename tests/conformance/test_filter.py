"""What every datapath must do with rules for packets and with packets for ourselves."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from nvpn.datapath.checksum import complement, pseudo_sum, word_sum
from nvpn.datapath.commands import Diversion, Divert, InsertPrefix, Rule, SendInner, SetFilter
from nvpn.datapath.events import InnerReceived
from nvpn.errors import DropReason
from nvpn.model.prefixes import Prefix, parse_address
from tests.support.cores import ipv4, ipv6
from tests.support.datapaths import SETUPS, Rig
from tests.support.segments import Flow

UDP = 17


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig(request.param) as made:
        yield made


def udp(port: int, size: int = 600) -> bytes:
    """From correspondent 1 to the host, with the checksum that the kernel would make."""
    unsummed = struct.pack(">HHHH", 5000, port, 8 + size, 0) + bytes(size)
    addresses = parse_address("10.0.1.2") + parse_address("10.0.0.1")
    total = pseudo_sum(addresses, UDP, len(unsummed)) + word_sum(unsummed)
    datagram = unsummed[:6] + complement(total).to_bytes(2, "big") + unsummed[8:]
    return ipv4("10.0.1.2", "10.0.0.1", datagram, protocol=UDP)


def test_of_a_train_only_what_the_filter_lets_pass_arrives(rig: Rig) -> None:
    peer = rig.correspondent(1)
    peer.establish()
    rig.tell(SetFilter((Rule(accept=True, peer=peer.peer, destination_ports=(53, 53)),)))
    packets = [udp(port) for port in (53, 54, 53, 53, 99, 53)]
    peer.send_merged([peer.packet_from(packet) for packet in packets])
    assert rig.take(4) == [udp(53)] * 4
    assert rig.datapath.drops() == {DropReason.FILTERED: 2}

    rig.tell(SetFilter(None))
    peer.send_merged([peer.packet_from(packet) for packet in packets])
    assert rig.take(6) == packets


def test_of_a_train_what_is_ours_comes_up_and_the_rest_goes_on(rig: Rig) -> None:
    peer = rig.correspondent(1)
    peer.establish()
    rig.tell(Divert((Diversion(Prefix.parse("10.0.0.1/32"), 7),)))
    packets = [udp(port) for port in (6, 6, 7, 6, 6)]
    peer.send_merged([peer.packet_from(packet) for packet in packets])
    assert rig.take(4) == [udp(6)] * 4
    assert rig.take_event(InnerReceived) == InnerReceived(peer.peer, udp(7))

    rig.tell(Divert(()))
    peer.send(peer.packet_from(udp(7)))
    assert rig.take(1) == [udp(7)]
    assert rig.datapath.drops() == {}


def test_packets_of_ours_are_sent_like_those_of_the_host(rig: Rig) -> None:
    peer = rig.correspondent(1)
    peer.establish()
    rig.tell(InsertPrefix(peer.peer, Prefix.parse("fd00:1::/64")))
    packets = [ipv4("10.0.0.1", "10.0.1.2", b"x" * 90), ipv6("fd00::1", "fd00:1::9", b"y" * 41)]
    rig.tell(*map(SendInner, packets))
    plains = peer.take_plain(2)
    assert [plain[: len(packet)] for plain, packet in zip(plains, packets, strict=True)] == packets


def test_from_where_only_what_is_diverted_may_come_nothing_else_comes_and_goes(rig: Rig) -> None:
    peer, other = rig.correspondent(1), rig.correspondent(2)
    peer.establish()
    other.establish()
    rig.tell(Divert((Diversion(Prefix.parse("fd00::1/128"), 7),)))
    rig.tell(InsertPrefix(peer.peer, Prefix.parse("fe80::7/128"), diverted=True))
    control, stray = datagram6("fe80::7", 7), datagram6("fe80::7", 8)
    peer.send(peer.packet_from(stray))
    other.send(other.packet_from(control))  # it is another's address
    peer.send(peer.packet_from(control))
    assert rig.take_event(InnerReceived) == InnerReceived(peer.peer, control)
    assert rig.datapath.drops() == {DropReason.SOURCE_NOT_ALLOWED: 2}

    # The host does not reach it, and we do.
    back = ipv6("fd00::1", "fe80::7", b"z" * 40)
    rig.send(back)
    rig.settle()
    rig.tell(SendInner(back))
    (plain,) = peer.take_plain(1)
    assert plain[: len(back)] == back
    assert rig.datapath.drops()[DropReason.NO_ROUTE] == 1


def test_what_speaks_from_where_only_we_do_is_not_the_hosts_to_send(rig: Rig) -> None:
    peer = rig.correspondent(1)
    peer.establish()
    rig.tell(Divert((Diversion(Prefix.parse("fd00::1/128"), 7),)))

    def says(header: bytes, protocol: int, source: str = "fd00::1") -> bytes:
        payload = header + struct.pack(">HHHH", 7, 7, 8, 0)
        return ipv6(source, "fd00:1::2", payload, protocol=protocol)

    first, later = bytes([UDP, 0, 0, 1]) + bytes(4), bytes([UDP, 0, 1, 1]) + bytes(4)
    ours = says(b"", UDP)
    pretended = [
        ours,
        says(bytes([UDP, 0, 1, 4, 0, 0, 0, 0]), 60),
        says(first, 44),
        says(later, 44),
        says(bytes(8), 135),
    ]
    others = [says(b"", 6), says(b"", UDP, "fd00::2"), says(later, 44, "fd00::2")]
    others.append(Flow(6, UDP, "fd00::1", "fd00:1::2", 8, 7).packet(b"x"))
    for packet in (*pretended, *others):
        rig.send(packet)
    plains = sorted(peer.take_plain(len(others)))
    others.sort()
    assert [plain[: len(one)] for plain, one in zip(plains, others, strict=True)] == others
    dropped = len(pretended)
    if rig.tun.vnet_hdr:
        header, train = Flow(6, UDP, "fd00::1", "fd00:1::2", 7, 7).superpacket(bytes(5000), 1000)
        rig.send(train, header)
        dropped += 5
    rig.until(lambda: rig.datapath.drops() == {DropReason.NO_ROUTE: dropped}, "all are dropped")
    rig.tell(SendInner(ours))
    (plain,) = peer.take_plain(1)
    assert plain[: len(ours)] == ours


def datagram6(source: str, port: int) -> bytes:
    unsummed = struct.pack(">HHHH", 7, port, 16, 0) + b"12345678"
    addresses = parse_address(source) + parse_address("fd00::1")
    total = pseudo_sum(addresses, UDP, len(unsummed)) + word_sum(unsummed)
    summed = unsummed[:6] + complement(total).to_bytes(2, "big") + unsummed[8:]
    return ipv6(source, "fd00::1", summed, protocol=UDP)
