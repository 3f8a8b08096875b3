"""Sending when the kernel refuses: what is tried instead, and what is given up."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from nvpn.datapath.ancillary import (
    IP_PKTINFO,
    IPV6_PKTINFO,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    parse_control,
)
from nvpn.datapath.python.core import Outgoing
from nvpn.datapath.python.udp import (
    UdpReceiver,
    UdpSender,
    borrow,
    give_back,
)
from nvpn.datapath.segments import probe_max_segments
from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint, Source
from nvpn.transport.udp import open_udp
from tests.support.cores import START, THEM, Ends

HERE = Source(bytes([192, 0, 2, 9]), 3)
HERE6 = Source(bytes(15) + b"\x09", 3)
THERE = Endpoint.parse("192.0.2.1:51820")
THERE6 = Endpoint.parse("[2001:db8::1]:51820")


class Kernel:
    """A socket whose refusals are scripted: ``refuse(segmented, sticky, size)`` gives an errno."""

    def __init__(self, refuse: Callable[[bool, bool, int], int] = lambda *_: 0) -> None:
        self.refuse = refuse
        self.sent: list[tuple[bytes, int, bool, tuple[Any, ...]]] = []
        self.calls = 0

    def sendmsg(
        self, pieces: list[bytes], control: list[Any], flags: int, sockaddr: tuple[Any, ...]
    ) -> int:
        self.calls += 1
        whole = b"".join(pieces)
        segment = 0
        for level, kind, data in control:
            if (level, kind) == (SOL_UDP, UDP_SEGMENT):
                (segment,) = struct.unpack("=H", data)
        sticky = any(kind in (IP_PKTINFO, IPV6_PKTINFO) for _, kind, _ in control)
        code = self.refuse(bool(segment), sticky, segment or len(whole))
        if code:
            raise OSError(code, os.strerror(code))
        self.sent.append((whole, segment, sticky, sockaddr))
        return len(whole)

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (SOL_UDP, UDP_SEGMENT)
        return 0


class Bench:
    """A sender on a scripted kernel; its clock is the test's."""

    def __init__(
        self, refuse: Callable[[bool, bool, int], int] = lambda *_: 0, *, gso: bool = True
    ) -> None:
        self.ends = Ends()
        self.core = self.ends.alice
        self.now = START
        self.kernel = Kernel(refuse)
        self.kernel6 = Kernel(refuse)
        self.sender = UdpSender(self.core, lambda: self.now, gso=gso, max_segments=64)
        self.sender.use({4: self.kernel, 6: self.kernel6})  # type: ignore[dict-item]

    def send(self, sizes: list[int], to: Endpoint = THERE) -> list[bytes]:
        """Send datagrams of these sizes; returns what the kernel took, one by one."""
        self.kernel.sent.clear()
        self.kernel6.sent.clear()
        self.sender.send(
            [Outgoing(to, bytes([i]) * size, 0, THEM) for i, size in enumerate(sizes)]
        )
        return [
            whole[at : at + (segment or len(whole))]
            for whole, segment, _, _ in (*self.kernel.sent, *self.kernel6.sent)
            for at in range(0, len(whole), segment or len(whole))
        ]

    @property
    def lost(self) -> int:
        return self.core.drops().get(DropReason.SEND_FAILED, 0)


def expected(sizes: list[int]) -> list[bytes]:
    return [bytes([i]) * size for i, size in enumerate(sizes)]


# --- grouping -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "calls"),
    [
        ([100], 1),
        ([100] * 10, 1),
        ([100] * 9 + [50], 1),
        ([100, 50, 100], 2),
        ([100, 100, 50, 50, 50], 2),
        ([50, 100, 100], 2),
        ([100] * 65, 2),
        ([1452] * 46, 2),
        ([32] * 64, 1),
    ],
)
def test_datagrams_of_one_size_leave_together(sizes: list[int], calls: int) -> None:
    bench = Bench()
    assert bench.send(sizes) == expected(sizes)
    assert bench.kernel.calls == calls


def test_without_merged_sends_each_datagram_leaves_alone() -> None:
    bench = Bench(gso=False)
    assert bench.send([100] * 10) == expected([100] * 10)
    assert bench.kernel.calls == 10


def test_datagrams_to_many_peers_are_grouped_by_peer_and_keep_each_ones_order() -> None:
    bench = Bench()
    outgoing = [Outgoing(THERE if i % 2 else THERE6, bytes([i]) * 100, 0, THEM) for i in range(20)]
    bench.sender.send(outgoing)
    assert (bench.kernel.calls, bench.kernel6.calls) == (1, 1)
    assert bench.kernel.sent[0][0] == b"".join(o.datagram for o in outgoing[1::2])
    assert bench.kernel6.sent[0][0] == b"".join(o.datagram for o in outgoing[0::2])


def test_datagrams_with_other_marks_do_not_share_a_send() -> None:
    bench = Bench()
    bench.sender.send([Outgoing(THERE, b"x" * 100, tos, THEM) for tos in (0, 0, 0x88, 0)])
    assert bench.kernel.calls == 3


# --- refusals -------------------------------------------------------------------------


def test_an_interface_without_checksum_offload_ends_merged_sends_and_loses_nothing() -> None:
    bench = Bench(lambda segmented, sticky, size: errno.EIO if segmented else 0)
    assert bench.send([100] * 10) == expected([100] * 10)
    assert not bench.sender.gso
    calls = bench.kernel.calls
    assert bench.send([100] * 10) == expected([100] * 10)
    assert bench.kernel.calls == calls + 10
    assert bench.lost == 0


def test_an_endpoint_that_is_invalid_itself_does_not_end_merged_sends() -> None:
    bench = Bench(lambda segmented, sticky, size: errno.EINVAL)
    assert bench.send([100] * 10) == []
    assert bench.sender.gso
    assert bench.lost == 10


# The second is what kernels from before 2025 say.
@pytest.mark.parametrize("code", [errno.EMSGSIZE, errno.EINVAL])
def test_a_smaller_mtu_on_the_way_is_met_one_by_one_for_that_peer_and_for_a_while(
    code: int,
) -> None:
    narrow = {"is": True}
    bench = Bench(
        lambda segmented, sticky, size: code if segmented and size > 1300 and narrow["is"] else 0
    )
    assert bench.send([1452] * 10) == expected([1452] * 10)
    assert bench.kernel.calls == 11
    assert bench.sender.gso
    assert bench.send([1452] * 10) == expected([1452] * 10)
    assert bench.kernel.calls == 21
    # Another peer is not concerned.
    bench.send([1000] * 10, THERE6)
    assert bench.kernel6.calls == 1

    narrow["is"] = False
    bench.now += 60 * SECOND
    assert bench.send([1452] * 10) == expected([1452] * 10)
    assert bench.kernel.calls == 22
    assert bench.lost == 0


def test_a_peer_that_roams_for_ever_fills_no_memory() -> None:
    bench = Bench(lambda segmented, sticky, size: errno.EMSGSIZE if segmented else 0)
    for port in range(1, 10_001):
        bench.send([1452] * 2, THERE._replace(port=port))
    assert len(bench.sender._singles_until) <= 4096
    assert len(bench.sender._paths) <= 4096
    assert bench.lost == 0


def test_a_new_address_of_the_peer_is_tried_merged_at_once() -> None:
    bench = Bench(
        lambda segmented, sticky, size: errno.EMSGSIZE if segmented and size > 1300 else 0
    )
    bench.send([1452] * 10)
    calls = bench.kernel.calls
    bench.kernel.refuse = lambda *_: 0
    bench.send([1452] * 10, Endpoint.parse("192.0.2.2:51820"))
    assert bench.kernel.calls == calls + 1


@pytest.mark.parametrize(
    ("there", "here", "code"),
    [
        (THERE, HERE, errno.ENETUNREACH),
        (THERE, HERE, errno.EADDRNOTAVAIL),
        (THERE, HERE, errno.EPERM),
        (THERE6, HERE6, errno.EINVAL),
    ],
)
def test_a_source_address_that_vanished_is_given_up_and_nothing_is_lost(
    there: Endpoint, here: Source, code: int
) -> None:
    bench = Bench(lambda segmented, sticky, size: code if sticky else 0)
    peer = bench.core.peers[THEM]
    sticky = there._replace(source=here, learned_at=START)
    peer.set_endpoint(sticky)
    assert bench.send([100] * 10, sticky) == expected([100] * 10)
    assert peer.endpoint is not None
    assert peer.endpoint.source is None
    assert bench.sender.gso
    assert bench.lost == 0


@pytest.mark.parametrize(
    "code",
    [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EACCES, errno.ENETUNREACH,
     errno.EHOSTUNREACH, errno.EINVAL, errno.ENETDOWN, errno.EBADF, errno.EPIPE],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 10])
def test_what_cannot_be_sent_is_counted_and_forgotten(code: int, count: int) -> None:
    bench = Bench(lambda segmented, sticky, size: code)
    assert bench.send([100] * count) == []
    assert bench.lost == count
    assert bench.sender.gso
    bench.kernel.refuse = lambda *_: 0
    assert bench.send([100] * count) == expected([100] * count)


def test_a_report_about_an_earlier_datagram_does_not_lose_this_one() -> None:
    reports = [errno.ECONNREFUSED]
    bench = Bench(lambda segmented, sticky, size: reports.pop() if reports else 0)
    assert bench.send([100] * 3) == expected([100] * 3)
    assert bench.lost == 0


def test_a_family_that_is_off_is_counted() -> None:
    bench = Bench()
    bench.sender.use({4: bench.kernel})  # type: ignore[dict-item]
    bench.send([100] * 3, THERE6)
    assert bench.lost == 3


def test_a_path_that_is_not_udp_is_counted() -> None:
    bench = Bench()
    bench.send([100], THERE._replace(path=7))
    assert bench.lost == 1


# --- the real kernel ------------------------------------------------------------------


def test_the_probe_finds_one_of_the_two_limits_there_are() -> None:
    assert probe_max_segments() in (64, 128)


@pytest.mark.parametrize("gro", [False, True])
def test_every_size_of_datagram_is_received(gro: bool) -> None:
    ours, theirs = open_udp(), open_udp()
    sender, receiver = borrow(ours, gro=False), borrow(theirs, gro=gro)
    buffer = bytearray(1 << 16)
    inbound = UdpReceiver(receiver[4], buffer)
    try:
        for size in (0, 1, 31, 32, 33, 1452, 9000, 65506, 65507):
            sender[4].sendto(b"z" * size, ("127.0.0.1", theirs.port))
            arrival = inbound.receive()
            assert arrival is not None
            assert (arrival.size, arrival.segment) == (size, size)
            assert buffer[:size] == b"z" * size
            assert arrival.endpoint.address == bytes([127, 0, 0, 1])
            assert arrival.endpoint.port == ours.port
            assert arrival.endpoint.source is not None
            assert arrival.endpoint.source.address == bytes([127, 0, 0, 1])
        assert inbound.receive() is None
    finally:
        give_back([*sender.values(), *receiver.values()])
        ours.close()
        theirs.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_every_read_tells_its_own_source_whoever_came_before() -> None:
    """With merged datagrams, two families and several addresses mixed."""
    ours, theirs = open_udp(), open_udp()
    sender, receiver = borrow(ours, gro=False), borrow(theirs, gro=True)
    if 6 not in sender:
        pytest.skip("this machine has no IPv6")
    buffer = bytearray(1 << 16)
    inbound = {version: UdpReceiver(one, buffer) for version, one in receiver.items()}
    try:
        for version, target in [(4, "127.0.0.1"), (6, "::1"), (4, "127.0.0.2"), (6, "::1"),
                                (4, "127.0.0.3"), (4, "127.0.0.1")]:  # fmt: skip
            segments = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", 100))]
            sender[version].sendmsg([b"m" * 250], segments, 0, (target, theirs.port))
            arrival = inbound[version].receive()
            assert arrival is not None
            assert arrival.size == 250
            source = arrival.endpoint.source
            assert source is not None
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            assert source.address == socket.inet_pton(family, target)
            assert arrival.endpoint.version == version
    finally:
        give_back([*sender.values(), *receiver.values()])
        ours.close()
        theirs.close()


def test_merging_of_what_arrives_can_be_switched_off() -> None:
    sockets = open_udp()
    borrowed = borrow(sockets, gro=False)
    try:
        for one in borrowed.values():
            assert one.getsockopt(SOL_UDP, UDP_GRO) == 0
    finally:
        give_back(borrowed.values())
        sockets.close()


def test_borrowed_sockets_are_given_back_open() -> None:
    sockets = open_udp()
    give_back(borrow(sockets, gro=True).values())
    os.fstat(sockets.ipv4)
    sockets.close()


def test_control_messages_of_an_unknown_kind_are_no_segments() -> None:
    assert parse_control([(SOL_UDP, UDP_GRO, b"\xff\xff\xff\xff")]).segment == 0
