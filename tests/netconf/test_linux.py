"""The real kernel, in a network namespace of the test's own."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time

import pytest

from nvpn.errors import PlatformError
from nvpn.model.prefixes import Interface, Prefix, parse_address
from nvpn.netconf.api import Link, LinkChanged, LinkEvent, LinkLeft
from nvpn.netconf.linux import LinuxNetconf
from nvpn.netconf.linux_monitor import LinuxMonitor
from nvpn.overlay.linux import open_tun
from tests.support.own_namespace import in_new_namespace


def ip(*arguments: str) -> list[dict]:
    done = subprocess.run(["ip", "-j", *arguments], check=True, capture_output=True)
    return json.loads(done.stdout or b"[]")


def make_tun(name: str = "m7t0") -> tuple[LinuxNetconf, Link, int]:
    netconf = LinuxNetconf()
    tun = open_tun(name)
    link = netconf.find_link(name)
    assert link is not None
    netconf.forbid_link_local(link)
    return netconf, link, tun.fd


def events_within(monitor: LinuxMonitor, wanted: type, seconds: float = 30) -> list[LinkEvent]:
    seen: list[LinkEvent] = []
    deadline = time.monotonic() + seconds
    while not any(isinstance(event, wanted) for event in seen):
        left = deadline - time.monotonic()
        assert left > 0, f"no {wanted.__name__} in {seen}"
        select.select([monitor], [], [], left)
        seen += monitor.take_events()
    return seen


@in_new_namespace
def test_a_link_is_found_by_its_name_or_not_at_all() -> None:
    netconf, link, _ = make_tun()

    assert link.name == "m7t0"
    assert not link.is_up
    assert netconf.find_link("m7none") is None
    assert netconf.find_link("a-name-that-is-too-long-for-linux") is None


@in_new_namespace
def test_mtu_queue_and_batch_size_are_set_at_once() -> None:
    netconf, link, _ = make_tun()

    netconf.set_link(link, mtu=1380, gso_max_segs=45, tx_queue_length=700, is_up=True)

    (shown,) = ip("-d", "link", "show", "m7t0")
    assert (shown["mtu"], shown["gso_max_segs"], shown["txqlen"]) == (1380, 45, 700)
    assert "UP" in shown["flags"]
    netconf.set_link(link, is_up=False)
    assert "UP" not in ip("link", "show", "m7t0")[0]["flags"]


@in_new_namespace
def test_a_tunnel_gets_no_link_local_address_and_sends_nothing_by_itself() -> None:
    netconf, link, fd = make_tun()
    netconf.set_link(link, is_up=True)

    assert ip("address", "show", "m7t0")[0]["addr_info"] == []
    assert netconf.addresses(link) == frozenset()
    time.sleep(0.2)
    with pytest.raises(BlockingIOError):
        os.read(fd, 2048)


@in_new_namespace
def test_addresses_come_and_go_and_may_be_set_twice() -> None:
    netconf, link, _ = make_tun()
    both = {Interface.parse("10.0.0.1/24"), Interface.parse("fd00::1/64")}
    netconf.set_link(link, is_up=True)

    for address in [*both, *both]:
        netconf.add_address(link, address)
    assert netconf.addresses(link) == both

    netconf.remove_address(link, Interface.parse("fd00::1/64"))
    netconf.remove_address(link, Interface.parse("fd00::1/64"))
    assert netconf.addresses(link) == {Interface.parse("10.0.0.1/24")}


@in_new_namespace
def test_a_thousand_routes_are_added_found_and_removed() -> None:
    netconf, link, _ = make_tun()
    netconf.set_link(link, is_up=True)
    wanted = {Prefix.parse(f"10.{i // 250}.{i % 250}.0/24") for i in range(1000)}
    wanted |= {Prefix.parse("10.0.0.0/8"), Prefix.parse("fd01::/48")}

    netconf.add_routes(link, wanted)
    netconf.add_routes(link, wanted)
    assert netconf.routes(link) == wanted
    assert len(ip("-4", "route", "show", "dev", "m7t0")) == 1001

    netconf.remove_routes(link, wanted)
    netconf.remove_routes(link, wanted)
    assert netconf.routes(link) == frozenset()


@in_new_namespace
def test_a_refused_route_takes_back_those_before_it_and_names_itself() -> None:
    netconf, link, _ = make_tun()
    netconf.set_link(link, is_up=True)
    open_tun("m7t1")
    subprocess.run(["ip", "link", "set", "m7t1", "up"], check=True)
    subprocess.run(["ip", "route", "add", "10.9.0.0/16", "dev", "m7t1"], check=True)
    wanted = {Prefix.parse(text) for text in ("10.8.0.1/32", "10.9.0.0/16", "10.0.0.0/8")}

    with pytest.raises(PlatformError) as caught:
        netconf.add_routes(link, wanted)

    assert str(caught.value) == (
        "cannot add route 10.9.0.0/16 to m7t0: File exists;"
        " another interface has it; see: ip route show 10.9.0.0/16"
    )
    assert netconf.routes(link) == frozenset()


@in_new_namespace
def test_a_route_of_our_own_is_kept_when_a_later_one_is_refused() -> None:
    netconf, link, _ = make_tun()
    netconf.set_link(link, is_up=True)
    kept = Prefix.parse("10.8.0.0/24")
    netconf.add_routes(link, {kept})
    subprocess.run(["ip", "route", "add", "10.9.0.0/16", "dev", "lo"], check=True)

    with pytest.raises(PlatformError):
        netconf.add_routes(link, {kept, Prefix.parse("10.9.0.0/16")})

    assert netconf.routes(link) == {kept}


@in_new_namespace
def test_the_path_to_an_address_tells_the_route_s_mtu_or_the_link_s() -> None:
    netconf, link, _ = make_tun()
    netconf.set_link(link, mtu=1400, is_up=True)
    netconf.add_address(link, Interface.parse("10.0.0.1/24"))
    subprocess.run(["ip", "route", "add", "10.5.0.0/16", "dev", "m7t0", "mtu", "1300"], check=True)

    near = netconf.path_to(parse_address("10.0.0.2"))
    far = netconf.path_to(parse_address("10.5.0.2"))

    assert near is not None
    assert far is not None
    assert (near.interface, near.mtu) == (link.index, 1400)
    assert (far.interface, far.mtu) == (link.index, 1300)
    assert netconf.path_to(parse_address("203.0.113.1")) is None
    assert netconf.path_to(parse_address("2001:db8::7")) is None


@in_new_namespace
def test_an_impossible_mtu_is_told_in_one_sentence() -> None:
    netconf, link, _ = make_tun()

    with pytest.raises(PlatformError) as caught:
        netconf.set_link(link, mtu=70000)

    assert str(caught.value).startswith("cannot set interface m7t0 MTU 70000: Invalid argument")


@in_new_namespace
def test_the_monitor_tells_of_up_mtu_rename_and_the_end() -> None:
    netconf, link, fd = make_tun()
    monitor = netconf.monitor(link)
    assert monitor.take_events() == []

    netconf.set_link(link, is_up=True)
    assert LinkChanged(Link(link.index, "m7t0", 1500, True)) in events_within(monitor, LinkChanged)
    netconf.set_link(link, mtu=1300)
    assert LinkChanged(Link(link.index, "m7t0", 1300, True)) in events_within(monitor, LinkChanged)
    subprocess.run(["ip", "link", "set", "m7t0", "name", "m7renamed"], check=True)
    seen = events_within(monitor, LinkChanged)
    assert LinkChanged(Link(link.index, "m7renamed", 1300, True)) in seen
    os.close(fd)
    assert LinkLeft(link.index) in events_within(monitor, LinkLeft)


@in_new_namespace
def test_the_monitor_tells_a_move_from_the_end() -> None:
    netconf, link, fd = make_tun()
    monitor = netconf.monitor(link)
    moved = f"m7-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", moved], check=True)
    try:
        subprocess.run(["ip", "link", "set", "m7t0", "netns", moved], check=True)
        assert LinkLeft(link.index, has_moved=True) in events_within(monitor, LinkLeft)
    finally:
        os.close(fd)
        subprocess.run(["ip", "netns", "delete", moved], check=True)


@in_new_namespace
def test_the_monitor_says_nothing_of_other_links_and_of_addresses() -> None:
    netconf, link, _ = make_tun()
    monitor = netconf.monitor(link)

    subprocess.run(["ip", "link", "set", "lo", "mtu", "9000"], check=True)
    netconf.add_address(link, Interface.parse("10.0.0.1/24"))
    os.close(open_tun("m7t1").fd)

    assert monitor.take_events() == []


@in_new_namespace
def test_the_monitor_catches_up_after_the_kernel_lost_messages_for_it() -> None:
    netconf, link, _ = make_tun()
    monitor = netconf.monitor(link)
    for mtu in range(1000, 1900):  # more than the socket's queue holds
        netconf.set_link(link, mtu=mtu)

    seen = events_within(monitor, LinkChanged)
    deadline = time.monotonic() + 30
    while LinkChanged(Link(link.index, "m7t0", 1899, False)) not in seen:
        assert time.monotonic() < deadline
        select.select([monitor], [], [], 1)
        seen += monitor.take_events()


@in_new_namespace
def test_a_cable_joins_two_namespaces() -> None:
    netconf = LinuxNetconf()
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    netconf.create_veth("m7a", "m7b", peer_namespace=here)

    assert netconf.find_link("m7a") is not None
    assert netconf.find_link("m7b") is not None
    with pytest.raises(PlatformError) as caught:
        netconf.create_veth("m7a", "m7c", peer_namespace=here)
    assert "File exists" in str(caught.value)
    os.close(here)
