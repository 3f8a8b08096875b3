"""Endpoints that go away without a word: what takes its time, all of it in one go."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.machines import Machine
from tests.support.resolved import NamedMachine, serve_names
from tests.support.world import Tunnel, World, engine, wait_until

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.slow]


def bring_up(machine: NamedMachine, name: str, far: Tunnel, number: int, endpoints: str) -> None:
    """A tunnel to 10.9.N.2; the other side is told of it, too."""
    far.wg_set("peer", machine.public_key, "allowed-ips", f"10.9.{number}.1/32")
    machine.write(
        f"""
[interface]
private_key = "PRIVATE"
address = "10.9.{number}.1/24"
[[peer]]
public_key = "{far.public_key}"
allowed_ips = ["10.9.{number}.2/32"]
endpoints = [{endpoints}]
""",
        f"{name}.toml",
    )
    machine.nvpn("up", f"./{name}.toml")


@pytest.mark.parametrize("datapath", ["native"], indirect=True)
def test_who_falls_silent_is_found_elsewhere_and_no_resolver_holds_packets_up(
    world: World,
) -> None:
    near = NamedMachine(world, "a")
    server, spare, names = world.host("b"), world.host("c"), Machine(world, "d")
    for far in (server, server, spare, names.host):
        world.link(near.host, far)
    dropped, named = f"{world.prefix}x", f"{world.prefix}y"
    first = server.tunnel(engine("wireguard-go"), ("10.9.1.2/24",))
    old = server.tunnel(engine("nvpn"), ("10.9.2.2/24",), port=51821, interface=f"{world.prefix}o")
    # Nobody answers for never.test: a look-up of it hangs until the C library gives up.
    never = "never.test,10.77.4.9"
    serve_names(names, "10.77.4.2", "vpn.test,10.77.1.2,30", hanging=never)
    dnsmasq = world.processes[-1]
    near.resolv_conf.write_text("nameserver 10.77.4.2\n")

    for way in ("10.77.1.2", "10.77.2.2", "10.77.3.2"):
        near.host.run("ping", "-c1", "-w10", way)
    bring_up(near, named, old, 2, '"vpn.test:51821"')
    ways = '"10.77.1.2:51820", "10.77.2.2:51820", "never.test:51820"'
    bring_up(near, dropped, first, 1, ways)
    assert near.host.ping("10.9.1.2", count=100, interval=0.02) == (100, 100)
    assert near.host.ping("10.9.2.2") == (3, 3)

    # One server cannot be reached any more by the way that was taken, the other one dies and
    # lives on elsewhere, and its name says so.
    way = str(near.record(dropped)[1][2])
    address = way.rpartition(":")[0]
    server.run("nft", "add table inet e5")
    for hook, end in (("input", "daddr"), ("output", "saddr")):
        server.run("nft", f"add chain inet e5 {hook} {{ type filter hook {hook} priority 0; }}")
        server.run("nft", f"add rule inet e5 {hook} ip {end} {address} drop")
    old.kill(signal.SIGKILL)
    dnsmasq.terminate()
    dnsmasq.wait()
    serve_names(names, "10.77.4.2", "vpn.test,10.77.3.2,30", hanging=never)
    new = spare.tunnel(
        engine("wireguard-go"),
        ("10.9.2.2/24",),
        port=51821,
        key=old.private_key,
        interface=f"{world.prefix}p",
    )
    new.wg_set("peer", near.public_key, "allowed-ips", "10.9.2.1/32")

    begun = time.monotonic()
    wait_until(lambda: answers(near, "10.9.1.2"), 18, "the other way")
    other_way = time.monotonic() - begun
    assert near.record(dropped)[1][2] != way
    wait_until(lambda: answers(near, "10.9.2.2"), 40, "the new server")
    new_place = time.monotonic() - begun
    print(f"back after {other_way:.1f} s by the other way, {new_place:.1f} s at the new place")
    assert near.record(named)[1][2] == "10.77.3.2:51821"
    for name in (dropped, named):
        near.nvpn("down", name)


def answers(machine: Machine, address: str) -> bool:
    return machine.host.ping(address, count=1, wait=0.3) == (1, 1)
