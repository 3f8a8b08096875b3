"""Sending into routes and interfaces that refuse, on a real kernel.

A TUN device of the test's own is the way out: what leaves can be read there.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nvpn.datapath.ancillary import SOL_UDP, UDP_SEGMENT
from nvpn.datapath.python.core import Outgoing
from nvpn.datapath.python.udp import UdpSender, borrow, give_back
from nvpn.errors import DropReason
from nvpn.model.endpoint import Endpoint, Source
from nvpn.model.prefixes import parse_address
from nvpn.overlay.api import Tun
from nvpn.overlay.linux import open_tun
from nvpn.transport.udp import open_udp
from tests.support.cores import START, THEM, Ends
from tests.support.own_namespace import in_new_namespace


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)


def _kernel_has_segments() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.getsockopt(SOL_UDP, UDP_SEGMENT)
        except OSError:
            return False
    return True


needs_segments = pytest.mark.skipif(
    not _kernel_has_segments(), reason="this kernel has no UDP_SEGMENT"
)


class WayOut:
    """Alice's sender, and the device that her datagrams leave by."""

    def __init__(self, device: Tun, ends: Ends, sender: UdpSender) -> None:
        self.device = device
        self.core = ends.alice
        self.sender = sender

    def send(self, count: int, size: int, to: Endpoint) -> None:
        self.sender.send([Outgoing(to, bytes([n]) * size, 0, THEM) for n in range(count)])

    def left(self) -> list[bytes]:
        """The IP packets that have left, headers of the device cut off."""
        packets = []
        while True:
            try:
                frame = os.read(self.device.fd, 70000)
            except BlockingIOError:
                return packets
            packet = frame[10:] if self.device.vnet_hdr else frame
            if packet[0] >> 4 == 6 and packet[6] != 17 and packet[6] != 44:
                continue  # the kernel looks for its neighbours
            packets.append(packet)

    @property
    def lost(self) -> int:
        return self.core.drops().get(DropReason.SEND_FAILED, 0)


@contextmanager
def way_out(*, vnet_hdr: bool) -> Iterator[WayOut]:
    device = open_tun("e4out", vnet_hdr=vnet_hdr)
    ip("address", "add", "10.6.0.1/24", "dev", "e4out")
    ip("address", "add", "fd06::1/64", "dev", "e4out", "nodad")
    ip("link", "set", "e4out", "mtu", "1500", "up")
    sockets = open_udp()
    borrowed = borrow(sockets, gro=False)
    ends = Ends()
    sender = UdpSender(ends.alice, lambda: START, gso=True, max_segments=64)
    sender.use(borrowed)
    try:
        yield WayOut(device, ends, sender)
    finally:
        give_back(borrowed.values())
        sockets.close()
        device.close()


THERE = {4: Endpoint.parse("10.6.0.2:51820"), 6: Endpoint.parse("[fd06::2]:51820")}


@needs_segments
@pytest.mark.parametrize("version", [4, 6])
@in_new_namespace
def test_an_interface_without_checksum_offload_gets_every_datagram(version: int) -> None:
    with way_out(vnet_hdr=False) as out:
        out.send(10, 1000, THERE[version])
        # Kernels before 6.11 answer EIO here, later ones sum up themselves.
        assert len(out.left()) == 10
        assert out.lost == 0


@needs_segments
@pytest.mark.parametrize("version", [4, 6])
@in_new_namespace
def test_a_route_with_a_smaller_mtu_gets_every_datagram_in_fragments(version: int) -> None:
    with way_out(vnet_hdr=True) as out:
        target = "10.6.0.2/32" if version == 4 else "fd06::2/128"
        ip(f"-{version}", "route", "add", target, "dev", "e4out", "mtu", "1300")
        out.send(10, 1400, THERE[version])
        packets = out.left()
        assert len(packets) == 20
        assert all(len(packet) <= 1300 for packet in packets)
        assert out.sender.gso, "others may be reached merged"
        assert not out.sender.may_merge(THERE[version])
        assert out.lost == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("count", [1, 10])
@in_new_namespace
def test_a_source_address_that_was_deleted_is_given_up(version: int, count: int) -> None:
    with way_out(vnet_hdr=True) as out:
        sticky = "10.6.0.77" if version == 4 else "fd06::77"
        mask, extra = ("24", []) if version == 4 else ("64", ["nodad"])
        ip("address", "add", f"{sticky}/{mask}", "dev", "e4out", *extra)
        there = THERE[version]._replace(
            source=Source(parse_address(sticky), socket.if_nametoindex("e4out"))
        )
        peer = out.core.peers[THEM]
        peer.set_endpoint(there._replace(learned_at=START))
        at = slice(12, 16) if version == 4 else slice(8, 24)

        out.send(1, 1000, there)
        assert [packet[at] for packet in out.left()] == [parse_address(sticky)]

        ip("address", "delete", f"{sticky}/{mask}", "dev", "e4out")
        out.send(count, 1000, there)
        packets = out.left()
        ours = parse_address("10.6.0.1" if version == 4 else "fd06::1")
        assert packets
        assert {packet[at] for packet in packets} == {ours}
        assert peer.endpoint is not None
        assert peer.endpoint.source is None
        assert out.lost == 0


@in_new_namespace
def test_no_datagram_asks_not_to_be_fragmented() -> None:
    with way_out(vnet_hdr=True) as out:
        out.send(1, 1000, THERE[4])
        out.send(1, 9000, THERE[4])
        packets = out.left()
        assert len(packets) == 1 + 7
        assert not any(packet[6] & 0x40 for packet in packets)


@in_new_namespace
def test_a_route_that_is_missing_costs_the_datagrams_and_nothing_else() -> None:
    with way_out(vnet_hdr=True) as out:
        out.send(10, 1000, Endpoint.parse("198.51.100.1:1"))
        assert out.lost == 10
        assert out.sender.gso
        out.send(1, 1000, THERE[4])
        assert len(out.left()) == 1
