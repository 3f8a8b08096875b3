"""MTU and routes, as wg-quick decides them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.model.prefixes import Interface, Prefix, parse_address
from nvpn.netconf.api import MAIN_TABLE, Path
from nvpn.netconf.plan import RoutePlan, derive_mtu, plan_routes, plan_routing

TUNNEL = 9


def paths(**mtus: int | tuple[int, int]):
    """A lookup: addresses (dots and colons as underscores) to an MTU, or (interface, MTU)."""
    table = {}
    for address, value in mtus.items():
        text = address.lstrip("_").replace("__", "::").replace("_", ".")
        interface, mtu = value if isinstance(value, tuple) else (2, value)
        table[parse_address(text)] = Path(interface, mtu)
    return table.get


def addresses(*texts: str) -> list[bytes]:
    return [parse_address(text) for text in texts]


def prefixes(*texts: str) -> set[Prefix]:
    return {Prefix.parse(text) for text in texts}


def test_the_smallest_path_to_an_endpoint_gives_the_mtu() -> None:
    lookup = paths(_203_0_113_1=1500, _203_0_113_2=1400, _192_0_2_1=9000)

    assert derive_mtu(addresses("203.0.113.1", "203.0.113.2"), lookup, tunnel=TUNNEL) == 1320


def test_an_endpoint_without_a_route_does_not_count() -> None:
    lookup = paths(_203_0_113_1=1492)

    assert derive_mtu(addresses("203.0.113.9", "203.0.113.1"), lookup, tunnel=TUNNEL) == 1412


def test_without_endpoints_the_default_route_gives_the_mtu() -> None:
    assert derive_mtu([], paths(_192_0_2_1=1400), tunnel=TUNNEL) == 1320


def test_a_host_with_ipv6_alone_derives_from_its_default_route_too() -> None:
    def lookup(address: bytes) -> Path | None:
        return Path(2, 1480) if len(address) == 16 else None

    assert derive_mtu([], lookup, tunnel=TUNNEL) == 1400


def test_without_any_route_it_is_1420() -> None:
    assert derive_mtu(addresses("203.0.113.1"), lambda address: None, tunnel=TUNNEL) == 1420


def test_an_address_of_our_own_is_no_default_route() -> None:
    def lookup(address: bytes) -> Path:
        return Path(interface=1, mtu=65536)

    assert derive_mtu([], lookup, tunnel=TUNNEL) == 1420
    # What a peer on this very host is reached by, all the same, is the way to it.
    assert derive_mtu(addresses("127.0.0.1"), lookup, tunnel=TUNNEL) == 65456


def test_a_path_through_the_tunnel_itself_says_nothing() -> None:
    lookup = paths(_203_0_113_1=(TUNNEL, 1000), _192_0_2_1=(TUNNEL, 1000))

    assert derive_mtu(addresses("203.0.113.1"), lookup, tunnel=TUNNEL) == 1420


def test_a_tiny_path_does_not_make_a_useless_mtu() -> None:
    lookup = paths(_203_0_113_1=200)

    assert derive_mtu(addresses("203.0.113.1"), lookup, tunnel=TUNNEL) == 576


def test_what_an_address_brings_by_itself_needs_no_route() -> None:
    own = (Interface.parse("10.0.0.1/24"), Interface.parse("fd00::1/64"))
    allowed = prefixes("10.0.0.2/32", "10.0.0.0/24", "10.0.1.0/24", "fd00::2/128", "fd00:1::/64")

    assert plan_routes(allowed, own) == prefixes("10.0.1.0/24", "fd00:1::/64")


def test_a_prefix_around_the_own_network_needs_a_route() -> None:
    own = (Interface.parse("10.0.0.1/24"),)

    assert plan_routes(prefixes("10.0.0.0/8"), own) == prefixes("10.0.0.0/8")


def test_a_bare_address_covers_itself_alone() -> None:
    own = (Interface.parse("10.0.0.1"),)

    assert plan_routes(prefixes("10.0.0.2/32"), own) == prefixes("10.0.0.2/32")


def test_default_routes_are_not_planned() -> None:
    assert plan_routes(prefixes("0.0.0.0/0", "::/0"), ()) == frozenset()


@settings(deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 255), st.integers(1, 32)), max_size=20),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 32)), max_size=3),
)
def test_every_allowed_address_has_a_way_into_the_tunnel(
    allowed: set[tuple[int, int]], own: list[tuple[int, int]]
) -> None:
    wanted = {Prefix.of(bytes([10, 0, 0, last]), length) for last, length in allowed}
    interfaces = [Interface(bytes([10, 0, 0, last]), length) for last, length in own]

    planned = plan_routes(wanted, interfaces)

    ways = planned | {interface.prefix for interface in interfaces}
    assert planned <= wanted
    assert all(any(way.covers(prefix) for way in ways) for prefix in wanted)


EVERYTHING = prefixes("0.0.0.0/0", "::/0", "10.7.0.0/16")


def test_default_routes_are_reached_by_rules_and_the_rest_is_in_main() -> None:
    plan = plan_routing(EVERYTHING, (), table=None, is_apart=False)

    assert plan == RoutePlan(MAIN_TABLE, prefixes("10.7.0.0/16"), prefixes("0.0.0.0/0", "::/0"))


def test_two_halves_are_no_default_route() -> None:
    halves = prefixes("0.0.0.0/1", "128.0.0.0/1")

    assert plan_routing(halves, (), table=None, is_apart=False) == RoutePlan(MAIN_TABLE, halves)


def test_a_table_of_one_s_own_takes_every_route_and_needs_no_rule() -> None:
    own = (Interface.parse("10.7.0.1/16"),)

    assert plan_routing(EVERYTHING, own, table=12, is_apart=False) == RoutePlan(12, EVERYTHING)


def test_without_a_table_there_are_no_routes() -> None:
    assert plan_routing(EVERYTHING, (), table=0, is_apart=False) == RoutePlan(MAIN_TABLE)


def test_in_a_namespace_apart_a_default_route_is_a_route_like_any_other() -> None:
    own = (Interface.parse("10.7.0.1/16"),)

    plan = plan_routing(EVERYTHING, own, table=None, is_apart=True)

    assert plan == RoutePlan(MAIN_TABLE, prefixes("0.0.0.0/0", "::/0"))
