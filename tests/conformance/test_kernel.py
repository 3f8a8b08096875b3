"""Every datapath on a real kernel: what it gives, takes, refuses, and does when it leaves."""

from __future__ import annotations

import asyncio
import errno
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nvpn.datapath.api import Datapath
from nvpn.datapath.commands import (
    CreatePeer,
    InsertPrefix,
    InstallKeypair,
    PeerId,
    Role,
    SetPeerEndpoint,
)
from nvpn.datapath.events import DeviceGone, Event
from nvpn.errors import DropReason
from nvpn.model.clock import boot_ns
from nvpn.model.endpoint import Endpoint
from nvpn.model.prefixes import Prefix, parse_address
from nvpn.overlay.linux import open_tun
from nvpn.transport.udp import open_udp
from tests.support.datapaths import SETUPS, Rig, Setup
from tests.support.own_namespace import in_new_namespace
from tests.support.segments import Flow
from tests.support.split_namespace import SplitNamespace, ip
from tests.support.way_out import OURS, THERE, WayOut, needs_segments, source_of, way_out

PEER = PeerId(1)

setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
families = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


def until(loop: asyncio.AbstractEventLoop, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
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


class Sending:
    """A datapath, and the real device that its datagrams leave by."""

    def __init__(self, out: WayOut, rig: Rig) -> None:
        self.out = out
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
        return self.out.left()

    @property
    def lost(self) -> int:
        return self.rig.datapath.drops().get(DropReason.SEND_FAILED, 0)


@contextmanager
def sending(setup: Setup, *, vnet_hdr: bool) -> Iterator[Sending]:
    with way_out(vnet_hdr=vnet_hdr) as out, Rig(setup) as rig:
        yield Sending(out, rig)


@needs_segments
@families
@setups
@in_new_namespace
def test_an_interface_without_checksum_offload_gets_every_datagram(
    setup: Setup, version: int
) -> None:
    with sending(setup, vnet_hdr=False) as host:
        host.meet(THERE[version])
        host.send(10, 1000)
        # Kernels before 6.11 answer EIO here, later ones sum up themselves.
        assert len(host.left()) == 10
        assert host.lost == 0


@needs_segments
@families
@setups
@in_new_namespace
def test_a_route_with_a_smaller_mtu_gets_every_datagram_in_fragments(
    setup: Setup, version: int
) -> None:
    with sending(setup, vnet_hdr=True) as host:
        host.out.narrow(version, 1300)
        used = host.rig.datapath.describe()
        host.meet(THERE[version])
        for _ in range(2):
            host.send(10, 1400)
            packets = host.left()
            assert len(packets) == 20
            assert all(len(packet) <= 1300 for packet in packets)
        assert host.rig.datapath.describe() == used, "others may be reached merged"
        assert host.lost == 0


@families
@pytest.mark.parametrize("count", [1, 10])
@setups
@in_new_namespace
def test_a_source_address_that_was_deleted_is_given_up(
    setup: Setup, version: int, count: int
) -> None:
    with sending(setup, vnet_hdr=True) as host:
        sticky = host.out.add_address(version)
        host.meet(THERE[version]._replace(source=sticky, learned_at=host.rig.now))

        host.send(1, 1000)
        assert list(map(source_of, host.left())) == [sticky.address]

        host.out.delete_address(version)
        for _ in range(2):
            host.send(count, 1000)
            assert set(map(source_of, host.left())) == {parse_address(OURS[version])}
        assert host.lost == 0


@setups
@in_new_namespace
def test_no_datagram_asks_not_to_be_fragmented(setup: Setup) -> None:
    with sending(setup, vnet_hdr=True) as host:
        host.meet(THERE[4])
        host.send(1, 1000)
        host.send(1, 9000)
        packets = host.left()
        assert len(packets) == 1 + 7
        assert not any(packet[6] & 0x40 for packet in packets)


@setups
@in_new_namespace
def test_a_route_that_is_missing_costs_the_datagrams_and_nothing_else(setup: Setup) -> None:
    with sending(setup, vnet_hdr=True) as host:
        used = host.rig.datapath.describe()
        host.meet(Endpoint.parse("198.51.100.1:1"))
        host.send(10, 1000)
        assert host.left() == []
        assert host.lost == 1 + 10
        assert host.rig.datapath.describe() == used
        host.rig.tell(SetPeerEndpoint(PEER, THERE[4]._replace(learned_at=host.rig.now)))
        host.send(1, 1000)
        assert len(host.left()) == 1
