"""What peers of a kernel's tunnel reach from their channel addresses, by nft and real packets."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from pathlib import Path

from nvpn.channel.packets import CHANNEL_PORT, channel_address, pack_packet
from nvpn.daemon.channel_guard import CHANNEL, ChannelGuard, undo_channel
from nvpn.daemon.leftovers import Leftovers
from nvpn.datapath.checksum import complement, pseudo_sum, word_sum
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import format_address, parse_address
from tests.support.own_namespace import in_new_namespace

OURS, THEIRS = channel_address(PublicKey(b"\1" * 32)), channel_address(PublicKey(b"\2" * 32))
INSIDE, CLIENT = parse_address("fd42::1"), parse_address("fd42::2")
_TUNSETIFF, _TUN_NO_PI = 0x400454CA, 0x1001
_UDP = 17
_IPV6_FREEBIND = 78


def open_tun(name: str) -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_NO_PI))
    for command in (
        f"link set {name} up",
        f"address add {format_address(OURS)}/64 dev {name} nodad",
        f"address add {format_address(INSIDE)}/64 dev {name} nodad",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    return tun


def listen(address: bytes, port: int, index: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    scope = index if address[:2] == b"\xfe\x80" else 0
    listening.bind((format_address(address), port, 0, scope))
    listening.setblocking(False)
    return listening


def datagram(source: bytes, destination: bytes, port: int) -> bytes:
    if port == CHANNEL_PORT:
        return pack_packet(source, destination, b"hello")
    udp = struct.pack(">HHHH", 9, port, 13, 0) + b"hello"
    total = pseudo_sum(source + destination, _UDP, len(udp)) + word_sum(udp)
    udp = udp[:6] + complement(total).to_bytes(2, "big") + udp[8:]
    return struct.pack(">IHBB", 6 << 28, len(udp), _UDP, 64) + source + destination + udp


@in_new_namespace
def test_from_a_channel_address_nothing_is_reached_but_the_channel(tmp_path: Path) -> None:
    tun = open_tun("wg0")
    index = socket.if_nametoindex("wg0")
    leftovers = Leftovers(str(tmp_path / "l"))
    guard = ChannelGuard("wg0", leftovers, run=lambda call: call())
    channel, other = listen(OURS, CHANNEL_PORT, index), listen(OURS, 7, index)
    inside = listen(INSIDE, 7, index)

    def arrives(source: bytes, destination: bytes, port: int, at: socket.socket) -> bool:
        os.write(tun, datagram(source, destination, port))
        try:
            return at.recv(99) == b"hello"  # by the time the write is over, or never
        except BlockingIOError:
            return False

    assert arrives(THEIRS, OURS, 7, other)
    assert arrives(THEIRS, INSIDE, 7, inside)
    guard.set(index, OURS)
    assert arrives(THEIRS, OURS, CHANNEL_PORT, channel)
    assert not arrives(THEIRS, OURS, 7, other)
    assert not arrives(THEIRS, INSIDE, 7, inside)
    assert arrives(CLIENT, INSIDE, 7, inside)
    table = leftovers.pending()[CHANNEL]

    guard.drop()
    assert CHANNEL not in leftovers.pending()
    assert arrives(THEIRS, OURS, 7, other)

    guard.set(index, OURS)
    undo_channel("wg0", "filter")  # none of ours
    assert not arrives(THEIRS, OURS, 7, other)
    undo_channel("wg0", table)
    assert arrives(THEIRS, OURS, 7, other)
    for each in (channel, other, inside):
        each.close()
    os.close(tun)


@in_new_namespace
def test_no_other_user_of_the_host_speaks_on_the_channel(tmp_path: Path) -> None:
    tun = open_tun("wg0")
    os.set_blocking(tun, False)
    index = socket.if_nametoindex("wg0")
    guard = ChannelGuard("wg0", Leftovers(str(tmp_path / "l")), run=lambda call: call())
    channel = listen(OURS, CHANNEL_PORT, index)
    link = (format_address(THEIRS), CHANNEL_PORT, 0, index)
    source = OURS + struct.pack("I", index)

    def hears_a_peer_that_is_none(pretender: socket.socket, *, seconds: float) -> bool:
        pretender.sendto(b"hello", (format_address(OURS), CHANNEL_PORT, 0, index))
        # The kernel of a busy machine takes its time even from us to us.
        channel.settimeout(seconds)
        try:
            return channel.recv(99) == b"hello"
        except TimeoutError:
            return False

    def speaks_for_us(speaker: socket.socket) -> bool:
        control = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
        try:
            speaker.sendmsg([b"hello"], control, 0, link)
        except PermissionError:
            pass  # so a drop is told
        return any(packet[8:24] == OURS for packet in sent(tun))

    with a_users_socket() as user, a_users_socket() as freebound:
        user.bind((format_address(INSIDE), CHANNEL_PORT))
        freebound.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        freebound.bind(link)
        assert hears_a_peer_that_is_none(freebound, seconds=30)
        assert speaks_for_us(user)
        guard.set(index, OURS)
        assert not hears_a_peer_that_is_none(freebound, seconds=0.1)
        assert not speaks_for_us(user)
        assert speaks_for_us(channel)
    channel.close()
    os.close(tun)


def a_users_socket() -> socket.socket:
    """What somebody else than root opened: all that is asked of it is whose it is."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(65534)  # of this thread
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    finally:
        libc.setfsuid(0)


def sent(tun: int) -> list[bytes]:
    packets = []
    with contextlib.suppress(BlockingIOError):
        while True:
            packets.append(os.read(tun, 2000))
    return packets
