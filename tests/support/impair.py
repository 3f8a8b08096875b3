"""A UDP relay that delays, loses, reorders, duplicates and corrupts, for hosts without netem.

Runs in a namespace of its own between two peers: what arrives on one port leaves from the
other towards the other side. Each side's address is the last one it sent from, or the one
given. Run as a program::

    impair.py --a ADDRESS:PORT --b ADDRESS:PORT --to-b ADDRESS:PORT [--to-a …] --delay-ms 50
"""

from __future__ import annotations

import argparse
import heapq
import random
import select
import socket
import time


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--a", type=address, required=True, help="where side a reaches us")
    parser.add_argument("--b", type=address, required=True, help="where side b reaches us")
    parser.add_argument("--to-a", type=address)
    parser.add_argument("--to-b", type=address)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--jitter-ms", type=float, default=0)
    parser.add_argument("--loss", type=float, default=0)
    parser.add_argument("--duplicate", type=float, default=0)
    parser.add_argument("--corrupt", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    sockets = []
    for side in (options.a, options.b):
        family = socket.AF_INET6 if ":" in side[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(side)
        sock.setblocking(False)
        sockets.append(sock)
    towards = [options.to_a, options.to_b]
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, side, data = heapq.heappop(waiting)
            if towards[side]:
                try:
                    sockets[side].sendto(data, towards[side])
                except OSError:
                    pass  # as a wire would: gone
        timeout = max(0.0, waiting[0][0] - now) if waiting else None
        for sock in select.select(sockets, [], [], timeout)[0]:
            side = sockets.index(sock)
            try:
                data, source = sock.recvfrom(65535)
            except OSError:
                continue
            towards[side] = source[:2]
            copies = 1 + (dice.random() < options.duplicate)
            if dice.random() < options.loss:
                continue
            for _ in range(copies):
                payload = bytearray(data)
                if payload and dice.random() < options.corrupt:
                    payload[dice.randrange(len(payload))] ^= 1 << dice.randrange(8)
                delay = options.delay_ms + dice.random() * options.jitter_ms
                number += 1
                heapq.heappush(
                    waiting, (time.monotonic() + delay / 1000, number, 1 - side, bytes(payload))
                )


if __name__ == "__main__":
    main()
