"""Prefixes and interface addresses, against the standard library as oracle."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.model.prefixes import Interface, Prefix

v4 = st.tuples(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address), st.integers(0, 32))
v6 = st.tuples(st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address), st.integers(0, 128))


@given(v4 | v6)
def test_host_bits_are_masked_and_the_text_comes_back(
    network: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int],
) -> None:
    address, length = network
    oracle = ipaddress.ip_network(f"{address}/{length}", strict=False)
    prefix = Prefix.parse(f"{address}/{length}")
    assert Prefix.parse(str(prefix)) == prefix
    assert prefix.packed == oracle.network_address.packed
    assert (prefix.version, prefix.length) == (oracle.version, oracle.prefixlen)


@given(v4 | v6, v4 | v6)
def test_covers_means_subnet(
    one: tuple[ipaddress.IPv4Address, int], two: tuple[ipaddress.IPv4Address, int]
) -> None:
    a, b = (ipaddress.ip_network(f"{x}/{n}", strict=False) for x, n in (one, two))
    expected = a.version == b.version and b.subnet_of(a)  # type: ignore[arg-type]
    assert Prefix.parse(str(a)).covers(Prefix.parse(str(b))) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/024",
        "10.0.0.0/+8",
        "10.0.0.0/٨",
        "10.0.0/8",
        "010.0.0.0/8",
        "10.0.0.0/8 ",
        "fe80::%eth0/64",
        "::/129",
        "1:2/8",
        "host/8",
        "10.0.0.0/8/8",
        "10.0.0.0\0/8",
    ],
)
def test_what_is_not_a_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|prefix"):
        Prefix.parse(text)


def test_a_bare_address_may_stand_for_itself() -> None:
    assert str(Prefix.parse("10.0.0.1", default_length=True)) == "10.0.0.1/32"
    assert str(Interface.parse("fd00::1")) == "fd00::1/128"


def test_an_interface_keeps_its_host_bits() -> None:
    interface = Interface.parse("10.0.0.7/24")
    assert str(interface) == "10.0.0.7/24"
    assert str(interface.prefix) == "10.0.0.0/24"
