from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import subprocess

import pytest

from nvpn.datapath.ancillary import CONTROL_BYTES, build_control, parse_control
from nvpn.errors import PlatformError
from nvpn.model.endpoint import Endpoint, Source
from nvpn.transport.udp import UdpSockets, has_way, open_udp, set_fwmark
from tests.support.own_namespace import in_new_namespace


def _borrow(fd: int) -> socket.socket:
    return socket.socket(fileno=os.dup(fd))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
def test_both_families_share_a_port_that_the_kernel_chose() -> None:
    sockets = open_udp()
    try:
        ports = set()
        for fd in (sockets.ipv4, sockets.ipv6):
            with _borrow(fd) as bound:
                ports.add(bound.getsockname()[1])
            assert not os.get_blocking(fd)
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert ports == {sockets.port}
    finally:
        sockets.close()


@needs_ipv6
def test_a_port_taken_in_one_family_only_is_passed_over_when_any_will_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = socket.socket
    taken: list[socket.socket] = []

    class Robbed(socket.socket):
        """Loses the first port that IPv4 gets to somebody else's IPv6 socket."""

        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]
            if self.family == socket.AF_INET and not taken:
                thief = plain(socket.AF_INET6, socket.SOCK_DGRAM)
                thief.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                thief.bind(("::", self.getsockname()[1]))
                taken.append(thief)

    monkeypatch.setattr(socket, "socket", Robbed)
    sockets = open_udp()
    try:
        assert sockets.port != taken[0].getsockname()[1]
        assert sockets.ipv4 >= 0 and sockets.ipv6 >= 0
    finally:
        sockets.close()
        taken[0].close()


def test_a_given_port_that_is_taken_is_explained() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        with pytest.raises(PlatformError, match=f"cannot bind UDP port {port}") as caught:
            open_udp(port)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_marks_of_all_32_bits_are_set_and_changed() -> None:
    sockets = open_udp(fwmark=0xFFFFFFFE)
    try:
        assert _marks(sockets) == {0xFFFFFFFE}
        set_fwmark(sockets, 51820)
        assert _marks(sockets) == {51820}
    finally:
        sockets.close()


def _marks(sockets: UdpSockets) -> set[int]:
    marks = set()
    for fd in (sockets.ipv4, sockets.ipv6):
        if fd >= 0:
            with _borrow(fd) as bound:
                marks.add(bound.getsockopt(socket.SOL_SOCKET, 36) & 0xFFFFFFFF)
    return marks


@pytest.mark.parametrize(
    ("version", "host"),
    [(4, "127.0.0.1"), (4, "127.0.0.77"), pytest.param(6, "::1", marks=needs_ipv6)],
)
def test_what_is_sent_beside_a_datagram_is_received(version: int, host: str) -> None:
    ours, theirs = open_udp(), open_udp()
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = socket.inet_pton(family, host)
    sender = _borrow(ours.ipv4 if version == 4 else ours.ipv6)
    receiver = _borrow(theirs.ipv4 if version == 4 else theirs.ipv6)
    target = "127.0.0.2" if version == 4 else "::1"
    try:
        control = build_control(version, source=Source(address), tos=0x8A)
        sender.sendmsg([b"x" * 40], control, 0, (target, theirs.port))
        select.select([receiver], [], [], 5)
        data, messages, _, peer = receiver.recvmsg(100, CONTROL_BYTES)
        received = parse_control(messages)
        assert data == b"x" * 40
        assert peer[0] == host
        assert received.source is not None
        assert received.source.address == socket.inet_pton(family, target)
        assert received.source.interface == socket.if_nametoindex("lo")
        assert (received.tos, received.segment) == (0x8A, 0)
    finally:
        for bound in (sender, receiver):
            bound.close()
        ours.close()
        theirs.close()


@pytest.mark.parametrize("version", [4, pytest.param(6, marks=needs_ipv6)])
def test_a_segmented_send_arrives_merged_with_its_segment_size(version: int) -> None:
    ours, theirs = open_udp(), open_udp()
    sender = _borrow(ours.ipv4 if version == 4 else ours.ipv6)
    receiver = _borrow(theirs.ipv4 if version == 4 else theirs.ipv6)
    try:
        try:
            sender.sendmsg(
                [bytes(1000) * 7 + bytes(10)],
                build_control(version, segment=1000),
                0,
                ("127.0.0.1" if version == 4 else "::1", theirs.port),
            )
        except OSError as error:
            pytest.skip(f"this kernel has no UDP_SEGMENT: {error}")
        select.select([receiver], [], [], 5)
        data, messages, _, _ = receiver.recvmsg(65535, CONTROL_BYTES)
        segment = parse_control(messages).segment
        if not segment:
            pytest.skip("this kernel has no UDP_GRO")
        assert (len(data), segment) == (7010, 1000)
    finally:
        for bound in (sender, receiver):
            bound.close()
        ours.close()
        theirs.close()


def test_a_source_of_the_other_family_is_left_out() -> None:
    assert build_control(4, source=Source(bytes(16))) == []
    assert build_control(6, source=Source(bytes(4))) == []


def test_only_a_link_local_source_names_its_interface() -> None:
    link_local = build_control(6, source=Source(b"\xfe\x80" + bytes(14), 7))[0][2]
    routed = build_control(6, source=Source(b"\x20\x01" + bytes(14), 7))[0][2]
    assert link_local[16:] != bytes(4)
    assert routed[16:] == bytes(4)


def test_short_and_unknown_control_messages_are_passed_over() -> None:
    junk = [
        (level, kind, data)
        for level in (0, 1, 17, 41)
        for kind in range(110)
        for data in (b"", b"x")
    ]
    received = parse_control(junk)
    assert received.source is None
    assert received.segment == 0


@in_new_namespace
def test_only_where_a_route_leads_there_is_a_way() -> None:
    assert has_way(Endpoint.parse("127.0.0.1:7"))
    assert not has_way(Endpoint.parse("192.0.2.1:7"))
    assert not has_way(Endpoint.parse("[2001:db8::1]:7"))
    subprocess.run(["ip", "route", "add", "192.0.2.0/24", "dev", "lo", "table", "7"], check=True)
    subprocess.run(["ip", "rule", "add", "fwmark", "0x70", "table", "7"], check=True)
    assert not has_way(Endpoint.parse("192.0.2.1:7"))
    assert has_way(Endpoint.parse("192.0.2.1:7"), 0x70)
