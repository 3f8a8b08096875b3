"""Throws random and mutated datagrams of every length at a port, as fast as it drains.

    stranger.py ADDRESS PORT COUNT LONGEST SEED < templates (JSON list of hex)

Prints JSON: how many were sent, how many replies came, how many the receiver's socket
had no room for. Every length from 0 to LONGEST is sent once if COUNT allows; the rest are
mutations of the templates and short noise.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from pathlib import Path


def receiver(port: int, version: int) -> tuple[int, int]:
    """Bytes waiting and datagrams dropped at the UDP socket bound to ``port``."""
    table = Path("/proc/net/udp" if version == 4 else "/proc/net/udp6")
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            return int(fields[4].partition(":")[2], 16), int(fields[-1])
    raise SystemExit("nobody listens there")


def main() -> None:
    address, port, count, longest = sys.argv[1], *map(int, sys.argv[2:5])
    dice = random.Random(int(sys.argv[5]))
    templates = [bytes.fromhex(text) for text in json.load(sys.stdin)]
    version = 6 if ":" in address else 4
    sock = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    sock.connect((address, port))
    noise = dice.randbytes(1 << 17)
    _, dropped_before = receiver(port, version)
    lengths = list(range(longest + 1)) if count > longest else []
    sent = pending = 0
    while sent < count:
        if sent < len(lengths):
            length = lengths[sent]
            start = dice.randrange(1 << 16)
            datagram = noise[start : start + length]
            if length >= 32 and sent & 1:
                datagram = b"\4\0\0\0" + datagram[4:]
        elif sent & 7:
            mutable = bytearray(dice.choice(templates))
            # Not in mac2: who knows our public key may be asked for a cookie.
            for at in dice.sample(range(min(len(mutable), 132)), dice.randrange(1, 4)):
                mutable[at] ^= 1 << dice.randrange(8)
            cut = dice.randrange(len(mutable) + 1) if sent & 16 else len(mutable)
            datagram = bytes(mutable[:cut])
        else:
            start = dice.randrange(1 << 16)
            datagram = noise[start : start + dice.randrange(200)]
        sock.send(datagram)
        sent += 1
        pending += len(datagram) + 1000
        if pending > 1 << 20:
            while receiver(port, version)[0] > 1 << 19:
                time.sleep(0.0005)
            pending = 0
    while receiver(port, version)[0]:
        time.sleep(0.01)
    time.sleep(0.2)  # a reply, if there were one, is on its way by now
    sock.setblocking(False)
    replies = 0
    try:
        while sock.recv(65535):
            replies += 1
    except BlockingIOError:
        pass
    overflowed = receiver(port, version)[1] - dropped_before
    print(json.dumps({"sent": sent, "replies": replies, "overflowed": overflowed}))


if __name__ == "__main__":
    main()
