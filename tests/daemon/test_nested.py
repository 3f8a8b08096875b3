"""Several tunnels with default routes at once: one in the other, ours and wg-quick's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.machines import Machine
from tests.support.roads import OUTSIDE, OUTSIDE_V6, ROUTER, SERVER, Roads, wait_until_reached
from tests.support.world import new_world, wait_until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roads]:
    with new_world(tmp_path_factory.mktemp("roads")) as world:
        made = Roads(world)
        made.serve("wg0", number=9, port=51820)
        made.serve("wg1", number=8, port=51821)
        yield made


@pytest.fixture
def roads(shared: Roads) -> Iterator[Roads]:
    yield shared
    shared.tidy()


def received(roads: Roads, name: str) -> int:
    """Bytes that came out of a tunnel of the client."""
    return int(roads.client.record(name)[1][5])


@pytest.mark.parametrize(("first", "switch"), [("wg0", ""), ("wg1", "kill_switch = true")])
def test_a_tunnel_through_the_other_and_either_may_go_first(
    roads: Roads, first: str, switch: str
) -> None:
    client = roads.client
    before = roads.host_state()
    client.write(roads.configuration(switch), "wg0.toml")
    # Its endpoint is an outside address, which is reached through wg0.
    inner = roads.configuration(switch, number=8, endpoint=f"{OUTSIDE}:51821")
    client.write(inner, "wg1.toml")
    client.nvpn("up", "wg0.toml")
    alone = roads.host_state()

    client.nvpn("up", "wg1.toml")

    assert client.host.ping(OUTSIDE_V6) == (3, 3)
    (route,) = client.ip("route", "get", OUTSIDE)
    assert route["dev"] == "wg1"
    (route,) = client.ip("route", "get", OUTSIDE, "mark", "51821")
    assert route["dev"] == "wg0"
    (route,) = client.ip("route", "get", SERVER, "mark", "51820")
    assert route["dev"] == roads.wire
    outer, within = received(roads, "wg0"), received(roads, "wg1")
    assert client.host.ping(OUTSIDE) == (3, 3)
    assert received(roads, "wg1") >= within + 3 * 84
    assert received(roads, "wg0") >= outer + 3 * (84 + 60)
    assert client.host.ping(ROUTER) == (3, 3)

    client.nvpn("down", first)
    other = "wg1" if first == "wg0" else "wg0"
    assert client.host.ping(ROUTER) == (3, 3)
    if first == "wg1":
        # The kill switch of the one lets the other's packets pass no more, soon.
        wait_until(lambda: roads.host_state() == alone, 30, "all is as before the second")
    elif not switch:
        # Its packets go directly now. The server answers as soon as it has heard from there.
        wait_until_reached(client, OUTSIDE)
    client.nvpn("down", other)
    assert roads.host_state() == before


def beyond(roads: Roads) -> tuple[Machine, str]:
    """A server behind the other one, and where it is: no way to it but through ``wg0``.

    Until our packets escape, the other tunnel catches some. Here they end: handed on to our
    server they would teach it, and then us, that the way to us leads through the other tunnel.
    """
    server = Machine(roads.client.world, "f")
    link = server.world.link(roads.server.host, server.host)
    roads.server.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    server.host.run("ip", "route", "add", "default", "via", f"10.77.{link}.1")
    server.host.run("ip", "address", "add", f"{OUTSIDE}/32", "dev", "lo")
    server.write(
        f"""
[interface]
private_key = "PRIVATE"
address = "10.8.0.1/24"
listen_port = 51821
[[peer]]
public_key = "{roads.client.public_key}"
allowed_ips = ["10.8.0.2/32"]
"""
    )
    server.nvpn("up", "wg0.toml")
    return server, f"10.77.{link}.2"


@pytest.mark.interop
@pytest.mark.skipif(not shutil.which("wg-quick"), reason="needs wg-quick")
@pytest.mark.parametrize("ours_first", (False, True))
def test_a_default_tunnel_of_wg_quick_beside_ours(roads: Roads, ours_first: bool) -> None:
    client = roads.client
    made = client.host.run(
        "ip", "link", "add", "r5probe", "type", "wireguard", check=False
    ) or client.ip("link")
    if any(link["ifname"] == "r5probe" for link in made):
        pytest.skip("wg-quick prefers this kernel's own WireGuard")
    before = roads.host_state()
    name = f"r5{os.getpid() % 100_000}"
    server, where = beyond(roads) if ours_first else (roads.server, SERVER)
    path = client.write(
        f"""
[Interface]
PrivateKey = PRIVATE
Address = 10.8.0.2/24, fd08::2/64
[Peer]
PublicKey = {server.public_key}
Endpoint = {where}:51821
AllowedIPs = 0.0.0.0/0, ::/0
""",
        f"{name}.conf",
    )
    program = client.directory / "nvpn"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nvpn "$@"\n')
    program.chmod(0o755)
    environment = {**client.environment, "WG_QUICK_USERSPACE_IMPLEMENTATION": str(program)}
    del environment["NVPN_RUNTIME_DIR"]  # wg looks for the socket where everybody does

    def wg_quick(verb: str) -> None:
        command = client.host.argv("wg-quick", verb, str(path))
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    client.write(roads.configuration())
    if ours_first:
        client.nvpn("up", "wg0.toml")
    wg_quick("up")
    try:
        # Whoever came last is on top; when that is wg-quick, our packets need an escape.
        if ours_first:
            escape = "from all fwmark 0xca6c lookup main proto 110"
            wait_until(lambda: escape in client.host.run("ip", "rule"), 30, "an escape")
        else:
            client.nvpn("up", "wg0.toml")
        wait_until_reached(client, OUTSIDE)
        (route,) = client.ip("route", "get", OUTSIDE)
        assert route["dev"] == (name if ours_first else "wg0")
    finally:
        wg_quick("down")

    # It has taken our rules along that look like its own, and we have put them back.
    wait_until(
        lambda: "main suppress" in client.host.run("ip", "rule"), 30, "the rule is there again"
    )
    wait_until_reached(client, OUTSIDE)
    (route,) = client.ip("route", "get", ROUTER)
    assert route["dev"] == roads.wire
    client.nvpn("down", "wg0")
    assert roads.host_state() == before
