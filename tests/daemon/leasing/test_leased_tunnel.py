"""A tunnel whose addresses and routes come from a server, as its host sees it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.machines import Machine
from tests.support.world import World, wait_until

pytestmark = pytest.mark.root


def serve(machine: Machine, net: str, *, terms: str = "", peers: str = "") -> None:
    """A server at ``net``.1 that leases from ``net``.0/24."""
    machine.write(
        f"""
[interface]
private_key = "PRIVATE"
address = ["{net}.1/24"]
listen_port = 51820

[server]
pool = ["{net}.0/24"]
{terms}
{peers}""",
    )
    machine.nvpn("up", "wg0.toml")


def lease(machine: Machine) -> Any:
    (tunnel,) = json.loads(machine.nvpn("show", "--json").stdout)["interfaces"]
    return tunnel["lease"]


def rules(machine: Machine) -> int:
    return len(machine.host.run("ip", "rule").splitlines())


def is_in_the_list_of_processes(word: str) -> bool:
    """Whether anybody on this host can read it there."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if word.encode() in file.read_bytes():
                return True
    return False


def test_a_joined_client_lives_by_what_the_server_tells(world: World) -> None:
    server, client = Machine(world, "s"), Machine(world, "c")
    world.link(server.host, client.host)
    told = (
        'endpoint = "10.77.1.1"\nroutes = ["0.0.0.0/0", "10.77.1.0/24", "127.0.0.0/8"]\nmtu = 1300'
    )
    serve(server, "10.8.1", terms=told)
    invitation = server.nvpn("invite", "laptop").stdout.strip()
    before = client.outside()

    joining = client.nvpn("join", invitation, "--config", str(client.etc), "--name", "wg0")
    assert not is_in_the_list_of_processes(invitation)
    (address,) = client.addresses()
    assert joining.stdout == f"wg0 is up with {address}\n"
    assert client.host.ping("10.8.1.1", count=2) == (2, 2)
    (link,) = client.ip("link", "show", "wg0")
    assert link["mtu"] == 1300
    # Of the routes the default one has its rules; where the server itself is none leads.
    assert "10.77.1.0/24" not in client.routes()
    assert rules(client) == 5
    assert lease(client)["state"] == "leased"
    assert lease(client)["addresses"] == [address]

    # What is leased is nobody's to write down, or to lose in a reload.
    file = client.etc / "wg0.toml"
    client.nvpn("save", "wg0")
    assert not {"address", "allowed_ips", "mtu", "fwmark"} & set(file.read_text().split())
    file.write_text(file.read_text().replace("[[peer]]", 'address = "10.9.9.9/32"\n\n[[peer]]'))
    client.nvpn("reload", "wg0")
    assert client.addresses() == {address, "10.9.9.9/32"}
    assert client.host.ping("10.8.1.1", count=1) == (1, 1)

    # What the server's file tells otherwise reaches its clients at once.
    there = server.etc / "wg0.toml"
    there.write_text(there.read_text().replace("mtu = 1300", "mtu = 1280"))
    server.nvpn("reload", "wg0")
    wait_until(lambda: client.ip("link", "show", "wg0")[0]["mtu"] == 1280, 30, "it is told")

    # The server may be restarted: it says that it goes, and is found again.
    server.nvpn("down", "wg0")
    server.nvpn("up", "wg0.toml")
    wait_until(lambda: client.host.ping("10.8.1.1", count=1, wait=1) == (1, 1), 13, "it is back")
    assert client.addresses() == {address, "10.9.9.9/32"}

    # The end gives everything back, and the next start gets the same again.
    client.nvpn("down", "wg0")
    assert client.is_clean()
    assert client.outside() == before
    (listed,) = json.loads(server.nvpn("client", "list", "--json").stdout)["clients"]
    assert not listed["is_leased"]
    assert client.nvpn("up", "wg0.toml").stderr == ""
    assert client.addresses() == {address, "10.9.9.9/32"}

    # Whoever is revoked keeps what is in its file, and nothing else.
    server.nvpn("client", "revoke", "laptop")
    wait_until(lambda: client.addresses() == {"10.9.9.9/32"}, 30, "the lease is taken away")
    wait_until(lambda: client.outside() == before, 30, "its routes are, too")
    assert lease(client)["state"] != "leased"
    assert lease(client)["trouble"] == "the server has revoked this client"


def test_a_client_goes_to_the_next_server_when_one_says_that_it_goes(world: World) -> None:
    servers, client = [Machine(world, "s"), Machine(world, "t")], Machine(world, "c")
    for number, server in enumerate(servers, 1):
        world.link(server.host, client.host)
        peer = f'[[peer]]\npublic_key = "{client.public_key}"\n'
        serve(server, f"10.8.{number}", peers=peer)
    peers = "".join(
        f'[[peer]]\nname = "{server.name}"\npublic_key = "{server.public_key}"\n'
        f'endpoint = "10.77.{number}.1:51820"\nserver = true\n'
        for number, server in enumerate(servers, 1)
    )
    client.write(f'[interface]\nprivate_key = "PRIVATE"\n{peers}')
    assert client.nvpn("up", "wg0.toml").stderr == ""
    assert client.routes() == {"10.8.1.0/24"}
    assert client.host.ping("10.8.1.1", count=1) == (1, 1)

    servers[0].nvpn("down", "wg0")
    wait_until(lambda: client.routes() == {"10.8.2.0/24"}, 30, "the other server leases")
    assert client.host.ping("10.8.2.1", count=1) == (1, 1)
    (address,) = client.addresses()
    assert address.startswith("10.8.2.")
