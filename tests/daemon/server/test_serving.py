"""A server and its clients, as people type them: joined, leased, restarted, revoked, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nvpn.control.records import PeerRecord, parse_get
from tests.support.control_socket import Client
from tests.support.machines import Machine
from tests.support.world import SOCKETS, World, wait_until

pytestmark = pytest.mark.root

INSIDE = "10.8.0.1"
POOL = '["10.8.0.0/24", "fd42::/64"]'


class Site:
    """A server, and clients on machines beside it."""

    def __init__(self, world: World, *clients: str) -> None:
        self.server = Machine(world, "s")
        self.interface = f"{world.prefix}s"
        self._doors: dict[str, int] = {}
        self.clients = []
        for name in clients:
            machine = Machine(world, name)
            self._doors[name] = world.link(self.server.host, machine.host)
            self.clients.append(machine)

    def configure(self, pool: str = POOL, extra: str = "", peers: str = "") -> None:
        self.server.write(
            f"""
[interface]
private_key = "PRIVATE"
address = ["{INSIDE}/24", "fd42::1/64"]
listen_port = 51820

[server]
pool = {pool}
endpoint = "10.77.1.1:51820"
forward = true
{extra}
{peers}""",
            f"{self.interface}.toml",
        )

    def up(self) -> None:
        self.server.nvpn("up", f"./{self.interface}.toml")

    def join(self, client: Machine) -> None:
        door = f"10.77.{self._doors[client.name]}.1:51820"
        arguments = ("-i", self.interface, "--endpoint", door)
        invited = self.server.nvpn("invite", client.name, *arguments).stdout
        joined = ("--config", str(client.etc), "--name", "wg0")
        client.nvpn("join", invited.strip(), *joined)

    def reload(self) -> None:
        assert "errno=0" in self.ask("nvpn_reload=1")

    def listed(self) -> dict[str, Any]:
        """Clients by name."""
        (line, *_) = self.ask("nvpn_clients=1").splitlines()
        return {one["name"]: one for one in json.loads(line.partition("=")[2])["clients"]}

    def peers(self) -> dict[str, PeerRecord]:
        """By public key, as everybody sees them."""
        answer = self.ask("get=1").partition("errno=")[0]
        return {peer.public_key: peer for peer in parse_get("", answer.splitlines()).peers}

    def allowed_ips(self) -> dict[str, set[str]]:
        return {key: set(peer.allowed_ips) for key, peer in self.peers().items()}

    def handshakes(self) -> dict[str, tuple[int, int]]:
        return {key: peer.last_handshake for key, peer in self.peers().items()}

    def ask(self, operation: str) -> str:
        path = self.server.run_directory / f"{self.interface}.sock"
        with Client(str(path)) as client:
            return client.ask(f"{operation}\n\n")


def leased(machine: Machine) -> str:
    """The IPv4 address that a client has."""
    (address,) = (one for one in machine.addresses() if "." in one)
    return address.partition("/")[0]


@contextlib.contextmanager
def reachable_by_wg(site: Site) -> Iterator[None]:
    """`wg` looks for sockets in one place only."""
    path = SOCKETS / f"{site.interface}.sock"
    SOCKETS.mkdir(exist_ok=True)
    path.symlink_to(site.server.run_directory / path.name)
    try:
        yield
    finally:
        path.unlink()


def answers(machine: Machine, address: str, *arguments: str, seconds: float = 10) -> bool:
    return "1 received" in machine.host.run(
        "ping", "-c", "1", "-W", str(seconds), *arguments, address, check=False
    )


def test_clients_join_and_keep_what_they_have_whatever_happens_to_the_servers_file(
    world: World,
) -> None:
    site = Site(world, "ada", "bob")
    ada, bob = site.clients
    site.configure()
    site.up()
    for client in site.clients:
        site.join(client)
    clients = site.listed()
    assert set(clients) == {"ada", "bob"}
    assert clients["ada"]["is_connected"]
    assert answers(ada, INSIDE)
    assert answers(ada, "fd42::1")
    assert answers(ada, leased(bob))  # through the server, which forwards
    key = clients["ada"]["public_key"]
    held = site.allowed_ips()[key]
    assert len(held) == 2
    assert f"{leased(ada)}/32" in held

    # Nobody may send from another's address.
    ada.host.run("ip", "address", "add", f"{leased(bob)}/32", "dev", "wg0")
    assert not answers(ada, INSIDE, "-I", leased(bob), seconds=0.5)
    assert site.server.host.run("ip", "route", "get", leased(bob)).split()[2] == site.interface
    ada.host.run("ip", "address", "del", f"{leased(bob)}/32", "dev", "wg0")

    # wg's own ways to a file that knows of no client.
    before = site.handshakes()
    bare = site.server.etc / "bare.conf"
    bare.write_text(f"[Interface]\nPrivateKey = {site.server.key.reveal_base64()}\n")
    with reachable_by_wg(site):
        for command in ("syncconf", "setconf"):
            site.server.host.run("wg", command, site.interface, str(bare))
            site.server.nvpn(command, site.interface, str(bare))
        remove = ("set", site.interface, "peer", key, "remove")
        refused = site.server.nvpn(*remove, status=1).stderr
        assert refused == "Unable to modify interface: Operation not supported\n"
        said = ("sh", "-c", 'wg "$@" 2>&1', "wg", *remove)
        assert site.server.host.run(*said, check=False) == refused
        site.server.host.run("wg", "set", site.interface, "listen-port", "51820")
    assert site.allowed_ips()[key] == held
    site.configure(extra="mtu = 1380")
    site.reload()
    assert site.allowed_ips()[key] == held
    assert site.handshakes() == before
    assert answers(ada, INSIDE)

    # The file takes the client's key, and lets go of it again.
    site.configure(peers=f'[[peer]]\nname = "fixed"\npublic_key = "{key}"\n')
    site.reload()
    assert site.allowed_ips()[key] == held
    site.configure()
    site.reload()
    assert site.allowed_ips()[key] == held
    assert site.handshakes() == before

    # Another pool: who is outside of it is told, and asks again.
    site.configure(pool='["10.8.0.0/24", "fd43::/64"]')
    site.reload()
    wait_until(lambda: any("fd43:" in one for one in site.allowed_ips()[key]), 30, "a new lease")
    wait_until(
        lambda: any("fd43:" in one for one in ada.addresses()), 30, "ada has the new address"
    )

    site.server.nvpn("client", "revoke", "bob", "-i", site.interface)
    assert set(site.listed()) == {"ada"}
    assert clients["bob"]["public_key"] not in site.allowed_ips()
    assert not answers(bob, INSIDE, seconds=0.5)
    wait_until(lambda: not bob.addresses(), 30, "bob hears of it")
    assert answers(ada, INSIDE)
    for client in site.clients:
        client.nvpn("down", "wg0")
    wait_until(lambda: not site.allowed_ips()[key], 30, "ada has given its addresses back")
    site.server.nvpn("down", site.interface)
    assert site.server.is_clean(site.interface)


def test_clients_outlive_a_server_that_is_killed_and_hear_of_one_that_stops(world: World) -> None:
    site = Site(world, "ada")
    (ada,) = site.clients
    # Behind the server is somebody who knows nothing of clients and their addresses.
    behind = world.link(site.server.host, world.host("l"))
    routes = [f"10.77.{behind}.0/24", f"fd77:{behind}::/64", "10.8.0.0/24"]
    site.configure(extra=f"nat = true\nroutes = {routes}")
    site.up()
    site.join(ada)
    assert answers(ada, f"10.77.{behind}.2")
    assert answers(ada, f"fd77:{behind}::2")
    held, address = site.allowed_ips(), leased(ada)
    key = site.listed()["ada"]["public_key"]
    state = site.server.state_directory / f"{site.interface}.json"
    wait_until(lambda: key in state.read_text(), 30, "the server has written down where ada is")

    site.server.kill(site.interface)
    site.up()
    assert site.allowed_ips() == held
    # It was called by the server, and asks for nothing.
    wait_until(lambda: answers(site.server, address, seconds=0.5), 13, "ada is there")
    assert leased(ada) == address

    begun = time.monotonic()
    os.kill(site.server.pid(site.interface), signal.SIGTERM)
    wait_until(lambda: site.server.is_clean(site.interface), 30, "it has stopped")
    assert time.monotonic() - begun < 4
    site.up()
    # Its address was given back, and is leased again when ada asks, which it does soon.
    wait_until(lambda: site.allowed_ips() == held, 13, "ada has its address again")
    assert answers(site.server, address)
    for machine, name in ((ada, "wg0"), (site.server, site.interface)):
        machine.nvpn("down", name)


def test_a_reload_makes_a_server_of_a_tunnel_and_no_server_again(world: World) -> None:
    site = Site(world)
    site.configure()
    text = (site.server.etc / f"{site.interface}.toml").read_text()
    bare = text.partition("[server]")[0]
    site.server.write(bare, f"{site.interface}.toml")
    site.up()
    assert "is no server: its file has no [server]" in site.ask("nvpn_clients=1")
    site.server.write(text, f"{site.interface}.toml")
    site.reload()
    assert '"state":"open"' in site.ask("nvpn_invite=1\nname=ada")
    assert len(site.peers()) == 1
    site.server.write(bare, f"{site.interface}.toml")
    site.reload()
    assert "is no server" in site.ask("nvpn_clients=1")
    assert site.peers() == {}
    # What it knew is not forgotten.
    site.server.write(text, f"{site.interface}.toml")
    site.reload()
    assert len(site.peers()) == 1
    site.server.nvpn("down", site.interface)
