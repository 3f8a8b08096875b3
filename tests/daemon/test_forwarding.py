"""A host that forwards for a server's clients, and is afterwards what it was before."""

from __future__ import annotations

import os
import signal

import pytest

from nvpn.model.prefixes import Prefix
from nvpn.netconf.firewall import dropping_chains, nat_rules
from tests.support.machines import Machine
from tests.support.world import World, wait_until

FORWARD = "net.ipv4.ip_forward"
FORWARD_6 = "net.ipv6.conf.all.forwarding"


def test_what_stays_between_clients_is_not_translated() -> None:
    text = nat_rules("wg0", (Prefix.parse("10.8.0.0/24"), Prefix.parse("fd42::/64")))
    assert '\t\tip saddr 10.8.0.0/24 oifname != "wg0" masquerade\n' in text
    assert '\t\tip6 saddr fd42::/64 oifname != "wg0" masquerade\n' in text
    assert "table inet nvpn-wg0/nat {" in text


def test_only_others_chains_count_as_in_the_way() -> None:
    listed = """\
table ip filter {
	chain INPUT {
		type filter hook input priority filter; policy drop;
	}
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
	}
	chain DOCKER {
	}
}
table inet nvpn-wg1/switch {
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
"""
    assert dropping_chains(listed) == ("ip filter FORWARD",)


def server(machine: Machine, name: str, number: int, extra: str = "nat = true") -> None:
    machine.write(
        f"""
[interface]
private_key = "PRIVATE"
address = ["10.{number}.0.1/24", "fd42:{number}::1/64"]

[server]
pool = ["10.{number}.0.0/24", "fd42:{number}::/64"]
endpoint = "192.0.2.1:51820"
{extra}
""",
        f"{name}.toml",
    )


def switches(machine: Machine) -> tuple[str, ...]:
    names = (FORWARD, FORWARD_6, "net.ipv6.conf.eth9.accept_ra")
    return tuple(machine.host.run("sysctl", "-n", name).strip() for name in names)


@pytest.mark.root
def test_the_last_of_several_servers_puts_back_what_the_first_one_found(
    world: World,
) -> None:
    here = Machine(world, "a")
    here.host.run("ip", "link", "add", "eth9", "type", "veth", "peer", "eth8")
    here.host.run("sysctl", "-qw", f"{FORWARD}=0", f"{FORWARD_6}=0")
    before = switches(here)
    assert before == ("0", "0", "1")
    outside = here.outside()
    server(here, "f6a", 8)
    server(here, "f6b", 9, "forward = true")

    here.nvpn("up", "./f6a.toml")
    # A router that goes on hearing the routers that it heard before.
    assert switches(here) == ("1", "1", "2")
    assert "nvpn-f6a/nat" in here.host.run("nft", "list", "tables")
    here.nvpn("up", "./f6b.toml")
    assert "nvpn-f6b/nat" not in here.host.run("nft", "list", "tables")
    # Killed, and cleared up after, while the other one goes on.
    os.kill(here.pid("f6a"), signal.SIGKILL)
    wait_until(lambda: not here.has_link("f6a"), 3, "the interface is gone")
    told = here.nvpn("down", "f6a", status=None)
    assert "its forwarding, its address translation" in told.stderr or (
        "its address translation, its forwarding" in told.stderr
    )
    assert "nvpn-f6a/nat" not in here.host.run("nft", "list", "tables")
    assert switches(here) == ("1", "1", "2")
    # A reload brings and takes away both.
    server(here, "f6b", 9, "nat = true")
    here.nvpn("reload", "f6b")
    assert "nvpn-f6b/nat" in here.host.run("nft", "list", "tables")
    server(here, "f6b", 9, "")
    here.nvpn("reload", "f6b")
    assert "nvpn-f6b/nat" not in here.host.run("nft", "list", "tables")
    assert switches(here) == before
    server(here, "f6b", 9, "nat = true")
    here.nvpn("reload", "f6b")
    # What somebody else has set meanwhile is theirs.
    here.host.run("sysctl", "-qw", "net.ipv6.conf.eth9.accept_ra=0")
    here.nvpn("down", "f6b")
    assert switches(here) == ("0", "0", "0")
    assert here.outside() == outside


@pytest.mark.root
def test_a_firewall_that_drops_what_is_forwarded_is_named(world: World) -> None:
    here = Machine(world, "a")
    here.host.run("nft", "add table ip filter")
    here.host.run(
        "nft", "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
    )
    server(here, "f6c", 8, "forward = true")
    told = here.nvpn("up", "./f6c.toml").stderr
    assert "dropped by ip filter FORWARD of this host's firewall" in told
    here.nvpn("down", "f6c")
