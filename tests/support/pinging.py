"""Echo requests from inside a network namespace, each given the same patience.

ping(8) waits after its last request only as long as the slowest answer so far took, twice:
on a busy machine it calls lost what was about to arrive.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address

from tests.support.own_namespace import on_a_thread

_CLONE_NEWNET = 0x40000000
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO = 10, 2
_IPV6_MTU_DISCOVER, _IPV6_DONTFRAG = 23, 62
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_HEADER = struct.Struct("!BBHHH")


def ping(
    netns: str,
    address: str,
    *,
    count: int,
    interval: float,
    size: int,
    wait: float,
    whole: bool = False,
) -> tuple[int, int]:
    """(sent, answered).

    Args:
        interval: seconds between two requests.
        size: bytes of data in each, as ping(8) counts.
        wait: seconds that the answers may take after the last request.
        whole: let nothing be fragmented on the way.
    """
    version = ip_address(address).version
    identity = os.urandom(2)
    data = identity + os.urandom(size)[2:]
    # An IPv4 socket is given the IP header, too.
    ahead = 20 if version == 4 else 0
    missing: set[int] = set()
    answered = 0
    with inside(netns, lambda: _open(version, whole)) as opened:
        opened.connect((address, 0))
        started = time.monotonic()
        for number in range(1, count + 1):
            opened.setblocking(True)
            missing.add(number)
            try:
                opened.send(_request(version, int.from_bytes(identity, "big"), number, data))
            except OSError:
                pass  # no route, no room: a request that nobody answers
            last = number == count
            until = time.monotonic() + wait if last else started + number * interval
            while missing or not last:
                left = until - time.monotonic()
                if left <= 0:
                    break
                opened.settimeout(left)
                try:
                    message = opened.recv(1 << 16)[ahead:]
                except OSError:
                    continue  # too late, or an error message: others may still be answered
                kind, _, _, _, sequence = _HEADER.unpack_from(message)
                right = kind == _REPLY[version] and message[_HEADER.size :] == data
                if right and sequence in missing:
                    missing.remove(sequence)
                    answered += 1
    return count, answered


def inside(netns: str, make: Callable[[], socket.socket]) -> socket.socket:
    """What ``make`` makes in a network namespace; it stays there, the caller does not go."""

    def run() -> socket.socket:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{netns}") as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {netns}")
        return make()

    return on_a_thread(run)


def _open(version: int, whole: bool) -> socket.socket:
    if version == 4:
        opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        if whole:
            opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        return opened
    opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    if whole:
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_DO)
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
    return opened


def _request(version: int, identity: int, number: int, data: bytes) -> bytes:
    kind = _REQUEST[version]
    message = _HEADER.pack(kind, 0, 0, identity, number) + data
    if version == 6:
        return message  # the kernel fills in ICMPv6's sum
    even = message + bytes(len(message) % 2)
    total = sum(struct.unpack(f"!{len(even) // 2}H", even))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return _HEADER.pack(kind, 0, ~total & 0xFFFF, identity, number) + data
