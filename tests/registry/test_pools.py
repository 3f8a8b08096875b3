"""Which addresses may be leased at all."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.config.model import AddressRange, Reservation
from nvpn.model.prefixes import Interface, Prefix, format_address
from nvpn.registry.model import RegistrySettings
from nvpn.registry.pools import Pools
from tests.support.registry import address, key_of, settings_of


def addresses(pools: Pools, version: int = 4, client: int = 1) -> list[str]:
    return [format_address(one) for one in pools.walk(version, key_of(client))]


def bare(*pools: str, **others: object) -> Pools:
    return Pools(settings_of(*pools, own=(), **others))


@pytest.mark.parametrize(
    ("pool", "left"),
    [
        ("10.8.0.0/30", ["10.8.0.1", "10.8.0.2"]),
        ("10.8.0.0/31", ["10.8.0.0", "10.8.0.1"]),
        ("10.8.0.7/32", ["10.8.0.7"]),
        ("fd42::/126", ["fd42::1", "fd42::2", "fd42::3"]),
        ("fd42::/127", ["fd42::", "fd42::1"]),
        ("fd42::5/128", ["fd42::5"]),
    ],
)
def test_a_pool_has_no_address_that_means_something_else(pool: str, left: list[str]) -> None:
    version = 6 if ":" in pool else 4
    assert sorted(addresses(bare(pool), version)) == left
    assert bare(pool).size(version) == len(left)


def test_what_is_kept_out_is_kept_out() -> None:
    settings = settings_of(
        "10.8.0.0/28",
        own=(Interface.parse("10.8.0.1/28"),),
        reserved=(AddressRange(address("10.8.0.3"), address("10.8.0.5")),),
        reservations=(Reservation(name="laptop", addresses=(address("10.8.0.7"),)),),
    )
    fixed = [Prefix.parse("10.8.0.8/30"), Prefix.parse("192.168.0.0/16")]
    pools = Pools(settings, fixed)
    expected = ["10.8.0.12", "10.8.0.13", "10.8.0.14", "10.8.0.2", "10.8.0.6"]
    assert sorted(addresses(pools)) == expected
    assert pools.size(4) == 5
    for out in ("10.8.0.0", "10.8.0.1", "10.8.0.4", "10.8.0.7", "10.8.0.9", "10.8.0.15"):
        assert not pools.is_leasable(address(out))
    assert pools.is_leasable(address("10.8.0.6"))
    assert not pools.is_leasable(address("10.9.0.6"))
    assert not pools.is_leasable(address("::10.8.0.6"))


def test_a_peer_that_routes_everything_leaves_the_pool_to_clients() -> None:
    pools = Pools(settings_of("10.8.0.0/24"), [Prefix.parse("0.0.0.0/0")])
    assert pools.size(4) == 253


def test_a_huge_pool_costs_nothing() -> None:
    pools = bare("fd42::/64")
    assert pools.size(6) == 2**64 - 1
    first = list(islice(pools.walk(6, key_of(1)), 3))
    number = int.from_bytes(first[0], "big")
    assert [int.from_bytes(one, "big") for one in first] == [number, number + 1, number + 2]


def test_where_a_walk_begins_depends_on_the_key_alone() -> None:
    one, other = bare("10.8.0.0/16"), bare("10.8.0.0/16")
    starts = {next(one.walk(4, key_of(number))) for number in range(1, 101)}
    assert len(starts) > 95
    assert next(one.walk(4, key_of(7))) == next(other.walk(4, key_of(7)))


def test_pools_are_used_in_order() -> None:
    found = addresses(bare("10.8.0.0/30", "10.9.0.0/30"))
    assert [one[:4] for one in found] == ["10.8", "10.8", "10.9", "10.9"]


def test_an_address_has_the_length_of_its_pool() -> None:
    pools = bare("10.8.0.0/22", "fd42::/64")
    assert str(pools.interface(address("10.8.3.9"))) == "10.8.3.9/22"
    assert str(pools.interface(address("fd42::9"))) == "fd42::9/64"
    assert str(pools.interface(address("10.99.0.1"))) == "10.99.0.1/32"


@given(
    length=st.integers(24, 32),
    out=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 40)).map(lambda one: (one[0], sum(one)))
    ),
    client=st.integers(1, 50),
)
def test_a_walk_meets_each_address_once(
    length: int, out: list[tuple[int, int]], client: int
) -> None:
    base = int.from_bytes(address("10.8.0.0"), "big")
    pool = Prefix(4, base, length)
    ranges = tuple(
        AddressRange((base + first).to_bytes(4, "big"), (base + last).to_bytes(4, "big"))
        for first, last in out
    )
    pools = Pools(RegistrySettings((pool,), reserved=ranges))
    size = 1 << 32 - length
    ends = {0, size - 1} if length < 31 else set()
    taken = ends | {one for first, last in out for one in range(first, last + 1)}
    walked = [int.from_bytes(one, "big") - base for one in pools.walk(4, key_of(client))]
    assert sorted(walked) == [one for one in range(size) if one not in taken]
    assert pools.size(4) == len(walked)
    for offset in range(size):
        leasable = pools.is_leasable((base + offset).to_bytes(4, "big"))
        assert leasable == (offset not in taken)
