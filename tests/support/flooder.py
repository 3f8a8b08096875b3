"""Sends datagrams at a rate, from as many source addresses as asked for.

    flooder.py ADDRESS PORT PER_SECOND SECONDS SOURCES < datagrams (JSON list of hex)

Sources are 10.200.0.1 and those after it; they must be local here (``ip route add local
10.200.0.0/16 dev lo``). Prints ``begun``, and at the end JSON: how many were sent, and how
many cookie replies and other datagrams came back.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import socket
import struct
import sys
import time

_AT_ONCE = 64
_IP_PKTINFO = 8


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct mmsghdr of a 64-bit Linux."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("pieces", ctypes.POINTER(_Iovec)),
        ("piece_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_long),  # an int, and the padding behind it
        ("sent", ctypes.c_uint32),
    )


class Ammunition:
    """Datagrams, each with a source, where sendmmsg finds them."""

    def __init__(self, datagrams: list[bytes], sources: int, to: tuple[str, int]) -> None:
        self.count = max(len(datagrams), sources)
        self.messages = (_Message * self.count)()
        name = ctypes.create_string_buffer(
            struct.pack("=H", socket.AF_INET)
            + struct.pack("!H4s8x", to[1], socket.inet_aton(to[0]))
        )
        self._kept: list[object] = [name]
        first = int(ipaddress.ip_address("10.200.0.1"))
        for number in range(self.count):
            datagram = datagrams[number % len(datagrams)]
            source = (first + number % sources).to_bytes(4, "big")
            control = struct.pack(
                "@QiiI4s4s4x", 28, socket.IPPROTO_IP, _IP_PKTINFO, 0, source, source
            )
            data, beside = (
                ctypes.create_string_buffer(datagram),
                ctypes.create_string_buffer(control),
            )
            piece = _Iovec(ctypes.addressof(data), len(datagram))
            self._kept += [data, beside, piece]
            message = self.messages[number]
            message.name, message.name_length = ctypes.addressof(name), 16
            message.pieces, message.piece_count = ctypes.pointer(piece), 1
            message.control, message.control_length = ctypes.addressof(beside), len(control)


def main() -> None:
    address, port, per_second = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    seconds, sources = float(sys.argv[4]), int(sys.argv[5])
    ammunition = Ammunition(
        [bytes.fromhex(text) for text in json.load(sys.stdin)], sources, (address, port)
    )
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind(("", 0))
    size = ctypes.sizeof(_Message)
    print("begun", flush=True)
    start, sent, refused = time.monotonic(), 0, 0
    answers = {64: 0}
    while (elapsed := time.monotonic() - start) < seconds:
        if sent >= elapsed * per_second:
            time.sleep(0.0005)
            continue
        at = sent % ammunition.count
        count = min(_AT_ONCE, ammunition.count - at)
        place = ctypes.byref(ammunition.messages, at * size)
        done = sendmmsg(sock.fileno(), place, count, 0)
        if done < 0:
            refused += 1
            if refused > 1000:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            continue
        sent += done
        try:
            while True:
                length = len(sock.recv(65535, socket.MSG_DONTWAIT))
                answers[length] = answers.get(length, 0) + 1
        except OSError:
            pass
    cookies = answers.pop(64)
    print(json.dumps({"sent": sent, "cookies": cookies, "others": sum(answers.values())}))


if __name__ == "__main__":
    main()
