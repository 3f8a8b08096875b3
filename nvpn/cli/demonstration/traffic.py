"""Traffic of real programs, without the programs: ping, and a transfer over TCP."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

_ECHO: Final = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
"""Types of echo request and reply, by family."""

_CHUNK: Final = 256 * 1024
_REPORT_EVERY: Final = 0.1
_PAYLOAD: Final = b"nvpn demo".ljust(48, b".")


def ping(address: str, *, count: int, interval: float, timeout: float = 5.0) -> list[float | None]:
    """Round trips in seconds, None for a request that nobody answered.

    Raises:
        OSError: no raw socket, or no route.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    identifier = os.getpid() & 0xFFFF
    answers: list[float | None] = []
    with socket.socket(family, socket.SOCK_RAW, protocol) as icmp:
        icmp.connect((address, 0))
        for number in range(count):
            started = time.monotonic()
            icmp.send(_echo_request(family, identifier, number))
            answers.append(_await_reply(icmp, family, identifier, number, started, timeout))
            time.sleep(max(0.0, interval - (time.monotonic() - started)))
    return answers


def receive(listener: socket.socket, report: Callable[[int, float], None]) -> tuple[int, float]:
    """Take one transfer until its sender is done: bytes, and seconds from first to last.

    Args:
        report: called some ten times a second with both so far.
    """
    connection, _ = listener.accept()
    buffer = bytearray(_CHUNK)
    total = 0
    with connection:
        started = last = time.monotonic()
        reported = started
        while size := connection.recv_into(buffer):
            total += size
            last = time.monotonic()
            if last - reported >= _REPORT_EVERY:
                reported = last
                report(total, last - started)
    return total, last - started


def send(address: str, port: int, *, seconds: float) -> None:
    """Send as much as goes through in ``seconds``. Raises OSError when nobody listens."""
    payload = os.urandom(_CHUNK)
    with socket.create_connection((address, port), timeout=30) as connection:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.send(payload)


def listen(address: str, port: int) -> socket.socket:
    """A socket for one sender to connect to. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=1)
    listener.settimeout(30)
    return listener


def _echo_request(family: int, identifier: int, number: int) -> bytes:
    kind = _ECHO[socket.AddressFamily(family)][0]
    packet = struct.pack("!BBHHH", kind, 0, 0, identifier, number) + _PAYLOAD
    if family == socket.AF_INET6:
        return packet  # the kernel fills in the checksum: it covers addresses, too
    return packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]


def _checksum(packet: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _await_reply(
    icmp: socket.socket, family: int, identifier: int, number: int, started: float, timeout: float
) -> float | None:
    wanted = struct.pack("!HH", identifier, number)
    kind = _ECHO[socket.AddressFamily(family)][1]
    while (left := started + timeout - time.monotonic()) > 0:
        if not select.select([icmp], [], [], left)[0]:
            break
        packet = icmp.recv(2048)
        if family == socket.AF_INET:
            packet = packet[(packet[0] & 0xF) * 4 :]
        if packet[0] == kind and packet[4:8] == wanted:
            return time.monotonic() - started
    return None
