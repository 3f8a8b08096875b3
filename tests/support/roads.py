"""A host whose way into the world can be watched: client, router, server.

What the client sends to :data:`OUTSIDE` reaches the server with a tunnel and without; on the
client's wire it is readable only without.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.machines import Machine
from tests.support.pinging import inside
from tests.support.world import World, wait_until

OUTSIDE = "198.51.100.1"
OUTSIDE_V6 = "2001:db8:99::1"
SERVER = "10.77.2.2"
ROUTER = "10.77.1.2"
_PORT = 9
_SIZES = 4 << 20


class Roads:
    """``client`` 10.77.1.1, ``router`` 10.77.1.2 and 10.77.2.1, ``server`` 10.77.2.2."""

    def __init__(self, world: World) -> None:
        self.client = Machine(world, "c")
        self.router = world.host("r")
        self.server = Machine(world, "s")
        world.link(self.client.host, self.router)
        world.link(self.router, self.server.host)
        self.wire = "v1r"
        for host, way, way_v6 in (
            (self.client.host, "10.77.1.2", "fd77:1::2"),
            (self.server.host, "10.77.2.1", "fd77:2::1"),
        ):
            host.run("ip", "route", "add", "default", "via", way)
            host.run("ip", "route", "add", "default", "via", way_v6)
        for switch in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            self.router.run("sysctl", "-qw", switch)
        for address, network in ((OUTSIDE, "198.51.100.0/24"), (OUTSIDE_V6, "2001:db8:99::/64")):
            way = "10.77.2.2" if "." in address else "fd77:2::2"
            self.router.run("ip", "route", "add", network, "via", way)
            self.server.host.run("ip", "address", "add", f"{address}/128" if ":" in address
                                 else f"{address}/32", "dev", "lo")  # fmt: skip

    def serve(self, name: str = "wg0", *, number: int = 9, port: int = 51820) -> None:
        """The other end of a tunnel: 10.N.0.1 and fd0N::1 on the server."""
        self.server.write(
            f"""
[interface]
private_key = "PRIVATE"
address = ["10.{number}.0.1/24", "fd0{number}::1/64"]
listen_port = {port}
[[peer]]
public_key = "{self.client.public_key}"
allowed_ips = ["10.{number}.0.2/32", "fd0{number}::2/128"]
""",
            f"{name}.toml",
        )
        self.server.nvpn("up", f"{name}.toml")

    def configuration(
        self,
        extra: str = "",
        *,
        number: int = 9,
        endpoint: str = f"{SERVER}:51820",
        allowed_ips: str = '"0.0.0.0/0", "::/0"',
    ) -> str:
        """The client's end."""
        return f"""
[interface]
private_key = "PRIVATE"
address = ["10.{number}.0.2/24", "fd0{number}::2/64"]
{extra}
[[peer]]
public_key = "{self.server.public_key}"
endpoint = "{endpoint}"
allowed_ips = [{allowed_ips}]
"""

    def tidy(self) -> None:
        """Take down what a test left up."""
        for name in ("wg0", "wg1"):
            left = self.client.state_directory / f"{name}.leftovers"
            if self.client.has_link(name) or left.exists():
                self.client.nvpn("down", name, status=None)

    def host_state(self) -> str:
        """All of the client's that is in no interface: rules, tables, firewall.

        Link-local addresses are left out: they are slow to come.
        """
        commands = ("ip rule", "ip -6 rule", "ip route show table all",
                    "ip -6 route show table all")  # fmt: skip
        told = [self.client.host.run(*command.split()) for command in commands]
        # A table that replaced itself is listed last.
        told += sorted(self.client.host.run("nft", "list", "ruleset").split("table "))
        return "\n".join(line for text in told for line in text.splitlines() if "fe80" not in line)


class Talker:
    """Sends a number to both outside addresses every millisecond, come what may."""

    def __init__(self, netns: str) -> None:
        self.next = 0
        self._netns = netns
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def pause(self, seconds: float) -> None:
        """Let it speak for a while."""
        time.sleep(seconds)

    def _run(self) -> None:
        places = [
            (inside(self._netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
             (OUTSIDE, _PORT)),
            (inside(self._netns, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
             (OUTSIDE_V6, _PORT)),
        ]  # fmt: skip
        while not self._stop.wait(0.001):
            data = b"plainly readable" + self.next.to_bytes(4, "big")
            self.next += 1
            for opened, place in places:
                try:
                    opened.setblocking(False)
                    opened.sendto(data, place)
                except OSError:
                    pass  # no way now, or forbidden: that is what is tested
        for opened, _ in places:
            opened.close()


class WireTap:
    """Everything that a host sends on a wire, from now on."""

    def __init__(self, netns: str, device: str) -> None:
        def tap() -> socket.socket:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            opened.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            opened.bind((device, 0))
            opened.setblocking(False)
            return opened

        self._socket = inside(netns, tap)

    def readable(self) -> dict[int, list[int]]:
        """By IP version, the numbers of the talker that could be read."""
        found: dict[int, list[int]] = {4: [], 6: []}
        while True:
            try:
                frame, (_, _, direction, *_) = self._socket.recvfrom(2048)
            except BlockingIOError:
                break
            head, mark, number = frame.partition(b"plainly readable")
            # Routers quote packets in errors, and may take seconds for it.
            if mark and direction == socket.PACKET_OUTGOING:
                version = 4 if head[12:14] == b"\x08\x00" else 6
                found[version].append(int.from_bytes(number[:4], "big"))
        return found

    def close(self) -> None:
        self._socket.close()


def wait_until_reached(machine: Machine, address: str) -> None:
    """A session is there, or there again; a talker takes the place of requests that wait."""
    wait_until(
        lambda: machine.host.ping(address, count=1, wait=0.5) == (1, 1), 30, f"{address} answers"
    )


@contextmanager
def talking(roads: Roads) -> Iterator[tuple[Talker, WireTap]]:
    """Somebody on the client talks, and somebody on its wire listens."""
    tap = WireTap(roads.client.host.netns, roads.wire)
    talker = Talker(roads.client.host.netns)
    talker.start()
    try:
        yield talker, tap
    finally:
        talker.stop()
        tap.close()
