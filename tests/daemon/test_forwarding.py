"""A host that forwards for a server's clients, and is afterwards what it was before."""

from __future__ import annotations

import socket
import struct
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nvpn.config.model import ServerConfig
from nvpn.daemon import forwarding as forwarding_module
from nvpn.daemon.forwarding import Forwarding
from nvpn.daemon.leftovers import Leftovers
from nvpn.model.prefixes import Prefix
from nvpn.netconf import linux_firewall
from nvpn.netconf.firewall import dropping_chains, forwarding_rules
from nvpn.netconf.linux_sysctl import read_sysctl, write_sysctl
from tests.support.machines import Machine
from tests.support.own_namespace import in_new_namespace
from tests.support.pinging import inside
from tests.support.world import World

FORWARD = "net.ipv4.ip_forward"
FORWARD_6 = "net.ipv6.conf.all.forwarding"
_ETH_P_ALL = 3


def test_what_stays_between_clients_is_not_translated() -> None:
    text = forwarding_rules("wg0", (Prefix.parse("10.8.0.0/24"), Prefix.parse("fd42::/64")))
    assert '\t\tip saddr 10.8.0.0/24 oifname != "wg0" masquerade\n' in text
    assert '\t\tip6 saddr fd42::/64 oifname != "wg0" masquerade\n' in text
    assert "table inet nvpn-wg0/forward {" in text
    assert "masquerade" not in forwarding_rules("wg0", ())


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


def tables(machine: Machine) -> str:
    return machine.host.run("nft", "list", "tables")


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
    assert "nvpn-f6a/forward" in tables(here)
    here.nvpn("up", "./f6b.toml")
    assert "masquerade" not in here.host.run("nft", "list", "table", "inet", "nvpn-f6b/forward")
    # Killed, and cleared up after, while the other one goes on.
    here.kill("f6a")
    told = here.nvpn("down", "f6a", status=None)
    assert "its rules for what is forwarded, its forwarding" in told.stderr
    assert "nvpn-f6a/forward" not in tables(here)
    assert switches(here) == ("1", "1", "2")
    # A reload brings and takes away both.
    server(here, "f6b", 9, "nat = true")
    here.nvpn("reload", "f6b")
    assert "masquerade" in here.host.run("nft", "list", "table", "inet", "nvpn-f6b/forward")
    server(here, "f6b", 9, "")
    here.nvpn("reload", "f6b")
    assert "nvpn-f6b/forward" not in tables(here)
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


@in_new_namespace
def test_what_is_in_the_way_is_told_also_after_something_else_was_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVPN_STATE_DIR", str(tmp_path))
    said: list[str] = []
    forwarding = Forwarding(
        "gea", Leftovers(str(tmp_path / "gea")), run=lambda call: call(), warn=said.append
    )
    wanted = ServerConfig(pools=(Prefix.parse("10.8.0.0/24"),), forward=True)
    with monkeypatch.context() as without_nft:
        without_nft.setattr(linux_firewall, "_find", lambda _: None)
        forwarding.set(wanted)
        forwarding.set(wanted)
    assert len(said) == 1
    assert said[0].startswith("gea: without nftables")
    linux_firewall.apply_ruleset(
        "add table ip filter\n"
        "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }\n"
    )
    forwarding.set(wanted)
    forwarding.set(wanted)
    forwarding.close()
    assert len(said) == 2
    assert "is dropped by ip filter FORWARD" in said[1]


@in_new_namespace
def test_of_two_that_begin_at_once_the_second_knows_what_the_first_has_switched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVPN_STATE_DIR", str(tmp_path))
    monkeypatch.setattr("nvpn.daemon.forwarding.is_running", lambda _: True)
    look_at_others = forwarding_module._noted_by_others
    wanted = ServerConfig(pools=(Prefix.parse("10.8.0.0/24"),), forward=True)

    def forwarding(name: str) -> Forwarding:
        leftovers = Leftovers(str(tmp_path / f"{name}.leftovers"))
        return Forwarding(name, leftovers, run=lambda call: call(), warn=lambda _: None)

    write_sysctl("net/ipv4/ip_forward", "0")
    first, second = forwarding("gea"), forwarding("geb")
    beginning = threading.Thread(target=first.set, args=(wanted,))

    def while_the_first_begins(name: str, *rest: Any, **names: Any) -> dict[str, str]:
        found = look_at_others(name, *rest, **names)
        if name == "geb" and not beginning.ident:
            beginning.start()
            beginning.join(0.5)  # as far as it gets
        return found

    monkeypatch.setattr(forwarding_module, "_noted_by_others", while_the_first_begins)
    second.set(wanted)
    beginning.join(30)
    assert read_sysctl("net/ipv4/ip_forward") == "1"
    first.close()
    assert read_sysctl("net/ipv4/ip_forward") == "1"
    second.close()
    assert read_sysctl("net/ipv4/ip_forward") == "0"


def sniffer(machine: Machine) -> socket.socket:
    """All that arrives on a machine, without the headers of its links."""
    opened = inside(
        machine.host.netns,
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)),
    )
    opened.settimeout(30)
    return opened


def syn_segment(heard: socket.socket, sender: str, version: int, port: int) -> int:
    """The maximum segment size in the SYN that came from an address, of a client's port.

    There may be several of each: those of a busy machine are repeated.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    header, protocol, source = {4: (20, 9, 12), 6: (40, 6, 8)}[version]
    address = socket.inet_pton(family, sender)
    while True:
        packet, (_, _, direction, *_) = heard.recvfrom(2048)
        tcp = packet[header:]
        if (
            direction != socket.PACKET_OUTGOING
            and packet[0] >> 4 == version
            and packet[protocol] == socket.IPPROTO_TCP
            and packet[source : source + len(address)] == address
            and tcp[13] & 2
            and port in struct.unpack("!HH", tcp[:4])
        ):
            assert tcp[20:22] == b"\x02\x04"  # Linux has this option first
            return int.from_bytes(tcp[22:24], "big")


@pytest.mark.root
def test_a_connection_through_a_tunnel_has_segments_that_fit_into_it(world: World) -> None:
    """From networks of 1500 bytes on both sides, neither of which knows of the tunnel's 1420."""
    client, here, beyond = (Machine(world, name) for name in "abc")
    world.link(client.host, here.host)
    world.link(here.host, beyond.host)
    server(
        here,
        "g1s",
        8,
        f"""
forward = true
[[peer]]
public_key = "{client.public_key}"
allowed_ips = ["10.8.0.2/32", "fd42:8::2/128"]
endpoint = "10.77.1.1:51820"
""",
    )
    client.write(
        f"""
[interface]
private_key = "PRIVATE"
address = ["10.8.0.2/24", "fd42:8::2/64"]
listen_port = 51820
mtu = 1500

[[peer]]
public_key = "{here.public_key}"
allowed_ips = ["10.8.0.0/24", "10.77.2.0/24", "fd42:8::/64", "fd77:2::/64"]
""",
        "g1c.toml",
    )
    beyond.host.run("ip", "route", "add", "10.8.0.0/24", "via", "10.77.2.1")
    beyond.host.run("ip", "route", "add", "fd42:8::/64", "via", "fd77:2::1")
    client.nvpn("up", "./g1c.toml")
    here.nvpn("up", "./g1s.toml")
    # The client would have to wait for somebody whose place it does not know.
    assert here.host.ping("10.8.0.2", count=1) == (1, 1)

    for version, ours, theirs, fits in (
        (4, "10.8.0.2", "10.77.2.2", 1380),
        (6, "fd42:8::2", "fd77:2::2", 1360),
    ):
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        new = partial(socket.socket, family, socket.SOCK_STREAM)
        with (
            inside(beyond.host.netns, new) as listener,
            sniffer(beyond) as there,
            sniffer(client) as back,
        ):
            listener.bind((theirs, 0))
            listener.listen()
            for wanted, asked in ((1400, fits), (500, 500)):  # nothing is ever raised
                with inside(client.host.netns, new) as opened:
                    opened.settimeout(30)
                    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, wanted)
                    opened.connect(listener.getsockname())
                    port = opened.getsockname()[1]
                assert syn_segment(there, ours, version, port) == asked
                assert syn_segment(back, theirs, version, port) == fits
