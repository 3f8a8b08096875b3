"""Endpoints as the control socket and configuration files write them."""

from __future__ import annotations

import socket

import pytest

from nvpn.model.endpoint import Endpoint, Source, split_host_port


@pytest.mark.parametrize(
    "text", ["192.0.2.1:51820", "[2001:db8::1]:51820", "[fe80::1%lo]:1", "0.0.0.0:0"]
)
def test_an_endpoint_comes_back_as_it_was_written(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


def test_a_numeric_zone_is_an_interface_index() -> None:
    assert Endpoint.parse("[fe80::1%1]:1").scope == 1
    assert str(Endpoint.parse("[fe80::1%4000000]:1")) == "[fe80::1%4000000]:1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1",
        "192.0.2.1:",
        ":1",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:1x",
        "01.2.3.4:5",
        "[1.2.3.4]:5",
        "2001:db8::1",
        "2001:db8::1:51820",
        "[2001:db8::1]",
        "[2001:db8::1]51820",
        "[2001:db8::1:51820",
        "example.com:51820",
        "1.2.3.4%lo:1",
        "[fe80::1%no-such-interface]:1",
    ],
)
def test_what_is_not_an_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"endpoint|port|expected|zone"):
        Endpoint.parse(text)


def test_a_name_is_split_but_not_resolved() -> None:
    assert split_host_port("vpn.example:51820") == ("vpn.example", 51820)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_endpoint_goes_through_a_real_socket(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_DGRAM) as ours,
        socket.socket(family, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind((host, 0))
        theirs.bind((host, 0))
        ours.sendto(b"x", Endpoint.from_sockaddr(theirs.getsockname()).sockaddr)
        _, source = theirs.recvfrom(1)
        assert Endpoint.from_sockaddr(source).sockaddr == ours.getsockname()


def test_our_own_side_does_not_make_it_another_place() -> None:
    one = Endpoint.parse("192.0.2.1:1")
    other = one._replace(source=Source(b"\x0a\0\0\1", 3), learned_at=5)
    assert one.remote == other.remote
