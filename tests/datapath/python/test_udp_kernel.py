"""Sending into routes and interfaces that refuse, on a real kernel.

A TUN device of the test's own is the way out: what leaves can be read there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nvpn.datapath.python.core import Outgoing
from nvpn.datapath.python.udp import UdpSender, borrow, give_back
from nvpn.errors import DropReason
from nvpn.model.endpoint import Endpoint
from nvpn.model.prefixes import parse_address
from nvpn.transport.udp import open_udp
from tests.support.cores import START, THEM, Ends
from tests.support.own_namespace import in_new_namespace
from tests.support.way_out import OURS, THERE, WayOut, needs_segments, source_of, way_out


class Sending:
    """Alice's sender, and the device that her datagrams leave by."""

    def __init__(self, out: WayOut, ends: Ends, sender: UdpSender) -> None:
        self.out = out
        self.left = out.left
        self.core = ends.alice
        self.sender = sender

    def send(self, count: int, size: int, to: Endpoint) -> None:
        self.sender.send([Outgoing(to, bytes([n]) * size, 0, THEM) for n in range(count)])

    @property
    def lost(self) -> int:
        return self.core.drops().get(DropReason.SEND_FAILED, 0)


@contextmanager
def sending(*, vnet_hdr: bool) -> Iterator[Sending]:
    sockets = open_udp()
    borrowed = borrow(sockets, gro=False)
    ends = Ends()
    sender = UdpSender(ends.alice, lambda: START, gso=True, max_segments=64)
    sender.use(borrowed)
    try:
        with way_out(vnet_hdr=vnet_hdr) as out:
            yield Sending(out, ends, sender)
    finally:
        give_back(borrowed.values())
        sockets.close()


@needs_segments
@pytest.mark.parametrize("version", [4, 6])
@in_new_namespace
def test_an_interface_without_checksum_offload_gets_every_datagram(version: int) -> None:
    with sending(vnet_hdr=False) as alice:
        alice.send(10, 1000, THERE[version])
        # Kernels before 6.11 answer EIO here, later ones sum up themselves.
        assert len(alice.left()) == 10
        assert alice.lost == 0


@needs_segments
@pytest.mark.parametrize("version", [4, 6])
@in_new_namespace
def test_a_route_with_a_smaller_mtu_gets_every_datagram_in_fragments(version: int) -> None:
    with sending(vnet_hdr=True) as alice:
        alice.out.narrow(version, 1300)
        alice.send(10, 1400, THERE[version])
        packets = alice.left()
        assert len(packets) == 20
        assert all(len(packet) <= 1300 for packet in packets)
        assert alice.sender.gso, "others may be reached merged"
        assert not alice.sender.may_merge(THERE[version])
        assert alice.lost == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("count", [1, 10])
@in_new_namespace
def test_a_source_address_that_was_deleted_is_given_up(version: int, count: int) -> None:
    with sending(vnet_hdr=True) as alice:
        sticky = alice.out.add_address(version)
        there = THERE[version]._replace(source=sticky)
        peer = alice.core.peers[THEM]
        peer.set_endpoint(there._replace(learned_at=START))

        alice.send(1, 1000, there)
        assert list(map(source_of, alice.left())) == [sticky.address]

        alice.out.delete_address(version)
        alice.send(count, 1000, there)
        packets = alice.left()
        assert packets
        assert set(map(source_of, packets)) == {parse_address(OURS[version])}
        assert peer.endpoint is not None
        assert peer.endpoint.source is None
        assert alice.lost == 0


@in_new_namespace
def test_no_datagram_asks_not_to_be_fragmented() -> None:
    with sending(vnet_hdr=True) as alice:
        alice.send(1, 1000, THERE[4])
        alice.send(1, 9000, THERE[4])
        packets = alice.left()
        assert len(packets) == 1 + 7
        assert not any(packet[6] & 0x40 for packet in packets)


@in_new_namespace
def test_a_route_that_is_missing_costs_the_datagrams_and_nothing_else() -> None:
    with sending(vnet_hdr=True) as alice:
        alice.send(10, 1000, Endpoint.parse("198.51.100.1:1"))
        assert alice.lost == 10
        assert alice.sender.gso
        alice.send(1, 1000, THERE[4])
        assert len(alice.left()) == 1
