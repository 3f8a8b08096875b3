"""The overlay device when the kernel refuses, is full, or takes it away."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence

import pytest

from nvpn.datapath.offloads import NO_OFFLOAD, VIRTIO_HEADER_SIZE, VirtioHeader, read_frame
from nvpn.datapath.python import tun as tun_module
from nvpn.datapath.python.tun import TunPort
from nvpn.errors import DropReason
from nvpn.overlay.api import Tun
from nvpn.overlay.memory import open_memory_queues, open_memory_tun
from tests.support.cores import Ends
from tests.support.segments import Flow

PACKETS = Flow().segments(bytes(5000), 1000)


@pytest.fixture
def device() -> Iterator[tuple[Tun, socket.socket]]:
    tun, host = open_memory_tun(vnet_hdr=True)
    yield tun, host
    tun.close()
    host.close()


def port(tun: Tun, *, tso: bool = True, uso: bool = True) -> tuple[TunPort, Ends]:
    ends = Ends()
    return TunPort(tun, ends.alice, tso=tso, uso=uso), ends


def written(host: socket.socket) -> list[bytes]:
    frames = []
    while True:
        try:
            frames.append(host.recv(70000))
        except BlockingIOError:
            return frames


def packets_in(frames: list[bytes]) -> list[bytes]:
    return [
        packet
        for frame in frames
        for packet in read_frame(VirtioHeader.parse(frame), frame[VIRTIO_HEADER_SIZE:])
    ]


def refusing(monkeypatch: pytest.MonkeyPatch, refuse: Callable[[list[bytes]], int]) -> None:
    real = os.writev

    def writev(fd: int, pieces: list[bytes]) -> int:
        code = refuse(pieces)
        if code:
            raise OSError(code, os.strerror(code))
        return real(fd, pieces)

    monkeypatch.setattr(tun_module.os, "writev", writev)


def test_a_train_is_one_write(device: tuple[Tun, socket.socket]) -> None:
    tun, _ = port(device[0])
    tun.write(PACKETS)
    frames = written(device[1])
    assert len(frames) == 1
    assert packets_in(frames) == PACKETS


def test_merging_switched_off_is_one_write_each(device: tuple[Tun, socket.socket]) -> None:
    tun, _ = port(device[0], tso=False, uso=False)
    tun.write(PACKETS)
    assert written(device[1]) == [NO_OFFLOAD + packet for packet in PACKETS]


def test_a_device_without_headers_gets_bare_packets() -> None:
    device, host = open_memory_tun()
    tun, _ = port(device)
    tun.write(PACKETS)
    assert written(host) == PACKETS
    device.close()
    host.close()


def test_a_kernel_that_refuses_merged_packets_gets_them_one_by_one_from_then_on(
    device: tuple[Tun, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    tun, ends = port(device[0])
    refusing(monkeypatch, lambda pieces: errno.EINVAL if pieces[0] != NO_OFFLOAD else 0)
    for _ in range(2):
        tun.write(PACKETS)
        assert written(device[1]) == [NO_OFFLOAD + packet for packet in PACKETS]
    assert (tun.tso, tun.uso) == (False, False)
    assert ends.alice.drops() == {}


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOBUFS, errno.EIO, errno.EINVAL])
def test_a_packet_that_is_not_taken_is_counted(
    device: tuple[Tun, socket.socket], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    tun, ends = port(device[0])
    refusing(monkeypatch, lambda pieces: code)
    tun.write(PACKETS[:1])
    tun.write(PACKETS)
    assert ends.alice.drops() == {DropReason.TUN_WRITE_FAILED: 1 + len(PACKETS)}
    assert not tun.gone


def test_a_full_device_drops_what_does_not_fit_and_counts_it() -> None:
    device, host = open_memory_tun()
    tun, ends = port(device)
    for _ in range(5000):
        tun.write([bytes(9000)])
    dropped = ends.alice.drops()[DropReason.TUN_WRITE_FAILED]
    assert len(written(host)) + dropped == 5000
    device.close()
    host.close()


@pytest.mark.parametrize("code", [errno.EBADFD, errno.ENODEV])
def test_a_device_that_is_gone_is_noticed(
    device: tuple[Tun, socket.socket], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    tun, _ = port(device[0])
    refusing(monkeypatch, lambda pieces: code)
    tun.write(PACKETS[:1])
    assert tun.gone == code


@pytest.mark.parametrize(
    ("code", "gone"),
    [(errno.EAGAIN, 0), (errno.EINVAL, 0), (errno.ENOMEM, 0), (errno.EBADFD, errno.EBADFD)],
)
def test_one_packet_that_cannot_be_read_does_not_end_the_device(
    device: tuple[Tun, socket.socket], monkeypatch: pytest.MonkeyPatch, code: int, gone: int
) -> None:
    def readv(fd: int, buffers: Sequence[bytearray]) -> int:
        raise OSError(code, os.strerror(code))

    tun, _ = port(device[0])
    monkeypatch.setattr(tun_module.os, "readv", readv)
    assert tun.read([bytearray(100)]) == 0
    assert tun.gone == gone


def test_a_far_end_that_is_gone_is_noticed_on_reading() -> None:
    device, host = open_memory_tun()
    tun, _ = port(device)
    host.close()
    assert tun.read([bytearray(100)]) == 0
    assert tun.gone == errno.ENODEV
    device.close()


def test_the_queues_of_a_device_are_read_in_turn_and_each_in_its_order() -> None:
    device, hosts = open_memory_queues(3)
    tun, _ = port(device)
    for number in range(4):
        hosts[0].send(b"a%d" % number)
    hosts[2].send(b"c0")
    buffer = bytearray(100)
    frames = []
    while size := tun.read([buffer]):
        frames.append(bytes(buffer[:size]))
    assert sorted(frames) == [b"a0", b"a1", b"a2", b"a3", b"c0"]
    assert [frame for frame in frames if frame[:1] == b"a"] == [b"a0", b"a1", b"a2", b"a3"]
    assert frames.index(b"c0") < 2, "a busy queue does not make another one wait"
    assert not tun.gone
    tun.write([b"packet"])
    assert hosts[0].recv(100) == b"packet"
    device.close()
    for host in hosts:
        host.close()


def test_an_empty_device_gives_nothing(device: tuple[Tun, socket.socket]) -> None:
    tun, _ = port(device[0])
    assert tun.read([bytearray(100)]) == 0
    assert not tun.gone
