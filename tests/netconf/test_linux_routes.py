"""Routes as bytes: what we copy and read is what pyroute2 packs and parses."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL
from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_NEWROUTE
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from nvpn.model.prefixes import Prefix, format_address
from nvpn.netconf.linux_netlink import pack
from nvpn.netconf.linux_routes import pack_gone_routes, pack_new_routes, read_route

LINK = 7

prefixes = st.one_of(
    st.builds(Prefix.of, st.binary(min_size=4, max_size=4), st.integers(0, 32)),
    st.builds(Prefix.of, st.binary(min_size=16, max_size=16), st.integers(0, 128)),
)


def route(prefix: Prefix, *, scope: int, table: int = 254, link: int = LINK) -> rtmsg:
    message = rtmsg()
    message["family"] = socket.AF_INET if prefix.version == 4 else socket.AF_INET6
    message["dst_len"] = prefix.length
    message["table"] = table
    message["proto"] = 4
    message["scope"] = scope
    message["type"] = 1
    message["attrs"] = [("RTA_DST", format_address(prefix.packed)), ("RTA_OIF", link)]
    return message


@settings(deadline=None)
@given(st.lists(prefixes, max_size=5))
def test_copies_are_what_pyroute2_would_pack(wanted: list[Prefix]) -> None:
    new = NLM_F_CREATE | NLM_F_EXCL
    scopes = {4: 253, 6: 0}  # link, universe

    assert pack_new_routes(LINK, wanted) == [
        pack(route(prefix, scope=scopes[prefix.version]), RTM_NEWROUTE, new) for prefix in wanted
    ]
    assert pack_gone_routes(LINK, wanted) == [
        pack(route(prefix, scope=255), RTM_DELROUTE, 0) for prefix in wanted
    ]


@settings(deadline=None)
@given(prefixes)
def test_a_route_is_read_as_it_was_packed(prefix: Prefix) -> None:
    packed = pack(route(prefix, scope=0), RTM_NEWROUTE, 0)

    assert read_route(packed, LINK) == prefix


def test_attributes_of_any_length_before_the_ones_that_count_are_skipped() -> None:
    message = route(Prefix.parse("10.9.0.0/16"), scope=0)
    message["attrs"].insert(0, ("RTA_METRICS", {"attrs": [("RTAX_CC_ALGO", "bbr")]}))

    assert read_route(pack(message, RTM_NEWROUTE, 0), LINK) == Prefix.parse("10.9.0.0/16")


def test_a_default_route_has_no_destination() -> None:
    for family, expected in ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0")):
        message = rtmsg()
        message["family"] = family
        message["table"] = 254
        message["attrs"] = [("RTA_OIF", LINK)]

        assert read_route(pack(message, RTM_NEWROUTE, 0), LINK) == Prefix.parse(expected)


def test_routes_of_other_tables_and_links_do_not_count() -> None:
    prefix = Prefix.parse("10.9.0.0/16")

    assert read_route(pack(route(prefix, scope=0, table=7), RTM_NEWROUTE, 0), LINK) is None
    assert read_route(pack(route(prefix, scope=0, link=8), RTM_NEWROUTE, 0), LINK) is None


@settings(deadline=None)
@given(prefixes, st.integers(0, 60))
def test_a_message_cut_short_raises_nothing(prefix: Prefix, length: int) -> None:
    cut = pack(route(prefix, scope=0), RTM_NEWROUTE, 0)[:length]

    assert read_route(cut, LINK) in (None, prefix)


@settings(deadline=None)
@given(prefixes, st.integers(1, 2**32 - 1))
def test_a_route_of_any_table_is_packed_for_it_and_read_from_it_alone(
    prefix: Prefix, table: int
) -> None:
    (packed,) = pack_new_routes(LINK, [prefix], table=table)

    assert read_route(packed, LINK, table=table) == prefix
    assert read_route(packed, LINK, table=table ^ 1) is None


@pytest.mark.parametrize("table", (200, 51820))
def test_a_prefix_is_read_from_its_own_table_only(table: int) -> None:
    prefix = Prefix.parse("10.7.0.0/16")
    (packed,) = pack_new_routes(LINK, [prefix], table=table)

    assert read_route(packed, LINK, table=table) == prefix
    assert read_route(packed, LINK) is None
