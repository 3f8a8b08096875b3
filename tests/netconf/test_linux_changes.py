"""What is told of a namespace's addresses and default routes, and what is no change."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import time

import pytest

from nvpn.netconf.api import AddressesChanged
from nvpn.netconf.linux_changes import DefaultRouteChanged, LinuxChanges, NetworkEvent
from tests.support.own_namespace import in_new_namespace

ADDRESSES, ROUTES = AddressesChanged(), DefaultRouteChanged()


def ip(command: str) -> None:
    done = subprocess.run(["ip", *command.split()], capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr)


def index_of(name: str) -> int:
    return socket.if_nametoindex(name)


def veth(name: str, *addresses: str) -> None:
    ip(f"link add {name} type veth peer name {name}p")
    for end in (name, f"{name}p"):
        ip(f"link set {end} addrgenmode none up")
    for address in addresses:
        ip(f"address add {address} dev {name}" + (" nodad" if ":" in address else ""))


class Watched:
    """The namespace that the test is in."""

    def __init__(self, ignored: int = 0) -> None:
        self.ignored = ignored
        self.changes = LinuxChanges(lambda: self.ignored)

    def after(self, *commands: str) -> list[NetworkEvent]:
        """What is told of these before they are over."""
        for command in commands:
            ip(command)
        return self.changes.take_events()

    def soon_after(self, *commands: str) -> list[NetworkEvent]:
        """What is told first; the kernel takes its time with some things."""
        events = self.after(*commands)
        deadline = time.monotonic() + 30
        while not events and time.monotonic() < deadline:
            select.select([self.changes], [], [], 1)
            events = self.changes.take_events()
        return events


@in_new_namespace
def test_addresses_that_come_and_go_are_told() -> None:
    veth("e5a")
    watched = Watched()
    assert watched.after() == []
    assert watched.after("address add 192.0.2.1/24 dev e5a") == [ADDRESSES]
    assert watched.after("address add 2001:db8::1/64 dev e5a nodad") == [ADDRESSES]
    assert watched.after("address delete 192.0.2.1/24 dev e5a") == [ADDRESSES]
    assert watched.after("address delete 2001:db8::1/64 dev e5a") == [ADDRESSES]
    watched.changes.close()


@in_new_namespace
def test_a_lifetime_that_is_prolonged_is_no_change_and_one_that_ends_is() -> None:
    veth("e5a", "2001:db8::1/64", "192.0.2.1/24")
    watched = Watched()
    for lifetime in (600, 1200):
        change = f"valid_lft {lifetime} preferred_lft {lifetime}"
        assert watched.after(f"address change 2001:db8::1/64 dev e5a {change}") == []
        assert watched.after(f"address change 192.0.2.1/24 dev e5a {change}") == []
    # Deprecated: new packets leave from another address.
    assert watched.after(
        "address change 2001:db8::1/64 dev e5a valid_lft 600 preferred_lft 0"
    ) == [ADDRESSES]
    watched.changes.close()


@in_new_namespace
def test_an_address_counts_once_it_may_be_used() -> None:
    veth("e5a")
    ip("link set e5ap down")
    watched = Watched()
    # Is somebody else there? Nobody can be asked before the cable is plugged in.
    assert watched.after("address add 2001:db8::2/64 dev e5a") == []
    assert watched.soon_after("link set e5ap up") == [ADDRESSES]
    watched.changes.close()


@in_new_namespace
def test_what_reaches_no_further_than_its_link_is_nobody_s_way_out() -> None:
    watched = Watched()
    veth("e5c", "fe80::1/64")
    ip("address add 169.254.7.7/16 dev e5c scope link")
    assert watched.after("address add 127.0.0.9/8 dev lo") == []
    assert watched.after("link set e5c down", "link set e5c up", "link delete e5c") == []
    watched.changes.close()


@in_new_namespace
def test_default_routes_are_told_and_no_others() -> None:
    veth("e5a", "192.0.2.1/24", "2001:db8::1/64")
    watched = Watched()
    assert watched.after("route add 198.51.100.0/24 via 192.0.2.2") == []
    assert watched.after("route add default via 192.0.2.2") == [ROUTES]
    assert watched.after("route replace default via 192.0.2.2") == []
    assert watched.after("route replace default via 192.0.2.3") == [ROUTES]
    assert watched.after("route replace default via 192.0.2.2") == [ROUTES]
    assert watched.after("route delete default") == [ROUTES]
    assert watched.after("route add default via 192.0.2.2 table 7") == [ROUTES]
    assert watched.after("-6 route add default via 2001:db8::2 dev e5a") == [ROUTES]
    assert watched.after("-6 route replace default via 2001:db8::2 dev e5a expires 60") == []
    assert watched.after("-6 route delete default via 2001:db8::2 dev e5a") == [ROUTES]
    assert watched.after("route add unreachable default metric 4000000") == []
    watched.changes.close()


@in_new_namespace
@pytest.mark.parametrize("family", ("-4", "-6"))
def test_policy_rules_are_told_but_for_new_ones_of_nvpn(family: str) -> None:
    watched = Watched()

    assert watched.after(f"{family} rule add fwmark 7 lookup 12") == [ROUTES]
    assert watched.after(f"{family} rule delete fwmark 7 lookup 12") == [ROUTES]
    assert watched.after(f"{family} rule add fwmark 7 lookup 12 protocol 110") == []
    assert watched.after(f"{family} rule delete fwmark 7 lookup 12") == [ROUTES]


@in_new_namespace
def test_a_link_that_loses_its_routes_without_a_word_is_told() -> None:
    veth("e5a", "192.0.2.1/24")
    veth("e5b")
    watched = Watched()
    assert watched.after("link set e5b down") == []  # nothing leaves there
    assert watched.after("link set e5a down") == [ROUTES]
    assert watched.soon_after("link set e5a up") == [ROUTES]
    assert watched.soon_after("link set e5ap down") == [ROUTES]  # the cable
    assert watched.after("link set e5a mtu 1400") == []
    assert ADDRESSES in watched.after("link delete e5a")
    watched.changes.close()


@in_new_namespace
def test_of_the_tunnel_s_own_interface_nothing_is_told() -> None:
    veth("e5a")
    watched = Watched(ignored=index_of("e5a"))
    assert watched.after("address add 192.0.2.1/24 dev e5a") == []
    assert watched.after("route add default dev e5a") == []
    assert watched.after("link set e5a down", "link set e5a up") == []
    watched.changes.close()


@in_new_namespace
def test_a_flood_of_routes_wakes_nobody() -> None:
    veth("e5a", "192.0.2.1/24")
    watched = Watched()
    lines = "".join(f"route add 10.{n // 256}.{n % 256}.0/24 dev e5a\n" for n in range(3000))
    subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)
    assert select.select([watched.changes], [], [], 0)[0] == []
    assert watched.after() == []
    assert watched.after("route add default via 192.0.2.2") == [ROUTES]
    watched.changes.close()


@in_new_namespace
def test_what_was_lost_counts_as_a_change_and_what_follows_is_told() -> None:
    veth("e5a", "192.0.2.1/24")
    watched = Watched()
    adding = "".join(
        f"address add 198.51.{n // 200}.{n % 200 + 1}/32 dev e5a\n" for n in range(4000)
    )
    subprocess.run(["ip", "-batch", "-"], input=adding.encode(), check=True)
    assert watched.after() == [ADDRESSES]
    assert watched.after("address delete 198.51.19.199/32 dev e5a") == [ADDRESSES]
    assert watched.after("address add 198.51.19.199/32 dev e5a") == [ADDRESSES]
    watched.changes.close()


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_messages_that_are_cut_short_are_no_trouble(cut: int) -> None:
    changes = LinuxChanges(lambda: 0)
    for kind in (16, 17, 20, 21, 24, 25):
        body = os.urandom(40)[:cut]
        sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiving.setblocking(False)
        changes._socket, real = receiving, changes._socket
        sending.send(struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body)
        assert len(changes.take_events()) <= 1
        changes._socket = real
        sending.close()
        receiving.close()
    changes.close()
