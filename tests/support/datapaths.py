"""A datapath between a host that is a test and peers that are a few lines of Python.

Whatever implements ``datapath.api.Datapath`` is driven here through its descriptors: a
TUN device in memory, UDP on loopback. Its clock is the test's. A :class:`Correspondent`
is a peer written from the paper on a plain socket, so that both sides of a conversation
are never the code under test.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

import uvloop
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from nvpn.datapath.ancillary import CONTROL_BYTES, build_control, parse_control
from nvpn.datapath.api import Datapath
from nvpn.datapath.commands import (
    Command,
    CreatePeer,
    InsertPrefix,
    InstallKeypair,
    PeerId,
    Role,
    SetPeerEndpoint,
)
from nvpn.datapath.events import Event
from nvpn.datapath.offloads import VIRTIO_HEADER_SIZE, VirtioHeader, read_frame
from nvpn.datapath.ports import Offloads
from nvpn.datapath.python.engine import PythonDatapath
from nvpn.model.clock import SECOND, boot_ns
from nvpn.model.endpoint import Endpoint, Source
from nvpn.model.prefixes import Prefix
from nvpn.overlay.api import Tun
from nvpn.overlay.memory import open_memory_queues
from nvpn.transport.udp import UdpSockets, open_udp

MTU = 1420
_SO_TIMESTAMPNS = 35
PATIENCE = 60.0
"""Seconds of real time after which something that should happen is said not to."""

LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True, slots=True)
class Setup:
    """An implementation, a device with or without headers, and offloads on or off.

    ``eager`` workers are all at work, where else only the first would be.
    """

    name: str
    vnet_hdr: bool
    offloads: Offloads
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    workers: int = 1
    queues: int = 1
    eager: bool = False

    @property
    def implementation(self) -> str:
        """``python`` or ``native``."""
        return self.name.partition(" ")[0].rstrip(",")

    def make(
        self,
        loop: asyncio.AbstractEventLoop,
        tun: Tun,
        sockets: UdpSockets | None,
        clock: Callable[[], int] | None,
        on_events: Callable[[], None],
    ) -> Datapath:
        """A datapath; without a clock it goes by the machine's."""
        if self.implementation == "native":
            from nvpn.datapath.native.adapter import NativeDatapath

            return NativeDatapath(
                loop,
                tun,
                sockets,
                mtu=MTU,
                now=clock() if clock is not None else 0,
                on_events=on_events,
                offloads=self.offloads,
                workers=self.workers,
                eager=self.eager,
            )
        return PythonDatapath(
            loop,
            tun,
            sockets,
            mtu=MTU,
            clock=clock or boot_ns,
            on_events=on_events,
            offloads=self.offloads,
        )


NO_OFFLOADS = Offloads(tso=False, uso=False, gso=False, gro=False, batches=False)

HAS_NATIVE = importlib.util.find_spec("nvpn._native") is not None

PYTHON_SETUPS = (
    Setup("python", True, Offloads(), uvloop.new_event_loop),
    Setup("python on asyncio", True, Offloads()),
    Setup("python, no batches", True, Offloads(batches=False)),
    Setup("python, bare device", False, Offloads()),
    Setup("python, no merged datagrams", True, Offloads(gso=False, gro=False)),
    Setup("python, no offloads", False, NO_OFFLOADS),
    Setup("python, two queues", True, Offloads(), queues=2),
)
NATIVE_SETUPS = (
    Setup("native", True, Offloads(), uvloop.new_event_loop),
    Setup("native on asyncio", True, Offloads()),
    Setup("native, no batches", True, Offloads(batches=False)),
    Setup("native, bare device", False, Offloads()),
    Setup("native, no merged datagrams", True, Offloads(gso=False, gro=False)),
    Setup("native, no merged packets", True, Offloads(tso=False, uso=False)),
    Setup("native, no offloads", False, NO_OFFLOADS),
    Setup("native, three eager workers", True, Offloads(), workers=3, eager=True),
    Setup("native, two queues, two workers", True, Offloads(), workers=2, queues=2, eager=True),
)
# Where the module is missing that is a failure in CI: tests/datapath/test_choice.py.
SETUPS = PYTHON_SETUPS + (NATIVE_SETUPS if HAS_NATIVE else ())


class Rig:
    """One datapath and everything around it. Use as a context manager."""

    def __init__(self, setup: Setup) -> None:
        self._now = 1_000 * SECOND
        self.loop = setup.new_loop()
        self.errors: list[dict[str, object]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.tun, self.hosts = open_memory_queues(setup.queues, vnet_hdr=setup.vnet_hdr)
        for host in self.hosts:
            host.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.sockets = open_udp()
        self.events: list[Event] = []
        self.taken: list[int] = []
        self.delivered: list[bytes] = []
        self._correspondents: list[Correspondent] = []
        self.datapath = setup.make(
            self.loop, self.tun, self.sockets, lambda: self.now, self._take_events
        )

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *failure: object) -> None:
        self.datapath.close()
        for one in self._correspondents:
            one.socket.close()
        self.delete_device()
        self.tun.close()
        self.sockets.close()
        self.loop.close()
        if failure[0] is None:
            assert self.errors == []

    # --- time -------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """What the datapath's clock shows, in nanoseconds."""
        return self._now

    @now.setter
    def now(self, now: int) -> None:
        self._now = now
        set_clock = getattr(self.datapath, "set_clock", None)
        if set_clock is not None:
            set_clock(now)

    # --- the loop ---------------------------------------------------------------------

    def turn(self, turns: int = 1) -> None:
        """Let the loop go round."""
        for _ in range(turns):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            self._read_host()

    def until(self, condition: Callable[[], bool], what: str = "it") -> None:
        """Let the loop go round until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen"
            self.turn()

    def settle(self) -> None:
        """Let everything that is under way arrive.

        A datapath on a thread of its own says how often that found nothing to do.
        """
        for _ in range(2):
            rests = getattr(self.datapath, "rests", None)
            if rests is None:
                break
            self.tell()
            self.until(lambda rests=rests: self.datapath.rests > rests, "a rest")
        self.turn(20)

    def tell(self, *commands: Command) -> None:
        """Apply a batch; returns when it is acknowledged."""
        acknowledged: list[None] = []
        self.datapath.apply(commands, lambda: acknowledged.append(None))
        assert acknowledged == [], "an acknowledgement comes on the loop"
        self.until(lambda: bool(acknowledged), "the acknowledgement")

    def _take_events(self) -> None:
        events = self.datapath.take_events()
        self.taken.append(len(events))
        self.events += events

    # --- the host ---------------------------------------------------------------------

    def send(self, packet: bytes, header: VirtioHeader | None = None) -> None:
        """The host sends a packet into its device, those of two addresses by one queue."""
        vnet = (header or VirtioHeader()).pack() if self.tun.vnet_hdr else b""
        addresses = packet[12:20] if packet[:1] < b"\x60" else packet[8:40]
        self.hosts[crc32(addresses) % len(self.hosts)].send(vnet + packet)

    def delete_device(self) -> None:
        """The host's device is deleted."""
        for host in self.hosts:
            host.close()

    def _read_host(self) -> None:
        """Deliver what was written to the device, in the order in which that was done."""
        frames: list[tuple[int, bytes]] = []
        # Once more than there is something, for what went by another queue meanwhile.
        while more := [frame for host in self.hosts for frame in _read_all(host)]:
            frames += more
        for _, frame in sorted(frames, key=lambda stamped: stamped[0]):
            if self.tun.vnet_hdr:
                header = VirtioHeader.parse(frame)
                self.delivered += read_frame(header, frame[VIRTIO_HEADER_SIZE:])
            else:
                self.delivered.append(frame)

    def take(self, count: int) -> list[bytes]:
        """The next packets that the host gets."""
        self.until(lambda: len(self.delivered) >= count, f"the delivery of {count} packets")
        taken, self.delivered = self.delivered[:count], self.delivered[count:]
        return taken

    def take_event(self, kind: type) -> Event:
        """The next event of a kind; earlier ones of other kinds stay."""

        def found() -> bool:
            return any(isinstance(event, kind) for event in self.events)

        self.until(found, kind.__name__)
        event = next(event for event in self.events if isinstance(event, kind))
        self.events.remove(event)
        return event

    # --- peers ------------------------------------------------------------------------

    def correspondent(self, number: int = 1, version: int = 4, host: str = "") -> Correspondent:
        """A peer that the datapath knows by now: no session yet.

        It owns 10.0.N.0/24 and fd00:N::/64.
        """
        made = Correspondent(self, PeerId(number), version, host)
        self._correspondents.append(made)
        self.tell(
            CreatePeer(made.peer),
            SetPeerEndpoint(made.peer, made.endpoint),
            InsertPrefix(made.peer, Prefix.parse(f"10.0.{number}.0/24")),
            InsertPrefix(made.peer, Prefix.parse(f"fd00:{number}::/64")),
        )
        return made


def _read_all(host: socket.socket) -> Iterator[tuple[int, bytes]]:
    """What waits in a queue of the host's, with the instant at which it was written."""
    while True:
        try:
            frame, control, _, _ = host.recvmsg(1 << 17, 64)
        except OSError:  # empty, or closed by the test
            return
        if not frame:
            return
        ((_, _, stamp),) = control
        seconds, nanoseconds = struct.unpack("ll", stamp)
        yield seconds * SECOND + nanoseconds, frame


class Correspondent:
    """A WireGuard peer without handshakes: keys come from the test."""

    def __init__(self, rig: Rig, peer: PeerId, version: int, host: str) -> None:
        self.rig = rig
        self.peer = peer
        self.version = version
        self.sessions = 0
        self.socket = self._open(host)

    def _open(self, host: str) -> socket.socket:
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
        if self.version == 4:
            opened.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, 66, 1)  # IPV6_RECVTCLASS
        opened.bind((host or LOOPBACK[self.version], 0))
        return opened

    @property
    def endpoint(self) -> Endpoint:
        """Where it is reached."""
        return Endpoint.from_sockaddr(self.socket.getsockname())

    def move(self, host: str = "") -> None:
        """Be somewhere else from now on."""
        self.socket.close()
        self.socket = self._open(host)

    # --- sessions ---------------------------------------------------------------------

    def keypair(
        self, role: Role = Role.INITIATOR, *, born_at: int | None = None
    ) -> InstallKeypair:
        """A new session: the datapath's half, whose role is given. Ours begins at once."""
        self.sessions += 1
        seed = self.peer << 16 | self.sessions
        ours, theirs = (struct.pack(">I", seed ^ side) * 8 for side in (0, 0xFFFF_FFFF))
        self.their_index = 0xD0000000 + seed
        self.our_index = 0xC0000000 + seed
        self._seal = ChaCha20Poly1305(ours)
        self._open_key = ChaCha20Poly1305(theirs)
        self.counter = 0
        return InstallKeypair(
            self.peer,
            role,
            self.their_index,
            self.our_index,
            bytearray(theirs),
            bytearray(ours),
            self.rig.now if born_at is None else born_at,
        )

    def establish(self) -> None:
        """A session under which the datapath sends; its first keepalive is taken."""
        self.rig.tell(self.keypair())
        assert self.take_plain(1) == [b""]

    # --- packets ----------------------------------------------------------------------

    def seal(self, plain: bytes, *, counter: int | None = None) -> bytes:
        """A transport message around any plaintext."""
        if counter is None:
            counter, self.counter = self.counter, self.counter + 1
        nonce = struct.pack("<IQ", 0, counter)
        sealed = self._seal.encrypt(nonce, plain, None)
        return struct.pack("<IIQ", 4, self.their_index, counter) + sealed

    def packet_from(self, packet: bytes) -> bytes:
        """A transport message around a packet, padded."""
        return self.seal(packet + bytes(-len(packet) % 16))

    def send(self, *datagrams: bytes, to: str = "", tos: int = 0) -> None:
        """Send datagrams to the datapath's socket."""
        for datagram in datagrams:
            self.socket.sendmsg(
                [datagram],
                build_control(self.version, tos=tos),
                0,
                (to or LOOPBACK[self.version], self.rig.sockets.port),
            )

    def send_merged(self, datagrams: list[bytes], to: str = "") -> None:
        """Send datagrams of one size in one call, so that they may arrive in one."""
        self.socket.sendmsg(
            [b"".join(datagrams)],
            build_control(self.version, segment=len(datagrams[0])),
            0,
            (to or LOOPBACK[self.version], self.rig.sockets.port),
        )

    def receive(self) -> Iterator[tuple[bytes, Endpoint, int]]:
        """Datagrams that wait: bytes, where from, TOS."""
        while True:
            try:
                data, control, _, sockaddr = self.socket.recvmsg(1 << 16, CONTROL_BYTES)
            except BlockingIOError:
                return
            yield data, Endpoint.from_sockaddr(sockaddr), parse_control(control).tos

    def take(self, count: int) -> list[tuple[bytes, Endpoint, int]]:
        """The next datagrams that come here, as ``receive`` gives them."""
        taken: list[tuple[bytes, Endpoint, int]] = []

        def arrived() -> bool:
            taken.extend(self.receive())
            return len(taken) >= count

        self.rig.until(arrived, f"the arrival of {count} datagrams")
        assert len(taken) == count
        return taken

    def take_plain(self, count: int) -> list[bytes]:
        """The plaintexts of the next transport messages."""
        return [self.open(datagram) for datagram, _, _ in self.take(count)]

    def open(self, datagram: bytes) -> bytes:
        """The plaintext; the message must be for our session."""
        kind, index, counter = struct.unpack_from("<IIQ", datagram)
        assert (kind, index) == (4, self.our_index)
        return self._open_key.decrypt(struct.pack("<IQ", 0, counter), datagram[16:], None)

    def silent(self) -> bool:
        """Whether nothing has come here."""
        self.rig.settle()
        return not list(self.receive())


def source(host: str) -> Source:
    """A source address, whatever its interface."""
    return Source(Endpoint.parse(f"{host}:0" if ":" not in host else f"[{host}]:0").address)
