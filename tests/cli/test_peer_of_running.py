"""Peers come and go in the file and in the tunnel that is up, together or not at all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.machines import Machine
from tests.support.peer_files import BOB, CONF, NEW, TOML
from tests.support.world import World, new_world

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("peers")) as made:
        yield made


@pytest.fixture(scope="module")
def machines(world: World) -> tuple[Machine, Machine]:
    """A server on 10.77.1.1, up with :data:`TOML`, and a machine that has nothing."""
    server, client = Machine(world, "a"), Machine(world, "b")
    world.link(server.host, client.host)
    server.write(TOML)
    server.nvpn("up", "wg0.toml")
    return server, client


def test_what_is_printed_brings_the_other_side_up(machines: tuple[Machine, Machine]) -> None:
    server, client = machines
    arguments = ("--tunnel", "wg0.toml", "--endpoint", "10.77.1.1", "--psk", "-o", "phone.conf")
    done = server.nvpn("peer", "add", "phone", *arguments)
    assert done.stderr == ""

    client.write((server.etc / "phone.conf").read_text(), "wg0.conf")
    client.nvpn("up", "wg0.conf")

    assert client.host.ping("10.8.0.1", count=2) == (2, 2)
    rows = server.nvpn("peer", "list", "--tunnel", "wg0.toml").stdout.splitlines()
    assert rows[2].split()[0] == "phone"
    assert rows[2].split()[2] in ("now", *map(str, range(60)))
    assert [row[0] for row in server.record()[1:]] == [row.split()[1] for row in rows[1:]]

    assert server.nvpn("peer", "rm", "phone", "--tunnel", "wg0.toml").stderr == ""

    assert [row[0] for row in server.record()[1:]] == [BOB]
    assert (server.etc / "wg0.toml").read_text() == TOML


def test_when_the_tunnel_refuses_the_file_is_as_before(machines: tuple[Machine, Machine]) -> None:
    server, _ = machines
    server.host.run("ip", "route", "add", "10.50.0.0/16", "dev", "lo")

    refused = server.nvpn(
        "peer", "add", "office", "--public-key", NEW, "--tunnel", "wg0.toml",
        "--allowed-ips", "10.8.0.9,10.50.0.0/16", status=1,
    )  # fmt: skip

    assert "10.50.0.0/16" in refused.stderr
    assert (server.etc / "wg0.toml").read_text() == TOML
    assert [row[0] for row in server.record()[1:]] == [BOB]


def test_another_file_of_the_same_name_is_not_taken_for_the_tunnels(
    machines: tuple[Machine, Machine],
) -> None:
    server, _ = machines
    (server.etc / "other").mkdir()
    other = server.write(TOML, "other/wg0.toml")

    refused = server.nvpn("peer", "rm", "bob", "--tunnel", str(other), status=1)

    assert refused.stderr == (
        "error: cannot change the running wg0; it was started from another file than"
        f" {other}; name that one\n"
    )
    assert other.read_text() == TOML
    assert [row[0] for row in server.record()[1:]] == [BOB]


def test_what_a_server_has_leased_is_nobody_elses(machines: tuple[Machine, Machine]) -> None:
    server, _ = machines
    text = (server.etc / "wg0.toml").read_text()
    server.write(f'{text}\n[server]\npool = "10.8.0.0/29"\nendpoint = "10.77.1.1"\n')
    server.nvpn("reload", "wg0")
    for name in "abcd":  # all that there are beside ours and Bob's
        server.nvpn("peer", "add", name, "--from-pool", "-i", "wg0", "-o", f"{name}.conf")
    server.nvpn("peer", "add", "laptop", "-i", "wg0.toml", "-o", "laptop.conf")
    assert "Address = 10.8.0.7/32" in (server.etc / "laptop.conf").read_text()


def test_a_tunnel_without_a_file_is_told_the_change_alone(
    machines: tuple[Machine, Machine],
) -> None:
    """As `wg-quick` runs nvpn: the file is wg-quick's, and the device knows of none."""
    server, _ = machines
    server.nvpn("device", "wg7")
    file = server.write(CONF, "wg7.conf")

    added = server.nvpn(
        "peer", "add", "office", "--public-key", NEW, "--tunnel", "wg7.conf",
        "--endpoint", "localhost:5",
    )  # fmt: skip
    assert added.stderr == (
        "warning: wg7 was not started by nvpn from a file, so that no routes have changed\n"
    )
    ((key, _, endpoint, allowed_ips, *_),) = server.record("wg7")[1:]
    assert (key, allowed_ips) == (NEW, "10.8.0.3/32,fd08::2/128")
    assert endpoint in ("127.0.0.1:5", "[::1]:5")

    server.nvpn("peer", "rm", NEW, "--tunnel", "wg7.conf")
    assert server.record("wg7")[1:] == []
    assert file.read_text() == CONF
    server.nvpn("down", "wg7")
