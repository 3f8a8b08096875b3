"""A server of many clients, all of them played by one process on one machine beside it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvpn.model.keys import PrivateKey
from tests.support.machines import Machine
from tests.support.world import World

STORM = Path(__file__).with_name("storm.py")
SOURCES = 512
INSIDE = "10.8.0.1"


class Crowd:
    """A server with a /22 to lease, and ``count`` clients on one machine beside it.

    ``guest`` is one more client, on a machine of its own; its tunnel is for others to bring up.
    """

    def __init__(self, world: World, count: int) -> None:
        self.server = Machine(world, "s")
        self.clients = world.host("c")
        self._link = world.link(self.server.host, self.clients)
        self.clients.run("ip", "route", "add", "local", "10.200.0.0/16", "dev", "lo")
        self.server.host.run("ip", "route", "add", "10.200.0.0/16", "via", self._address(2))
        self.guest = Machine(world, "g")
        door = world.link(self.server.host, self.guest.host)
        self.keys = [PrivateKey(os.urandom(32)) for _ in range(count)]
        peers = "".join(
            f'[[peer]]\nname = "client{number}"\npublic_key = "{key.public().base64}"\n'
            for number, key in enumerate((*self.keys, self.guest.key))
        )
        self.guest.write(
            f"""
[interface]
private_key = "PRIVATE"

[[peer]]
public_key = "{self.server.public_key}"
endpoint = "10.77.{door}.1:51820"
server = true
"""
        )
        self.server.write(
            f"""
[interface]
private_key = "PRIVATE"
address = ["{INSIDE}/22", "fd42::1/64"]
listen_port = 51820

[server]
pool = ["10.8.0.0/22", "fd42::/64"]
endpoint = "{self._address(1)}:51820"

{peers}"""
        )

    def _address(self, end: int) -> str:
        return f"10.77.{self._link}.{end}"

    def lease(self, first: int | None = None) -> Any:
        """Let all, or the first, ask for a lease: what ``storm.py`` has to say."""
        return json.loads(self._finish(self._play("lease", slice(first))))

    def ping(self, which: slice, pings: int) -> Any:
        """Let some ping the server's inside, as often as that."""
        return json.loads(self._finish(self._play("ping", which, pings, INSIDE)))

    @contextlib.contextmanager
    def misbehaving(self, which: slice, how: str = "misbehave") -> Iterator[int]:
        """Let some do what they should not (``stall`` or ``misbehave``), all in one process."""
        process = self._play(how, which, INSIDE)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "begun\n", self._finish(process)
            yield process.pid
            assert process.poll() is None, "they went on until now"
        finally:
            process.kill()
            process.communicate()

    def _play(self, mode: str, which: slice, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.clients.argv(
                *(sys.executable, str(STORM), mode, f"{self._address(1)}:51820"),
                *(self.server.public_key, str(SOURCES), *map(str, arguments)),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        for number, key in list(enumerate(self.keys))[which]:
            process.stdin.write(f"{number} {key.reveal_base64()}\n")
        process.stdin.close()
        process.stdin = None  # what communicate() would flush
        return process

    @staticmethod
    def _finish(process: subprocess.Popen[str]) -> str:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out

    def peers(self) -> dict[str, set[str]]:
        """The server's own table: what everybody has, by key."""
        text = self.server.nvpn("show", "wg0", "allowed-ips").stdout
        lines = [line.split() for line in text.splitlines()]
        return {key: set(prefixes) - {"(none)"} for key, *prefixes in lines}

    def leased(self) -> dict[str, set[str]]:
        """The same of the clients that were played, by number."""
        table = self.peers()
        return {str(number): table[key.public().base64] for number, key in enumerate(self.keys)}

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.server.pid()}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


def hosts_of(leases: dict[str, list[str]]) -> dict[str, set[str]]:
    """Addresses with the lengths of their networks, as prefixes of one address each."""
    return {
        number: {
            f"{address.partition('/')[0]}/{128 if ':' in address else 32}" for address in addresses
        }
        for number, addresses in leases.items()
    }
