"""Two servers on one pool: their leases lie in a real etcd, and either of them may die."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.etcd import Etcd, needs_etcd
from tests.support.machines import Machine
from tests.support.world import World, wait_until

pytestmark = [pytest.mark.root, needs_etcd]


class Cluster:
    """Servers east and west, each with a way to the etcd and to the clients."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.store = world.host("e")
        self.servers = [Machine(world, name) for name in ("s", "t")]
        self.clients = [Machine(world, name) for name in ("ada", "bob")]
        # Where each server finds the etcd, and where each client finds each server.
        self._stores = [world.link(one.host, self.store) for one in self.servers]
        self._doors = {
            client.name: [world.link(one.host, client.host) for one in self.servers]
            for client in self.clients
        }
        self.etcd = Etcd(directory, listen="0.0.0.0", within=tuple(self.store.argv()))
        self.etcd.start()

    def interface(self, server: Machine) -> str:
        return f"{self.world.prefix}{server.name}"

    def up(self, place: int) -> None:
        server = self.servers[place]
        doors = [self.door(client, place) for client in self.clients]
        server.write(
            f"""
[interface]
private_key = "PRIVATE"
address = ["10.8.0.{place + 1}/24"]
listen_port = 51820

[server]
pool = ["10.8.0.0/24"]
endpoint = {json.dumps(doors)}
store = "etcd"
etcd = ["http://10.77.{self._stores[place]}.2:{self.etcd.port}"]
etcd_prefix = "/nvpn/office"

[resilience]
max_attempts = 2
initial_interval = 0.1
reset_timeout = 0.5
""",
            f"{self.interface(server)}.toml",
        )
        server.nvpn("up", f"./{self.interface(server)}.toml")

    def door(self, client: Machine, place: int) -> str:
        return f"10.77.{self._doors[client.name][place]}.1:51820"

    def join(self, client: Machine, place: int) -> str:
        """By one server; what the client is told of them."""
        server = self.servers[place]
        arguments = ("-i", self.interface(server), "--endpoint", self.door(client, place))
        invited = server.nvpn("invite", client.name, *arguments).stdout.strip()
        where = ("--config", str(client.etc), "--name", "wg0")
        joined = client.nvpn("join", invited, *where, "--no-up")
        client.nvpn("up", "./wg0.toml")
        return joined.stderr

    def know_each_other(self) -> bool:
        told = (
            json.loads(server.nvpn("show", self.interface(server), "--json").stdout)
            for server in self.servers
        )
        return all(one["interfaces"][0]["server"]["other_servers"] for one in told)

    def allowed_ips(self, place: int) -> dict[str, str]:
        server = self.servers[place]
        lines = server.record(self.interface(server))[1:]
        return {line[0]: line[3] for line in lines if line[3] != "(none)"}


@pytest.fixture
def cluster(world: World, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(world, tmp_path / "etcd")
    yield made
    made.etcd.kill()


def answers(machine: Machine, address: str, *, seconds: int = 10) -> bool:
    said = machine.host.run("ping", "-c1", f"-W{seconds}", address, check=False)
    return "1 received" in said


def keepalives(client: Machine) -> dict[str, str]:
    """With each server that it knows."""
    return {line[0]: line[-1] for line in client.record()[1:]}


def leased(machine: Machine) -> str:
    (address,) = machine.addresses()
    return address.partition("/")[0]


def test_a_client_goes_to_the_other_server_with_its_address_and_an_etcd_may_die(
    cluster: Cluster,
) -> None:
    ada, bob = cluster.clients
    north, south = (server.public_key for server in cluster.servers)
    cluster.up(0)
    assert "servers" not in cluster.join(ada, 0)
    assert keepalives(ada) == {north: "25"}
    cluster.up(1)
    wait_until(cluster.know_each_other, 30, "the servers know each other")
    assert "a client of 2 servers" in cluster.join(bob, 1)
    # Long before ada renews its lease, which is for a day.
    wait_until(lambda: keepalives(ada) == {north: "25", south: "off"}, 30, "ada hears of it")
    before = leased(ada)
    assert leased(bob) != before
    assert not {before, leased(bob)} & {"10.8.0.1", "10.8.0.2"}
    assert answers(ada, "10.8.0.1")
    assert answers(bob, "10.8.0.2")
    # Both servers know both, whoever admitted them.
    wait_until(lambda: cluster.allowed_ips(0) == cluster.allowed_ips(1), 30, "both know both")
    assert set(cluster.allowed_ips(0).values()) == {f"{before}/32", f"{leased(bob)}/32"}

    # The store dies: who has a lease goes on, and nobody is let in or out meanwhile.
    revoke = ("client", "revoke", "bob", "-i", cluster.interface(cluster.servers[0]))
    cluster.etcd.kill()
    assert answers(ada, "10.8.0.1")
    assert "etcd" in cluster.servers[0].nvpn(*revoke, status=1).stderr
    assert answers(bob, "10.8.0.2")
    cluster.etcd.start()
    server = cluster.servers[0]

    def is_revoked() -> bool:
        # Of what was done the answer may be lost while the store comes up.
        server.nvpn(*revoke, status=None)
        listed = server.nvpn("client", "list", "--json", "-i", cluster.interface(server)).stdout
        return "bob" not in {one["name"] for one in json.loads(listed)["clients"]}

    wait_until(is_revoked, 30, "etcd is back")
    wait_until(lambda: len(cluster.allowed_ips(1)) == 1, 30, "the other server hears of it")
    assert not answers(bob, "10.8.0.2", seconds=1)

    # A server goes: its client is at the other one at once, with its address.
    os.kill(server.pid(cluster.interface(server)), signal.SIGTERM)
    wait_until(lambda: answers(ada, "10.8.0.2", seconds=1), 30, "ada reaches the other server")
    assert leased(ada) == before
    assert keepalives(ada) == {north: "off", south: "25"}, "it can be reached there"
    assert cluster.allowed_ips(1) == {key_of(ada): f"{before}/32"}
    for client in cluster.clients:
        client.nvpn("down", "wg0")
    cluster.servers[1].nvpn("down", cluster.interface(cluster.servers[1]))


def key_of(machine: Machine) -> str:
    (line, *_) = machine.record()
    return str(line[1])
