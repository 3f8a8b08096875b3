"""Floods a tunnel's UDP port at a rate, with one of several kinds of datagrams.

    flooder.py KIND ADDRESS PORT PUBLIC_KEY PER_SECOND SECONDS SOURCES < PRIVATE_KEY

Kinds are those of :data:`KINDS`. The public key is the tunnel's; the private key is that of a
peer, and used where a kind needs a session. Sources are 10.200.0.1 and those after it; they
must be local here (``ip route add local 10.200.0.0/16 dev lo``). With SOURCES 1 it is the
address that the kernel chooses. Prints ``begun``, and at the end,
which SIGTERM brings about sooner, JSON: how many were sent in how many seconds, and how many
cookie replies and other datagrams came back.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from nvpn.errors import ProtocolViolation
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.protocol.cookies import MacStamper
from nvpn.protocol.handshake import InitiatorHandshake
from nvpn.protocol.tai64n import stamp
from nvpn.wire.messages import CookieReply, Initiation, Response, parse_handshake

_AT_ONCE: Final = 64
_DIFFERENT: Final = 512
_IP_PKTINFO: Final = 8
_PATIENCE: Final = 5.0


@dataclass(frozen=True)
class Aim:
    """Whom a flood is for, the socket it leaves from, and the key of a peer."""

    sock: socket.socket
    public: PublicKey
    peer: PrivateKey


def initiations(aim: Aim) -> list[bytes]:
    """Past mac1, which takes no more than a public key; only opening one shows the forgery."""
    stamper = MacStamper(aim.public)
    return [stamper.stamp(_forged_initiation(), 0) for _ in range(_DIFFERENT)]


def initiations_with_cookie(aim: Aim) -> list[bytes]:
    """Past mac2, too: first the tunnel is brought to ask for cookies, then one is taken."""
    stamper = MacStamper(aim.public)
    for _ in range(10):
        for _ in range(_DIFFERENT):
            aim.sock.send(stamper.stamp(_forged_initiation(), 0))
        time.sleep(0.2)
        _empty(aim.sock)
        aim.sock.send(stamper.stamp(_forged_initiation(), 0))
        while isinstance(reply := _receive(aim.sock, 0.5), CookieReply):
            try:
                stamper.consume_reply(reply, 0)
            except ProtocolViolation:
                continue  # it answers an earlier one
            return [stamper.stamp(_forged_initiation(), 0) for _ in range(_DIFFERENT)]
    raise SystemExit("flooder: no cookie was to be had")


def forged_macs(aim: Aim) -> list[bytes]:
    """Initiations that nobody made who knows the public key."""
    return [b"\1\0\0\0" + os.urandom(144) for _ in range(_DIFFERENT)]


def cookie_replies(aim: Aim) -> list[bytes]:
    """Which carry no mac."""
    return [b"\3\0\0\0" + os.urandom(60) for _ in range(_DIFFERENT)]


def unknown_indices(aim: Aim) -> list[bytes]:
    """Transport messages of no session."""
    return [b"\4\0\0\0" + os.urandom(124) for _ in range(_DIFFERENT)]


def malformed(aim: Aim) -> list[bytes]:
    """What is no message at all."""
    return [b"\0\0\0\0" + os.urandom(124) for _ in range(_DIFFERENT)]


def replays(aim: Aim) -> list[bytes]:
    """Transport messages of a session, authentic the first time that they arrive."""
    handshake = InitiatorHandshake.begin(
        static=aim.peer,
        their_static=aim.public,
        our_index=_INDEX,
        timestamp=stamp(time.time_ns()),
        ephemeral=os.urandom(32),
    )
    aim.sock.send(MacStamper(aim.public).stamp(handshake.message, 0))
    response = _receive(aim.sock, _PATIENCE)
    if not isinstance(response, Response):
        raise SystemExit("flooder: no session was to be had")
    keys = handshake.consume_response(response, preshared=None)
    aead, header = ChaCha20Poly1305(bytes(keys.send)), struct.pack("<II", 4, keys.their_index)
    nonces = [struct.pack("<Q", counter) for counter in range(_DIFFERENT)]
    return [header + nonce + aead.encrypt(bytes(4) + nonce, bytes(96), None) for nonce in nonces]


KINDS: Final[dict[str, Callable[[Aim], list[bytes]]]] = {
    "initiations": initiations,
    "initiations-with-cookie": initiations_with_cookie,
    "forged-macs": forged_macs,
    "cookie-replies": cookie_replies,
    "unknown-indices": unknown_indices,
    "malformed": malformed,
    "replays": replays,
}

_INDEX: Final = 7


def _forged_initiation() -> bytes:
    return Initiation(_INDEX, os.urandom(32), os.urandom(48), os.urandom(28)).pack()


def _receive(sock: socket.socket, patience: float) -> object:
    sock.settimeout(patience)
    try:
        return parse_handshake(sock.recv(2048))
    except OSError:
        return None
    finally:
        sock.settimeout(None)


def _empty(sock: socket.socket) -> dict[int, int]:
    """Take what has come back: how many of which size."""
    sizes: dict[int, int] = {}
    try:
        while True:
            size = len(sock.recv(65535, socket.MSG_DONTWAIT))
            sizes[size] = sizes.get(size, 0) + 1
    except OSError:
        return sizes


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

    def __init__(self, datagrams: Sequence[bytes], sources: int) -> None:
        self.count = max(len(datagrams), sources)
        self.messages = (_Message * self.count)()
        self._kept: list[object] = []
        first = int(ipaddress.ip_address("10.200.0.1"))
        for number in range(self.count):
            datagram = datagrams[number % len(datagrams)]
            data = ctypes.create_string_buffer(datagram)
            piece = _Iovec(ctypes.addressof(data), len(datagram))
            self._kept += [data, piece]
            message = self.messages[number]
            message.pieces, message.piece_count = ctypes.pointer(piece), 1
            if sources > 1:
                source = (first + number % sources).to_bytes(4, "big")
                control = struct.pack(
                    "@QiiI4s4s4x", 28, socket.IPPROTO_IP, _IP_PKTINFO, 0, source, source
                )
                beside = ctypes.create_string_buffer(control)
                self._kept.append(beside)
                message.control, message.control_length = ctypes.addressof(beside), len(control)


def main() -> None:
    kind, address, port, public = sys.argv[1:5]
    per_second, seconds, sources = float(sys.argv[5]), float(sys.argv[6]), int(sys.argv[7])
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.connect((address, int(port)))
    peer = PrivateKey.from_base64(sys.stdin.read().strip())
    ammunition = Ammunition(KINDS[kind](Aim(sock, PublicKey.from_base64(public), peer)), sources)
    if sources > 1:  # a connected socket has one source
        sock.close()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind(("", 0))
        name = ctypes.create_string_buffer(
            struct.pack("=H", socket.AF_INET)
            + struct.pack("!H4s8x", int(port), socket.inet_aton(address))
        )
        for message in ammunition.messages:
            message.name, message.name_length = ctypes.addressof(name), 16
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    size = ctypes.sizeof(_Message)
    enough = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: enough.set())
    print("begun", flush=True)
    start, sent, refused = time.monotonic(), 0, 0
    answers: dict[int, int] = {}
    while (elapsed := time.monotonic() - start) < seconds and not enough.is_set():
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
        for length, number in _empty(sock).items():
            answers[length] = answers.get(length, 0) + number
    cookies = answers.pop(64, 0)
    others = sum(answers.values())
    result = {"sent": sent, "seconds": elapsed, "cookies": cookies, "others": others}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
