"""The engine on a real TUN device: what the kernel gives, takes, and does when it leaves."""

from __future__ import annotations

import asyncio
import errno
import random
import select
import socket
import subprocess
import time
from collections.abc import Callable

import pytest
import uvloop

from nvpn.datapath.api import (
    CreatePeer,
    DeviceGone,
    Event,
    InsertPrefix,
    InstallKeypair,
    PeerId,
    Role,
    SetPeerEndpoint,
)
from nvpn.datapath.ports import NO_OFFLOADS, Offloads
from nvpn.datapath.python.engine import PythonDatapath
from nvpn.datapath.python.tun import TunPort
from nvpn.errors import DropReason
from nvpn.model.clock import boot_ns
from nvpn.model.endpoint import Endpoint
from nvpn.model.prefixes import Prefix
from nvpn.overlay.linux import open_tun
from nvpn.transport.udp import open_udp
from tests.support.cores import Ends
from tests.support.own_namespace import in_new_namespace
from tests.support.segments import Flow

loops = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
PEER = PeerId(1)


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)


def until(loop: asyncio.AbstractEventLoop, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        loop.call_later(0.005, loop.stop)
        loop.run_forever()


@loops
@in_new_namespace
def test_a_device_deleted_under_us_is_reported(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    loop, tun, events = new_loop(), open_tun("e4gone"), list[Event]()
    broken: list[object] = []
    loop.set_exception_handler(lambda _, context: broken.append(context))
    datapath = PythonDatapath(loop, tun, on_events=lambda: events.extend(datapath.take_events()))
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


@in_new_namespace
def test_a_device_that_is_down_loses_packets_and_nothing_else() -> None:
    tun, ends = open_tun("e4down"), Ends()
    port = TunPort(tun, ends.alice, tso=True, uso=True)
    port.write([Flow().packet()])
    assert ends.alice.drops() == {DropReason.TUN_WRITE_FAILED: 1}
    assert not port.gone
    tun.close()


@pytest.mark.parametrize("version", [4, 6])
@in_new_namespace
def test_the_kernel_takes_merged_packets_apart_again(version: int) -> None:
    tun, ends = open_tun("e4uso"), Ends()
    if not tun.uso:
        pytest.skip("this kernel takes no merged UDP")
    port = TunPort(tun, ends.alice, tso=True, uso=True)
    ip("address", "add", "10.0.0.2/24", "dev", "e4uso")
    ip("address", "add", "fd00::2/64", "dev", "e4uso", "nodad")
    ip("link", "set", "e4uso", "up")
    flow = Flow.of(version, 17)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as program:
        program.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        program.bind((flow.destination, flow.port))
        program.settimeout(5)
        data = random.Random(1).randbytes(1300 * 40 + 7)
        port.write(flow.segments(data, 1300))
        assert b"".join(program.recv(2000) for _ in range(41)) == data
    assert ends.alice.drops() == {}
    assert port.uso
    tun.close()


class Half:
    """One end of a tunnel on this machine: both share the namespace, one owns the device."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, offloads: Offloads, *, vnet_hdr: bool
    ) -> None:
        self.tun = open_tun(name, vnet_hdr=vnet_hdr)
        self.sockets = open_udp()
        self.datapath = PythonDatapath(loop, self.tun, self.sockets, offloads=offloads)
        self.datapath.on_events = self.datapath.take_events

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


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("offloads", "vnet_hdr"),
    [
        (Offloads(), True),
        (Offloads(batches=False), True),
        (Offloads(gso=False, gro=False), True),
        (NO_OFFLOADS, False),
    ],
    ids=["all", "no batches", "no merged datagrams", "none"],
)
@in_new_namespace
def test_tcp_of_a_real_stack_passes_unharmed(
    version: int, offloads: Offloads, vnet_hdr: bool
) -> None:
    """Both devices in one namespace: policy routing makes the packets take the tunnel."""
    loop = uvloop.new_event_loop()
    alice = Half(loop, "e4alice", offloads, vnet_hdr=vnet_hdr)
    bob = Half(loop, "e4bob", offloads, vnet_hdr=vnet_hdr)
    bob.meet(alice, Role.RESPONDER, "10.1.0.1/32", "fd01::1/128")
    alice.meet(bob, Role.INITIATOR, "10.2.0.2/32", "fd02::2/128")
    host = _split_namespace(version)
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
        assert bob.datapath.counters(PEER).rx_bytes == alice.datapath.counters(PEER).tx_bytes
        drops = {**alice.datapath.drops(), **bob.datapath.drops()}
        assert not {DropReason.BAD_TAG, DropReason.BAD_INNER, DropReason.SEND_FAILED} & set(drops)
    finally:
        alice.close()
        bob.close()
        loop.close()


class _split_namespace:  # noqa: N801 - reads as a step of the test
    """Addresses of two hosts in one namespace, whose packets to each other use the devices.

    The local table is asked after a rule that sends them into the tunnel, unless they
    have just come out of it.
    """

    def __init__(self, version: int) -> None:
        self.family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.addresses = ("10.1.0.1", "10.2.0.2") if version == 4 else ("fd01::1", "fd02::2")
        flag = f"-{version}"
        for name, address in zip(("e4alice", "e4bob"), self.addresses, strict=True):
            for key in ("accept_local", "rp_filter"):
                with open(f"/proc/sys/net/ipv4/conf/{name}/{key}", "w") as setting:
                    setting.write("1" if key == "accept_local" else "0")
            extra = ["nodad"] if version == 6 else []
            ip(flag, "address", "add", address, "dev", name, *extra)
            ip("link", "set", name, "mtu", "1420", "up")
        with open("/proc/sys/net/ipv4/conf/all/rp_filter", "w") as setting:
            setting.write("0")
        ip(flag, "rule", "add", "pref", "10", "iif", "e4alice", "lookup", "local")
        ip(flag, "rule", "add", "pref", "11", "iif", "e4bob", "lookup", "local")
        ip(flag, "rule", "add", "pref", "20", "to", self.addresses[1], "lookup", "100")
        ip(flag, "rule", "add", "pref", "21", "to", self.addresses[0], "lookup", "101")
        ip(flag, "route", "add", "default", "dev", "e4alice", "table", "100")
        ip(flag, "route", "add", "default", "dev", "e4bob", "table", "101")
        ip(flag, "rule", "delete", "pref", "0")
        ip(flag, "rule", "add", "pref", "30", "lookup", "local")

    def listen(self) -> socket.socket:
        listener = socket.socket(self.family, socket.SOCK_STREAM)
        listener.bind((self.addresses[1], 5555))
        listener.listen()
        return listener

    def connect(self) -> socket.socket:
        client = socket.socket(self.family, socket.SOCK_STREAM)
        client.setblocking(False)
        client.bind((self.addresses[0], 0))
        try:
            client.connect((self.addresses[1], 5555))
        except BlockingIOError:
            pass
        return client
