"""The kernel believes our ICMP errors: a connection to nowhere fails at once."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess

import pytest

from nvpn.datapath.icmp import unreachable
from nvpn.overlay.linux import open_tun
from tests.support.own_namespace import in_new_namespace

TCP = 6


@pytest.mark.parametrize(
    ("family", "ours", "theirs"),
    [
        (socket.AF_INET, "10.0.0.1/24", "10.0.0.9"),
        (socket.AF_INET6, "fd00::1/64", "fd00::9"),
    ],
)
@in_new_namespace
def test_a_connection_to_a_host_without_a_route_fails_at_once(
    family: int, ours: str, theirs: str
) -> None:
    device = open_tun("c3icmp%d", vnet_hdr=False)
    try:
        # Strict: an error from an address that is not routed here would be thrown away.
        for command in (
            f"sysctl -qw net.ipv4.conf.{device.name}.rp_filter=1",
            f"ip address add {ours} dev {device.name} nodad"
            if family == socket.AF_INET6
            else f"ip address add {ours} dev {device.name}",
            f"ip link set {device.name} up",
        ):
            subprocess.run(command.split(), check=True)
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            assert client.connect_ex((theirs, 80)) == errno.EINPROGRESS
            answered = _answer_first_tcp(device.fd)
            assert answered
            _, writable, _ = select.select([], [client], [], 30)
            assert writable
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EHOSTUNREACH
    finally:
        os.close(device.fd)


def _answer_first_tcp(fd: int) -> bool:
    """Answer the first TCP packet; the kernel sends others of its own, such as MLD."""
    for _ in range(20):
        readable, _, _ = select.select([fd], [], [], 30)
        if not readable:
            return False
        packet = os.read(fd, 65535)
        protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
        answer = unreachable(packet)
        if protocol == TCP and answer is not None:
            os.write(fd, answer)
            return True
    return False
