"""A tunnel under siege: a server, a friend with a session, a newcomer without one, an enemy.

For the tests of floods and for ``scripts/bench flood``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvpn.model.keys import PrivateKey
from tests.support.world import Engine, Host, Tunnel, World

FLOODER = Path(__file__).with_name("flooder.py")
FRIEND, NEWCOMER, ENEMY = 2, 3, 4
"""Last bytes of their addresses in a tunnel; the server's is 1."""


@dataclass(frozen=True)
class Flood:
    """What the enemy sends: a kind of ``flooder.py``, from so many addresses."""

    kind: str
    sources: int = 1

    def __str__(self) -> str:
        many = f" from {self.sources} addresses" if self.sources > 1 else ""
        return self.kind.replace("-", " ") + many


class Siege:
    """Hosts around a server, each with a link of its own to it."""

    def __init__(self, world: World) -> None:
        self.server, self.friend, self.newcomer, self.enemy = (world.host(name) for name in "sfne")
        others = (self.friend, self.newcomer, self.enemy)
        self._links = {other.name: world.link(self.server, other) for other in others}
        self.enemy.run("ip", "route", "add", "local", "10.200.0.0/16", "dev", "lo")
        self.server.run("ip", "route", "add", "10.200.0.0/16", "via", self._address("e", 2))

    def _address(self, name: str, end: int) -> str:
        return f"10.77.{self._links[name]}.{end}"

    def tunnel(self, engine: Engine, number: int = 1) -> BesiegedTunnel:
        """A tunnel of the engine's between server, friend and newcomer, 10.9.NUMBER.0/24."""
        prefix, port = f"10.9.{number}", 51820 + number

        def end(host: Host, last: int) -> Tunnel:
            name = f"{host.world.prefix}{host.name}{number}"
            return host.tunnel(engine, (f"{prefix}.{last}/24",), port=port, interface=name)

        server = end(self.server, 1)
        friend, newcomer = end(self.friend, FRIEND), end(self.newcomer, NEWCOMER)
        traitor = PrivateKey(os.urandom(32))
        for peer, last in ((friend, FRIEND), (newcomer, NEWCOMER)):
            server.add_peer(peer, f"{prefix}.{last}/32")
        friend.add_peer(server, f"{prefix}.1/32", endpoint=f"{self._address('f', 1)}:{port}")
        server.wg_set("peer", traitor.public().base64, "allowed-ips", f"{prefix}.{ENEMY}/32")
        endpoint = f"{self._address('n', 1)}:{port}"
        return BesiegedTunnel(self, f"{prefix}.1", server, friend, newcomer, endpoint, traitor)

    def start(
        self, flood: Flood, tunnel: BesiegedTunnel, per_second: float, seconds: float
    ) -> subprocess.Popen[bytes]:
        """Let the enemy begin; returns once it has."""
        process = self.enemy.start(
            *(sys.executable, str(FLOODER), flood.kind, self._address("e", 1)),
            *(str(tunnel.server.port), tunnel.server.public_key),
            *(str(per_second), str(seconds), str(flood.sources)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(tunnel.traitor.reveal_base64().encode())
        process.stdin.close()
        begun = process.stdout.readline() == b"begun\n"
        assert begun, f"{flood}: the tunnel did not let the enemy prepare it"
        return process


@dataclass
class BesiegedTunnel:
    """The ends of a tunnel. ``traitor`` is the key of a peer that nobody but the enemy has."""

    siege: Siege
    address: str
    server: Tunnel
    friend: Tunnel
    newcomer: Tunnel
    endpoint: str
    traitor: PrivateKey

    def start_newcomer(self, patience: float) -> subprocess.Popen[bytes]:
        """Let the newcomer ping, as if it had never heard of the server: see :func:`waited`."""
        self.newcomer.wg_set("peer", self.server.public_key, "remove")
        self.newcomer.add_peer(self.server, f"{self.address}/32", endpoint=self.endpoint)
        return self.newcomer.host.start(
            *("ping", "-n", "-q", "-c", "1", "-W", str(patience), self.address),
            stdout=subprocess.PIPE,
        )

    def start_pings(self, count: int, interval: float) -> subprocess.Popen[bytes]:
        """Let the friend ping; :func:`received` tells how many were answered."""
        return self.friend.host.start(
            *("ping", "-n", "-q", "-c", str(count), "-i", str(interval), "-W", "2", self.address),
            stdout=subprocess.PIPE,
        )

    def overflowed(self) -> int:
        """Datagrams that the server's sockets had no room for, since they are there."""
        lines = self.siege.server.run("cat", "/proc/net/snmp").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Udp:"))
        return int(values[names.index("RcvbufErrors")])

    def memory_kib(self) -> int:
        """What the server's process has resident."""
        assert self.server.process is not None
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1])


def received(pings: subprocess.Popen[bytes]) -> int:
    """How many of the pings were answered, once they are over."""
    told = pings.communicate()[0].decode()
    return int(told.split(" packets transmitted, ")[1].split()[0])


def waited(newcomer: subprocess.Popen[bytes]) -> float | None:
    """How many seconds the newcomer's ping took, handshake included; None if it was lost."""
    told = newcomer.communicate()[0].decode()
    return float(told.split("rtt ")[1].split("/")[4]) / 1000 if "rtt " in told else None


def outcome(flood: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the enemy has to tell, once it is over."""
    assert flood.stdout is not None
    told: dict[str, Any] = json.loads(flood.stdout.read().splitlines()[-1])
    return told
