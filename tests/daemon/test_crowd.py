"""A server and a crowd of clients: all are served, and none is at the mercy of another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.machines import Machine
from tests.support.world import World, wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow]

STORM = Path(__file__).parents[1] / "support" / "storm.py"
SOURCES = 512
INSIDE = "10.8.0.1"


class Crowd:
    """A server with a /22 to lease, and ``count`` clients on one machine beside it."""

    def __init__(self, world: World, count: int) -> None:
        self.server = Machine(world, "s")
        self.clients = world.host("c")
        self._link = world.link(self.server.host, self.clients)
        self.clients.run("ip", "route", "add", "local", "10.200.0.0/16", "dev", "lo")
        self.server.host.run("ip", "route", "add", "10.200.0.0/16", "via", self._address(2))
        self.keys = [PrivateKey(os.urandom(32)) for _ in range(count)]
        peers = "".join(
            f'[[peer]]\nname = "client{number}"\npublic_key = "{key.public().base64}"\n'
            for number, key in enumerate(self.keys)
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

    def play(self, mode: str, *arguments: object, first: int | None = None) -> Any:
        """What ``storm.py`` has to say, of all clients or of the first."""
        done = subprocess.run(
            self.clients.argv(
                *(sys.executable, str(STORM), mode, f"{self._address(1)}:51820"),
                *(self.server.public_key, str(SOURCES), *map(str, arguments)),
            ),
            input="".join(f"{key.reveal_base64()}\n" for key in self.keys[:first]),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def leased(self) -> dict[str, set[str]]:
        """What the server's own table says, by the number of the client."""
        numbers = {key.public().base64: number for number, key in enumerate(self.keys)}
        text = self.server.nvpn("show", "wg0", "allowed-ips").stdout
        lines = [line.split() for line in text.splitlines()]
        return {str(numbers[key]): set(prefixes) - {"(none)"} for key, *prefixes in lines}

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


def test_five_hundred_clients_are_leased_in_ten_seconds_and_survive_a_kill(world: World) -> None:
    crowd = Crowd(world, 500)
    crowd.server.nvpn("up", "wg0.toml")

    told = crowd.play("lease")

    assert told["failed"] == {}
    given = hosts_of(told["leased"])
    assert len(given) == 500
    assert all(len(addresses) == 2 for addresses in given.values())
    assert len(set().union(*given.values())) == 1000, "nobody has what another has"
    assert told["seconds"] < 10
    assert crowd.leased() == given

    os.kill(crowd.server.pid(), signal.SIGKILL)
    wait_until(lambda: not crowd.server.has_link(), 3, "the kernel took the interface away")
    crowd.server.nvpn("up", "wg0.toml")

    assert crowd.leased() == given, "all leases are there again before anybody asks"
    again = hosts_of(crowd.play("lease", first=20)["leased"])
    assert again == {number: given[number] for number in again}
    assert len(again) == 20


def test_ten_of_fifty_clients_that_misbehave_are_nobody_elses_trouble(world: World) -> None:
    crowd = Crowd(world, 50)
    crowd.server.nvpn("up", "wg0.toml")

    told = crowd.play("beside", 10, 25, INSIDE)

    for when in ("alone", "beside"):
        assert told[when]["sent"] == 40 * 25
        assert told[when]["answered"] >= 40 * 25 * 0.99, told
    assert told["renewed"]["failed"] == {}
    leased = crowd.leased()
    assert hosts_of(told["renewed"]["leased"]).items() <= leased.items()
    assert len(leased) == 50, "nobody was let in"
    held = [address for addresses in leased.values() for address in addresses]
    assert len(held) == len(set(held))
    assert not {f"{INSIDE}/32", "fd42::1/128"} & set(held)
    drops = json.loads(crowd.server.nvpn("show", "wg0", "--json").stdout)
    assert "source-not-allowed" in json.dumps(drops)
    wait_until(lambda: crowd.memory_kib() < 200_000, 3, "memory is what it was")
