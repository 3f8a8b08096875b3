"""Every datapath on a real kernel: what it gives, takes, refuses, and does when it leaves."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nvpn.datapath.ancillary import SOL_UDP, UDP_SEGMENT
from nvpn.datapath.api import (
    CreatePeer,
    Datapath,
    DeviceGone,
    Event,
    InsertPrefix,
    InstallKeypair,
    PeerId,
    Role,
    SetPeerEndpoint,
)
from nvpn.errors import DropReason
from nvpn.model.clock import boot_ns
from nvpn.model.endpoint import Endpoint, Source
from nvpn.model.prefixes import Prefix, parse_address
from nvpn.overlay.api import Tun
from nvpn.overlay.linux import open_tun
from nvpn.transport.udp import open_udp
from tests.support.datapaths import SETUPS, Rig, Setup
from tests.support.own_namespace import in_new_namespace
from tests.support.segments import Flow
from tests.support.split_namespace import SplitNamespace, ip

PEER = PeerId(1)

setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
families = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


def until(loop: asyncio.AbstractEventLoop, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        loop.call_later(0.005, loop.stop)
        loop.run_forever()


# --- the overlay device -----------------------------------------------------------------


@setups
@in_new_namespace
def test_a_device_deleted_under_us_is_reported(setup: Setup) -> None:
    loop, tun, events = setup.new_loop(), open_tun("e4gone", queues=setup.queues), list[Event]()
    broken: list[object] = []
    loop.set_exception_handler(lambda _, context: broken.append(context))
    datapath = setup.make(loop, tun, None, None, lambda: events.extend(datapath.take_events()))
    ip("link", "set", "e4gone", "up")
    until(loop, lambda: True)
    ip("link", "delete", "e4gone")
    until(loop, lambda: bool(events))
    assert [type(event) for event in events] == [DeviceGone]
    busy = time.process_time()
    loop.call_later(0.1, loop.stop)
    loop.run_forever()
    assert time.process_time() - busy < 0.09, "nobody spins on what is gone"
    datapath.close()
    tun.close()
    loop.close()
    assert broken == []


class Half:
    """One end of a tunnel on this machine: both share the namespace, one owns the device."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, setup: Setup) -> None:
        self.tun = open_tun(name, vnet_hdr=setup.vnet_hdr, queues=setup.queues)
        self.sockets = open_udp()
        self.datapath: Datapath = setup.make(
            loop, self.tun, self.sockets, None, lambda: self.datapath.take_events()
        )

    def meet(self, other: Half, role: Role, *prefixes: str) -> None:
        keys = [bytearray([n]) * 32 for n in ((1, 2) if role is Role.INITIATOR else (2, 1))]
        ours, theirs = (1, 2) if role is Role.INITIATOR else (2, 1)
        self.datapath.apply(
            [
                CreatePeer(PEER),
                SetPeerEndpoint(PEER, Endpoint(bytes([127, 0, 0, 1]), other.sockets.port)),
                *(InsertPrefix(PEER, Prefix.parse(prefix)) for prefix in prefixes),
                InstallKeypair(PEER, role, ours, theirs, *keys, boot_ns()),
            ]
        )

    def close(self) -> None:
        self.datapath.close()
        self.tun.close()
        self.sockets.close()


@families
@setups
@in_new_namespace
def test_tcp_of_a_real_stack_passes_unharmed(setup: Setup, version: int) -> None:
    """Both devices in one namespace: policy routing makes the packets take the tunnel."""
    loop = setup.new_loop()
    alice, bob = Half(loop, "e4alice", setup), Half(loop, "e4bob", setup)
    bob.meet(alice, Role.RESPONDER, "10.1.0.1/32", "fd01::1/128")
    alice.meet(bob, Role.INITIATOR, "10.2.0.2/32", "fd02::2/128")
    host = SplitNamespace(version)
    data = random.Random(1).randbytes(3_000_000)
    try:
        with host.listen() as listener, host.connect() as client:
            sent, received = 0, bytearray()
            server: socket.socket | None = None

            def pump() -> bool:
                nonlocal sent, server
                if server is None and select.select([listener], [], [], 0)[0]:
                    server, _ = listener.accept()
                    server.setblocking(False)
                try:
                    sent += client.send(data[sent : sent + 200_000]) if sent < len(data) else 0
                except (BlockingIOError, OSError) as error:
                    assert error.errno in (
                        errno.EAGAIN,
                        errno.EINPROGRESS,
                        errno.ENOTCONN,
                        errno.EPIPE,
                    )
                try:
                    while server is not None:
                        received.extend(server.recv(1 << 20))
                except BlockingIOError:
                    pass
                return len(received) >= len(data)

            until(loop, pump)
            assert received == data
            if server is not None:
                server.close()
        assert alice.datapath.counters(PEER).tx_bytes > len(data)
        # What closes the connection may still be under way.
        sent_and_received = (alice.datapath, "tx_bytes"), (bob.datapath, "rx_bytes")
        until(
            loop,
            lambda: len({getattr(one.counters(PEER), n) for one, n in sent_and_received}) == 1,
        )
        drops = {**alice.datapath.drops(), **bob.datapath.drops()}
        assert not {DropReason.BAD_TAG, DropReason.BAD_INNER, DropReason.SEND_FAILED} & set(drops)
    finally:
        alice.close()
        bob.close()
        loop.close()


# --- sending --------------------------------------------------------------------------


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
THERE = {4: Endpoint.parse("10.6.0.2:51820"), 6: Endpoint.parse("[fd06::2]:51820")}


class WayOut:
    """A datapath, and the real device that its datagrams leave by."""

    def __init__(self, device: Tun, rig: Rig) -> None:
        self.device = device
        self.rig = rig

    def meet(self, endpoint: Endpoint) -> None:
        """Have a session with a peer that is there, and see its first keepalive leave."""
        keys = bytearray(b"k" * 32), bytearray(b"l" * 32)
        self.rig.tell(
            CreatePeer(PEER),
            SetPeerEndpoint(PEER, endpoint),
            InsertPrefix(PEER, Prefix.parse("10.0.0.0/24")),
            InstallKeypair(PEER, Role.INITIATOR, 1, 2, *keys, self.rig.now),
        )
        self.left()

    def send(self, count: int, size: int) -> None:
        """The host sends, in one superpacket if its device has such."""
        flow = Flow.of(4, 17)
        data = bytes(count * (size - flow.head_size))
        if self.rig.tun.vnet_hdr and count > 1:
            header, packet = flow.superpacket(data, size - flow.head_size)
            self.rig.send(packet, header)
        else:
            for packet in flow.segments(data, size - flow.head_size):
                self.rig.send(packet)

    def left(self) -> list[bytes]:
        """The IP packets that have left, headers of the device cut off."""
        self.rig.settle()
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
        return self.rig.datapath.drops().get(DropReason.SEND_FAILED, 0)


@contextmanager
def way_out(setup: Setup, *, vnet_hdr: bool) -> Iterator[WayOut]:
    device = open_tun("e4out", vnet_hdr=vnet_hdr)
    ip("address", "add", "10.6.0.1/24", "dev", "e4out")
    ip("address", "add", "fd06::1/64", "dev", "e4out", "nodad")
    ip("link", "set", "e4out", "mtu", "1500", "up")
    try:
        with Rig(setup) as rig:
            yield WayOut(device, rig)
    finally:
        device.close()


@needs_segments
@families
@setups
@in_new_namespace
def test_an_interface_without_checksum_offload_gets_every_datagram(
    setup: Setup, version: int
) -> None:
    with way_out(setup, vnet_hdr=False) as out:
        out.meet(THERE[version])
        out.send(10, 1000)
        # Kernels before 6.11 answer EIO here, later ones sum up themselves.
        assert len(out.left()) == 10
        assert out.lost == 0


@needs_segments
@families
@setups
@in_new_namespace
def test_a_route_with_a_smaller_mtu_gets_every_datagram_in_fragments(
    setup: Setup, version: int
) -> None:
    with way_out(setup, vnet_hdr=True) as out:
        target = "10.6.0.2/32" if version == 4 else "fd06::2/128"
        ip(f"-{version}", "route", "add", target, "dev", "e4out", "mtu", "1300")
        used = out.rig.datapath.describe()
        out.meet(THERE[version])
        for _ in range(2):
            out.send(10, 1400)
            packets = out.left()
            assert len(packets) == 20
            assert all(len(packet) <= 1300 for packet in packets)
        assert out.rig.datapath.describe() == used, "others may be reached merged"
        assert out.lost == 0


@families
@pytest.mark.parametrize("count", [1, 10])
@setups
@in_new_namespace
def test_a_source_address_that_was_deleted_is_given_up(
    setup: Setup, version: int, count: int
) -> None:
    with way_out(setup, vnet_hdr=True) as out:
        sticky = "10.6.0.77" if version == 4 else "fd06::77"
        mask, extra = ("24", []) if version == 4 else ("64", ["nodad"])
        ip("address", "add", f"{sticky}/{mask}", "dev", "e4out", *extra)
        source = Source(parse_address(sticky), socket.if_nametoindex("e4out"))
        at = slice(12, 16) if version == 4 else slice(8, 24)
        out.meet(THERE[version]._replace(source=source, learned_at=out.rig.now))

        out.send(1, 1000)
        assert [packet[at] for packet in out.left()] == [parse_address(sticky)]

        ip("address", "delete", f"{sticky}/{mask}", "dev", "e4out")
        for _ in range(2):
            out.send(count, 1000)
            sources = {packet[at] for packet in out.left()}
            assert sources == {parse_address("10.6.0.1" if version == 4 else "fd06::1")}
        assert out.lost == 0


@setups
@in_new_namespace
def test_no_datagram_asks_not_to_be_fragmented(setup: Setup) -> None:
    with way_out(setup, vnet_hdr=True) as out:
        out.meet(THERE[4])
        out.send(1, 1000)
        out.send(1, 9000)
        packets = out.left()
        assert len(packets) == 1 + 7
        assert not any(packet[6] & 0x40 for packet in packets)


@setups
@in_new_namespace
def test_a_route_that_is_missing_costs_the_datagrams_and_nothing_else(setup: Setup) -> None:
    with way_out(setup, vnet_hdr=True) as out:
        used = out.rig.datapath.describe()
        out.meet(Endpoint.parse("198.51.100.1:1"))
        out.send(10, 1000)
        assert out.left() == []
        assert out.lost == 1 + 10
        assert out.rig.datapath.describe() == used
        out.rig.tell(SetPeerEndpoint(PEER, THERE[4]._replace(learned_at=out.rig.now)))
        out.send(1, 1000)
        assert len(out.left()) == 1
