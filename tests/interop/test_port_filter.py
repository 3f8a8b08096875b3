"""A host behind its port filter, and a stock WireGuard peer that tries what it may begin."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.machines import Machine
from tests.support.pinging import inside
from tests.support.world import Host, World, engine, wait_until

pytestmark = [pytest.mark.root, pytest.mark.interop]

HERE, THERE = "10.9.0.1", "10.9.0.2"
SHORT = 0.15
"""Seconds after which nothing will come, on a road that takes less than a millisecond."""


class Behind:
    """Alice with nvpn behind a filter, Bob with wireguard-go."""

    def __init__(self, world: World) -> None:
        self.alice = Machine(world, "a")
        self.bob = world.host("b")
        world.link(self.alice.host, self.bob)
        self.far = self.bob.tunnel(engine("wireguard-go-2022"), (f"{THERE}/24", "fd09::2/64"))
        self.far.wg_set(
            *("peer", self.alice.public_key, "allowed-ips", f"{HERE}/32,fd09::1/128"),
            *("endpoint", "10.77.1.1:51820"),
        )

    def write(self, interface: str, peer: str = "") -> None:
        self.alice.write(f"""
[interface]
private_key = "PRIVATE"
address = ["{HERE}/24", "fd09::1/64"]
listen_port = 51820
{interface}
[[peer]]
public_key = "{self.far.public_key}"
allowed_ips = ["{THERE}/32", "fd09::2/128"]
endpoint = "10.77.1.2:51820"
{peer}
""")

    def filtered(self) -> int:
        """How many packets were dropped, as people are told: all are this peer's."""
        (tunnel,) = json.loads(self.alice.nvpn("show", "wg0", "--json").stdout)["interfaces"]
        count: int = tunnel["drops"].get("filtered", 0)
        assert tunnel["peers"][0]["filtered"] == count
        return count


@contextlib.contextmanager
def listening(host: Host, address: str, port: int) -> Iterator[socket.socket]:
    with inside(host.netns, socket.socket) as server:
        server.settimeout(30)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen()
        yield server


def retransmitted(host: Host) -> int:
    """How many segments of TCP it has sent again: who is kept waiting knocks once a second."""
    lines = host.run("cat", "/proc/net/snmp").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def reaches(host: Host, address: str, port: int, seconds: float = 30) -> bool:
    """Whether a connection begins."""
    with inside(host.netns, socket.socket) as client:
        client.settimeout(seconds)
        try:
            client.connect((address, port))
        except TimeoutError:
            return False
        return True


def udp(host: Host, address: str, port: int = 0) -> socket.socket:
    def make() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    opened = inside(host.netns, make)
    opened.settimeout(30)
    opened.bind((address, port))
    return opened


def is_answered(alice: Host, bob: Host, size: int) -> bool:
    """Whether an answer of so many bytes comes."""
    with udp(alice, HERE) as client, udp(bob, THERE, 53) as server:
        client.sendto(b"?", (THERE, 53))
        _, whence = server.recvfrom(99)
        server.sendto(bytes(size), whence)
        return len(client.recv(65536)) == size


def test_a_peer_begins_what_it_may_and_answers_what_it_is_asked(world: World) -> None:
    behind = Behind(world)
    alice, bob = behind.alice, behind.bob
    behind.write('disallowed_ports = ["tcp/1-1023", "icmp"]')
    alice.nvpn("up", "wg0.toml")

    with listening(alice.host, HERE, 22), listening(alice.host, HERE, 8080):
        # Ours first: pings, and large ones in pieces; whole answers, and such in pieces.
        assert alice.host.ping(THERE, count=2) == (2, 2)
        assert alice.host.ping(THERE, count=2, size=4000) == (2, 2)
        assert alice.host.ping("fd09::2", count=2, size=4000) == (2, 2)
        assert is_answered(alice.host, bob, 100)
        assert is_answered(alice.host, bob, 9000)

        assert reaches(bob, HERE, 8080)
        before = retransmitted(bob)
        assert not reaches(bob, HERE, 22, SHORT)
        packets = 3 + retransmitted(bob) - before
        assert bob.ping(HERE, count=1, wait=SHORT) == (1, 0)
        assert bob.ping("fd09::1", count=1, wait=SHORT) == (1, 0)
        wait_until(lambda: behind.filtered() == packets, 30, f"{packets} packets are counted")

        # Nothing at all may begin; what we begin goes on as before.
        behind.write("allowed_ports = []")
        assert alice.nvpn("reload", "wg0").stderr == ""
        assert not reaches(bob, HERE, 8080, SHORT)
        with listening(bob, THERE, 80):
            assert reaches(alice.host, THERE, 80)
        assert is_answered(alice.host, bob, 9000)
        with udp(alice.host, HERE) as client:
            client.connect((THERE, 9))
            client.send(b"is anybody there?")
            with pytest.raises(ConnectionRefusedError):
                client.recv(99)

        # The peer's own list holds instead of the interface's.
        behind.write("allowed_ports = []", 'allowed_ports = [22, "icmp"]')
        assert alice.nvpn("reload", "wg0").stderr == ""
        assert reaches(bob, HERE, 22)
        assert not reaches(bob, HERE, 8080, SHORT)
        assert bob.ping(HERE, count=2, size=4000) == (2, 2)
