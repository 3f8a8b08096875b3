"""The next free address for a client."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from nvpn.cli.client_config import free_address
from nvpn.model.prefixes import Interface, Prefix


def hosts_in(text: str) -> set[int]:
    return {int(host) for host in ipaddress.ip_network(text, strict=False)}


@given(
    st.integers(24, 31),
    st.integers(0, 255),
    st.lists(st.tuples(st.integers(22, 32), st.integers(0, 1023)), max_size=12),
)
def test_the_free_address_is_the_lowest_that_nobody_has(
    length: int, own: int, others: list[tuple[int, int]]
) -> None:
    base = int(ipaddress.ip_address("10.8.0.0"))
    network = Interface((base + own).to_bytes(4, "big"), length)
    taken = [Prefix.of((base + host).to_bytes(4, "big"), size) for size, host in others]

    found = free_address(network, taken)

    inside = hosts_in(str(network))
    free = inside - {base + own}
    if length < 31:
        free -= {min(inside), max(inside)}
    for prefix in taken:
        if prefix.length >= length:
            free -= hosts_in(str(prefix))
    if not free:
        assert found is None
    else:
        assert found == Prefix(4, min(free), 32)


def test_an_ipv6_network_begins_at_one_and_is_not_counted_through() -> None:
    network = Interface.parse("fd00::5/64")
    assert free_address(network, []) == Prefix.parse("fd00::1/128")
    lower_half = Prefix.parse("fd00::/65")
    assert free_address(network, [lower_half]) == Prefix.parse("fd00::8000:0:0:0/128")
    assert free_address(network, [Prefix.parse("::/0")]) == Prefix.parse("fd00::1/128")
