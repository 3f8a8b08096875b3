from __future__ import annotations

import errno
import select
import socket
import subprocess

import pytest

from nvpn.errors import PlatformError
from nvpn.model.prefixes import parse_address
from nvpn.transport.link_local import LinkLocalUdp
from tests.support.own_namespace import in_new_namespace

PORT = 8766
HERE, THERE = (parse_address(f"fe80::{n}") for n in (1, 2))


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def receive(here: LinkLocalUdp, count: int) -> list[tuple[bytes, bytes]]:
    """The next datagrams. A busy kernel takes its time even from us to us."""
    received: list[tuple[bytes, bytes]] = []
    while len(received) < count:
        assert select.select([here], [], [], 30)[0], received
        if (one := here.receive()) is not None:
            received.append(one)
    return received


def make_link(name: str, *addresses: str) -> int:
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}x")
    ip("link", "set", f"{name}x", "up")
    ip("link", "set", name, "addrgenmode", "none", "up")
    for address in addresses:
        ip("address", "add", f"{address}/64", "dev", name, "nodad")
    return socket.if_nametoindex(name)


@in_new_namespace
def test_datagrams_go_between_the_addresses_of_one_interface() -> None:
    index = make_link("f4one", "fe80::1", "fe80::2")
    other = make_link("f4two", "fe80::1", "fe80::2")
    here, there, elsewhere = (
        LinkLocalUdp(address, PORT, link)
        for address, link in ((HERE, index), (THERE, index), (THERE, other))
    )
    here.send(THERE, b"question")
    assert receive(there, 1) == [(HERE, b"question")]
    there.send(HERE, b"answer")
    assert receive(here, 1) == [(THERE, b"answer")]
    assert there.receive() is here.receive() is elsewhere.receive() is None
    for one in (here, there, elsewhere):
        one.close()
        one.close()


@in_new_namespace
def test_what_comes_from_another_port_is_empty_and_keeps_nobody() -> None:
    index = make_link("f4one", "fe80::1", "fe80::2")
    here, there = LinkLocalUdp(HERE, PORT, index), LinkLocalUdp(THERE, PORT, index)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("fe80::2", 0, 0, index))
        for _ in range(3):
            other.sendto(b"from elsewhere", ("fe80::1", PORT, 0, index))
    there.send(HERE, b"from there")
    assert receive(here, 4) == [*[(THERE, b"")] * 3, (THERE, b"from there")]
    assert here.receive() is None
    here.close()
    there.close()


@in_new_namespace
def test_what_cannot_be_sent_is_lost_and_harms_nothing() -> None:
    index = make_link("f4one", "fe80::1", "fe80::2")
    here = LinkLocalUdp(HERE, PORT, index)
    here.send(THERE, b"nobody listens")
    here.send(THERE, bytes(70_000))
    assert here.receive() is None
    ip("link", "delete", "f4one")
    here.send(THERE, b"no interface")
    assert here.receive() is None
    here.close()


@in_new_namespace
def test_an_address_that_is_not_there_is_said() -> None:
    index = make_link("f4one")
    with pytest.raises(PlatformError, match="bind UDP port 8766 of fe80::1") as refused:
        LinkLocalUdp(HERE, PORT, index)
    assert refused.value.errno == errno.EADDRNOTAVAIL
