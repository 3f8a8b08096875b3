"""A real device by which datagrams leave, read at its other end. For a namespace of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nvpn.datapath.ancillary import SOL_UDP, UDP_SEGMENT
from nvpn.model.endpoint import Endpoint, Source
from nvpn.model.prefixes import parse_address
from nvpn.overlay.api import Tun
from nvpn.overlay.linux import open_tun
from tests.support.split_namespace import ip

NAME = "e4out"
MTU = 1500
OURS = {4: "10.6.0.1", 6: "fd06::1"}
THERE = {4: Endpoint.parse("10.6.0.2:51820"), 6: Endpoint.parse("[fd06::2]:51820")}
"""Peers that are reached by the device."""

_FRAGMENT = 44


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


class WayOut:
    """The device, and what leaves by it."""

    def __init__(self, device: Tun) -> None:
        self._device = device

    def left(self) -> list[bytes]:
        """The IP packets that have left, headers of the device cut off."""
        packets = []
        while True:
            try:
                frame = os.read(self._device.fd, 70000)
            except BlockingIOError:
                return packets
            packet = frame[10:] if self._device.vnet_hdr else frame
            if packet[0] >> 4 == 6 and packet[6] not in (socket.IPPROTO_UDP, _FRAGMENT):
                continue  # the kernel looks for its neighbours
            packets.append(packet)

    def narrow(self, version: int, mtu: int) -> None:
        """Let the route to the peer that is there have a smaller MTU."""
        target = "10.6.0.2/32" if version == 4 else "fd06::2/128"
        ip(f"-{version}", "route", "add", target, "dev", NAME, "mtu", str(mtu))

    def add_address(self, version: int) -> Source:
        """One more address of ours, as a source that a peer has used."""
        ip("address", "add", _second(version), "dev", NAME, *_nodad(version))
        address = parse_address(_second(version).partition("/")[0])
        return Source(address, socket.if_nametoindex(NAME))

    def delete_address(self, version: int) -> None:
        """Take it away again."""
        ip("address", "delete", _second(version), "dev", NAME)


def source_of(packet: bytes) -> bytes:
    """The source address of an IP packet."""
    return packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]


@contextmanager
def way_out(*, vnet_hdr: bool) -> Iterator[WayOut]:
    """The device, with an address of either family."""
    device = open_tun(NAME, vnet_hdr=vnet_hdr)
    try:
        ip("address", "add", "10.6.0.1/24", "dev", NAME)
        ip("address", "add", "fd06::1/64", "dev", NAME, "nodad")
        ip("link", "set", NAME, "mtu", str(MTU), "up")
        yield WayOut(device)
    finally:
        device.close()


def _second(version: int) -> str:
    return "10.6.0.77/24" if version == 4 else "fd06::77/64"


def _nodad(version: int) -> tuple[str, ...]:
    return ("nodad",) if version == 6 else ()
