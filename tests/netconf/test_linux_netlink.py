"""The socket to the kernel: whose answers it takes, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
import threading

import pytest
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_SETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from nvpn.errors import PlatformError
from nvpn.model.prefixes import Interface, Prefix
from nvpn.netconf.linux import LinuxNetconf
from nvpn.netconf.linux_monitor import LinuxMonitor
from nvpn.netconf.linux_netlink import BATCH, Connection, Refusal
from nvpn.netconf.linux_routes import pack_gone_routes, pack_new_routes
from nvpn.overlay.linux import open_tun
from tests.support.descriptors import descriptors
from tests.support.own_namespace import in_new_namespace


def link_message(name: str = "", index: int = 0, mtu: int = 0) -> ifinfmsg:
    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = [("IFLA_IFNAME", name)] if name else []
    message["attrs"] += [("IFLA_MTU", mtu)] if mtu else []
    return message


def test_closing_gives_everything_back() -> None:
    before, threads = descriptors(), set(threading.enumerate())

    netconf = LinuxNetconf()
    lo = netconf.find_link("lo")
    assert lo is not None
    monitor = netconf.monitor(lo)
    monitor.take_events()
    opened = descriptors() - before

    assert len(opened) == 2
    assert not any(os.get_inheritable(int(number)) for number in opened)
    assert set(threading.enumerate()) <= threads
    for part in (monitor, netconf, monitor, netconf):
        part.close()
    assert descriptors() == before


def test_it_works_inside_a_running_event_loop() -> None:
    async def look() -> int:
        netconf = LinuxNetconf()
        try:
            link = netconf.find_link("lo")
            assert link is not None
            return link.index
        finally:
            netconf.close()

    assert asyncio.run(look()) == 1


def test_without_descriptors_left_it_says_so_and_keeps_none() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(PlatformError) as caught:
            LinuxNetconf()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert str(caught.value) == "cannot open a netlink socket: Too many open files"
    assert descriptors() == before


def test_a_closed_connection_refuses_in_one_sentence() -> None:
    connection = Connection()
    connection.close()

    with pytest.raises(PlatformError) as caught:
        connection.ask(link_message("lo"), RTM_GETLINK)
    assert str(caught.value) == "cannot talk to the kernel by netlink: Bad file descriptor"


def test_an_answer_to_an_abandoned_request_is_not_taken_for_another_s() -> None:
    connection = Connection()

    def give_up(message: bytes) -> None:
        raise InterruptedError

    with pytest.raises(PlatformError):
        connection.dump_raw(link_message(), RTM_GETLINK, give_up)

    with pytest.raises(Refusal) as caught:
        connection.ask(link_message("n0-none"), RTM_GETLINK)
    assert caught.value.errno == errno.ENODEV
    assert connection.ask(link_message("lo"), RTM_GETLINK)["index"] == 1
    connection.close()


@in_new_namespace
def test_a_refusal_carries_the_kernel_s_own_words() -> None:
    fd = open_tun("n0t").fd
    connection = Connection()
    index = connection.ask(link_message("n0t"), RTM_GETLINK)["index"]

    with pytest.raises(Refusal) as caught:
        connection.change(link_message(index=index, mtu=70000), RTM_SETLINK)

    assert caught.value.errno == errno.EINVAL
    assert caught.value.reason == "mtu greater than device maximum"
    connection.close()
    os.close(fd)


@in_new_namespace
def test_the_first_refusal_of_many_is_told_by_its_place_and_ends_with_its_batch() -> None:
    netconf = LinuxNetconf()
    fd = open_tun("n0t").fd
    link = netconf.find_link("n0t")
    assert link is not None
    netconf.set_link(link, is_up=True)
    wanted = [Prefix.of(bytes([10, 0, i >> 8, i & 255]), 32) for i in range(3 * BATCH)]
    taken = [wanted[BATCH + 7], wanted[BATCH + 9]]
    netconf.add_routes(link, taken)
    connection = Connection()

    with pytest.raises(Refusal) as caught:
        connection.execute(pack_new_routes(link.index, wanted))

    assert (caught.value.errno, caught.value.index) == (errno.EEXIST, BATCH + 7)
    assert netconf.routes(link) >= set(wanted[: 2 * BATCH])
    assert not netconf.routes(link) & set(wanted[2 * BATCH :])
    # What is ignored stops nothing.
    connection.execute(pack_gone_routes(link.index, wanted), ignored=frozenset({errno.ESRCH}))
    assert not netconf.routes(link) & set(wanted)
    connection.close()
    netconf.close()
    os.close(fd)


@in_new_namespace
def test_nothing_asked_is_nothing_done() -> None:
    connection = Connection()
    connection.execute([])
    connection.close()


@in_new_namespace
def test_a_name_that_is_not_utf_8_is_found_and_told() -> None:
    netconf = LinuxNetconf()
    fd = open_tun("n0t").fd
    link = netconf.find_link("n0t")
    assert link is not None
    monitor = LinuxMonitor(link)
    odd = b"n0\xff\xfe"

    subprocess.run(["ip", "link", "set", "n0t", "name", odd], check=True)

    (event,) = monitor.take_events()
    name = odd.decode(errors="surrogateescape")
    assert event.link.name == name
    assert netconf.find_link(name) == event.link
    netconf.set_link(link, is_up=True)
    netconf.add_address(link, Interface.parse("10.0.0.1/24"))
    monitor.close()
    netconf.close()
    os.close(fd)
