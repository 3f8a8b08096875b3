"""The engine on a real TUN device: what the kernel gives, takes, and does when it leaves."""

from __future__ import annotations

import random
import socket
import subprocess

import pytest

from nvpn.datapath.python.tun import TunPort
from nvpn.errors import DropReason
from nvpn.overlay.linux import open_tun
from tests.support.cores import Ends
from tests.support.own_namespace import in_new_namespace
from tests.support.segments import Flow


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)


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
        program.settimeout(30)
        data = random.Random(1).randbytes(1300 * 40 + 7)
        port.write(flow.segments(data, 1300))
        assert b"".join(program.recv(2000) for _ in range(41)) == data
    assert ends.alice.drops() == {}
    assert port.uso
    tun.close()
