from __future__ import annotations

import errno
import fcntl
import os
import socket

import pytest

from nvpn.datapath.offloads import NO_OFFLOAD
from nvpn.errors import PlatformError
from nvpn.overlay import linux
from nvpn.overlay.linux import adopt_tun, open_tun, tun_name
from tests.support.descriptors import descriptors
from tests.support.own_namespace import in_new_namespace
from tests.support.segments import Flow
from tests.support.split_namespace import ip

needs_tun = pytest.mark.skipif(
    not (os.access("/dev/net/tun", os.R_OK | os.W_OK) and os.geteuid() == 0),
    reason="needs root and /dev/net/tun",
)


def read_all(fd: int) -> list[bytes]:
    frames = []
    while True:
        try:
            frames.append(os.read(fd, 70000))
        except BlockingIOError:
            return frames


@needs_tun
@pytest.mark.root
def test_an_open_device_has_its_name_and_never_blocks_or_leaks_into_children() -> None:
    tun = open_tun("e4tun%d")
    try:
        assert tun.name.startswith("e4tun") and tun.name[5:].isdigit()
        assert tun.name in {name for _, name in socket.if_nameindex()}
        assert tun_name(tun.fd) == tun.name
        assert not os.get_blocking(tun.fd)
        assert fcntl.fcntl(tun.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert tun.vnet_hdr and tun.tso
    finally:
        tun.close()
    assert tun.name not in {name for _, name in socket.if_nameindex()}


@needs_tun
@pytest.mark.root
def test_plain_packets_are_had_on_request() -> None:
    tun = open_tun("e4tun%d", vnet_hdr=False)
    try:
        assert (tun.vnet_hdr, tun.tso, tun.uso) == (False, False, False)
    finally:
        tun.close()


@pytest.mark.parametrize("vnet_hdr", [False, True])
@in_new_namespace
def test_flows_are_spread_over_the_queues_and_each_packet_comes_once(vnet_hdr: bool) -> None:
    tun = open_tun("dwq%d", vnet_hdr=vnet_hdr, queues=3)
    try:
        assert tun.fd == tun.fds[0]
        assert [tun_name(fd) for fd in tun.fds] == [tun.name] * 3
        assert not any(os.get_blocking(fd) or os.get_inheritable(fd) for fd in tun.fds)
        ip("address", "add", "10.0.0.1/24", "dev", tun.name)
        ip("link", "set", tun.name, "up")
        marks = {bytes([mark]) * 32 for mark in range(100)}
        for mark in marks:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
                program.sendto(mark, ("10.0.0.2", 9))
        came = {fd: [packet[-32:] for packet in read_all(fd)] for fd in tun.fds}
        mine = [mark for packets in came.values() for mark in packets if mark in marks]
        assert sorted(mine) == sorted(marks)
        assert all(marks & set(packets) for packets in came.values()), "no queue is idle"
    finally:
        tun.close()
    assert tun.name not in {name for _, name in socket.if_nameindex()}


@in_new_namespace
def test_every_queue_takes_packets_and_gives_superpackets() -> None:
    tun = open_tun("dwq%d", queues=4)
    try:
        assert tun.tso
        ip("address", "add", "10.0.0.2/24", "dev", tun.name)
        ip("link", "set", tun.name, "up")
        flow = Flow.of(4, 17)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            program.bind((flow.destination, flow.port))
            program.settimeout(30)
            for number, fd in enumerate(tun.fds):
                data = bytes([number]) * 3000
                header, packet = flow.superpacket(data, 1000)
                os.write(fd, header.pack() + packet if tun.uso else NO_OFFLOAD + packet)
                received = b"".join(program.recv(4000) for _ in range(3 if tun.uso else 1))
                assert received == data
    finally:
        tun.close()


@in_new_namespace
def test_a_device_of_several_queues_is_never_shared_with_another_program() -> None:
    tun = open_tun("dwq%d", queues=2)
    try:
        for queues in (1, 2):
            with pytest.raises(PlatformError, match=f"cannot create TUN device {tun.name}"):
                open_tun(tun.name, queues=queues)
    finally:
        tun.close()


@in_new_namespace
def test_a_device_made_for_another_number_of_queues_is_refused() -> None:
    ip("tuntap", "add", "mode", "tun", "dwq0", "multi_queue", "vnet_hdr")
    with pytest.raises(PlatformError, match="one with other flags"):
        open_tun("dwq0")
    ip("tuntap", "add", "mode", "tun", "dwq1", "vnet_hdr")
    with pytest.raises(PlatformError, match="another program holds"):
        open_tun("dwq1", queues=2)
    open_tun("dwq1").close()


@in_new_namespace
def test_more_queues_than_the_kernel_has_are_refused_and_nothing_is_left() -> None:
    before = descriptors()
    with pytest.raises(PlatformError, match="cannot open queue 257 of TUN device dwq0") as caught:
        open_tun("dwq0", queues=257)
    assert "set queues = 1" in caught.value.hint
    assert descriptors() == before
    assert "dwq0" not in {name for _, name in socket.if_nameindex()}


@needs_tun
@pytest.mark.root
def test_a_kernel_without_queues_is_told_from_one_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linux, "_get_features", lambda fd: 0x1001)
    with pytest.raises(PlatformError, match="set queues = 1"):
        open_tun("dwq%d", queues=2)
    open_tun("dwq%d").close()


@needs_tun
@pytest.mark.root
@pytest.mark.parametrize("vnet_hdr", [False, True])
def test_a_descriptor_opened_elsewhere_is_adopted_as_it_is(vnet_hdr: bool) -> None:
    tun = open_tun("e4tun%d", vnet_hdr=vnet_hdr)
    try:
        handed = os.dup(tun.fd)
        os.set_inheritable(handed, True)
        os.set_blocking(handed, True)
        adopted = adopt_tun(handed)
        assert (adopted.name, adopted.vnet_hdr) == (tun.name, vnet_hdr)
        assert not os.get_blocking(handed) and not os.get_inheritable(handed)
        adopted.close()
    finally:
        tun.close()


@needs_tun
@pytest.mark.root
def test_a_name_in_use_is_explained() -> None:
    tun = open_tun("e4tun%d")
    try:
        with pytest.raises(PlatformError, match=f"cannot create TUN device {tun.name}") as caught:
            open_tun(tun.name)
        assert caught.value.errno == errno.EBUSY
        assert "another" in caught.value.hint
    finally:
        tun.close()


@needs_tun
@pytest.mark.root
def test_a_name_of_another_kind_of_interface_is_explained() -> None:
    with pytest.raises(PlatformError, match="no TUN device"):
        open_tun("lo")


@pytest.mark.parametrize("name", ["", "a" * 16, "ü" * 8, "a/b", ".", ".."])
def test_an_impossible_name_is_refused_before_the_kernel_is_asked(name: str) -> None:
    with pytest.raises(PlatformError, match="1 to 15 bytes"):
        open_tun(name)


def test_a_descriptor_that_is_no_tun_device_is_refused() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(PlatformError, match=f"cannot use descriptor {reader}"):
            adopt_tun(reader)
    finally:
        os.close(reader)
        os.close(writer)
