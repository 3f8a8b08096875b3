from __future__ import annotations

import os

import pytest

from nvpn.overlay.memory import open_memory_queues, open_memory_tun


def test_packets_keep_their_borders_and_order_in_both_directions() -> None:
    tun, host = open_memory_tun()
    packets = [b"a", b"b" * 1420, b"c" * 65535]
    try:
        for packet in packets:
            host.send(packet)
        assert [os.read(tun.fd, 70000) for _ in packets] == packets
        for packet in packets:
            os.write(tun.fd, packet)
        assert [host.recv(70000) for _ in packets] == packets
    finally:
        tun.close()
        host.close()


def test_neither_end_ever_blocks() -> None:
    tun, host = open_memory_tun()
    try:
        with pytest.raises(BlockingIOError):
            os.read(tun.fd, 100)
        with pytest.raises(BlockingIOError):
            host.recv(100)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(tun.fd, bytes(65000))
    finally:
        tun.close()
        host.close()


def test_each_queue_has_a_far_end_of_its_own() -> None:
    tun, hosts = open_memory_queues(3)
    try:
        assert len(tun.fds) == len(hosts) == 3
        for fd, host in zip(tun.fds, hosts, strict=True):
            host.send(b"out")
            assert os.read(fd, 100) == b"out"
            os.write(fd, b"in")
            assert host.recv(100) == b"in"
        for fd in tun.fds:
            with pytest.raises(BlockingIOError):
                os.read(fd, 100)
    finally:
        tun.close()
        for host in hosts:
            host.close()


def test_closing_the_host_ends_the_device() -> None:
    tun, host = open_memory_tun(vnet_hdr=True)
    host.close()
    try:
        assert os.read(tun.fd, 100) == b""
    finally:
        tun.close()


def test_offloads_need_the_header_that_describes_them() -> None:
    tun, host = open_memory_tun(vnet_hdr=False, tso=True, uso=True)
    assert (tun.vnet_hdr, tun.tso, tun.uso) == (False, False, False)
    tun.close()
    host.close()
