from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.channel.messages import OtherServer, Settings, decode, encode
from nvpn.config.model import HostPort, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.daemon.leasing.overlay import overlay
from nvpn.daemon.leasing.servers import FurtherServer, merge_servers
from nvpn.daemon.leasing.told import Surrounding, Told, take_settings
from nvpn.errors import Refused
from nvpn.model.keys import PublicKey
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import Interface, Prefix, parse_address

SERVER, OTHER = (PublicKey(bytes([number]) * 32) for number in (1, 2))
FILE = TunnelConfig(
    "wg0",
    Path("wg0.toml"),
    InterfaceConfig(addresses=(Interface.parse("10.0.0.5/24"),)),
    (
        PeerConfig(SERVER, "office", endpoint=HostPort("192.0.2.1", 51820), server=True),
        PeerConfig(OTHER, "lab", allowed_ips=(Prefix.parse("10.9.0.0/16"),)),
    ),
)
AROUND = Surrounding(endpoints=(parse_address("192.0.2.1"),))
ADDRESS = Interface.parse("10.8.0.7/24")


def take(around: Any = AROUND, **told: Any) -> tuple[Told, tuple[str, ...]]:
    return take_settings(Settings(**{"addresses": (ADDRESS,), **told}), SERVER, FILE, around)


def routes(*texts: str) -> dict[str, Any]:
    return {"routes": tuple(map(Prefix.parse, texts))}


def test_sound_settings_are_taken_whole() -> None:
    told, complaints = take(
        **routes("10.8.0.0/24", "0.0.0.0/0", "fd42::/64"),
        dns=(parse_address("10.8.0.1"),),
        search=("corp.example",),
        mtu=1380,
        lease_seconds=3600,
        renew_seconds=1800,
        endpoints=("vpn.example:51820",),
        name="laptop",
        server="office",
    )

    assert complaints == ()
    assert told == Told(
        SERVER,
        addresses=(ADDRESS,),
        routes=(Prefix(4, 0x0A080000, 24), Prefix(4, 0, 0), Prefix.parse("fd42::/64")),
        dns=NameServers((parse_address("10.8.0.1"),), ("corp.example",)),
        mtu=1380,
        endpoints=(HostPort("vpn.example", 51820),),
        lease=3600,
        renew=1800,
        name="laptop",
        server_name="office",
    )


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1/8",
        "0.0.0.0/32",
        "169.254.1.1/16",
        "224.0.0.5/32",
        "255.255.255.255/32",
        "::1/128",
        "fe80::1/64",
        "ff02::1/128",
        "::ffff:10.0.0.1/128",
    ],
)
def test_addresses_that_no_host_can_have_are_left_out(address: str) -> None:
    told, complaints = take(addresses=(Interface.parse(address), ADDRESS))

    assert told.addresses == (ADDRESS,)
    assert len(complaints) == 1


def test_settings_without_any_usable_address_are_refused_with_the_reason() -> None:
    with pytest.raises(Refused, match=r"office gave us no address.*127\.0\.0\.1/8"):
        take(addresses=(Interface.parse("127.0.0.1/8"),))


def test_a_server_may_lease_no_more_than_the_file_gives_already() -> None:
    told, complaints = take(addresses=FILE.interface.addresses)

    assert told.addresses == ()
    assert complaints == ()


def test_an_answer_of_a_server_that_a_reload_has_dropped_is_no_trouble() -> None:
    settings = Settings((ADDRESS,), routes=(Prefix.parse("10.8.0.0/24"),))
    told, _ = take_settings(settings, SERVER, replace(FILE, peers=FILE.peers[1:]), AROUND)

    assert overlay(replace(FILE, peers=FILE.peers[1:]), told).interface == FILE.interface


def test_an_address_that_this_host_has_elsewhere_is_left_out() -> None:
    lan = Interface.parse("192.168.1.5/24")
    around = replace(AROUND, is_ours=lambda packed: packed == lan.address)
    told, complaints = take(around, addresses=(lan, ADDRESS))

    assert told.addresses == (ADDRESS,)
    assert "has it elsewhere" in complaints[0]


def test_the_place_where_the_server_is_reached_cannot_be_leased() -> None:
    told, _ = take(addresses=(Interface.parse("192.0.2.1/32"), ADDRESS))

    assert told.addresses == (ADDRESS,)


def test_a_leased_network_that_holds_the_server_itself_is_narrowed_to_the_address() -> None:
    told, _ = take(addresses=(Interface.parse("192.0.2.77/24"),))

    assert told.addresses == (Interface.parse("192.0.2.77/32"),)


@pytest.mark.parametrize(
    ("route", "why"),
    [
        ("127.0.0.0/8", "no hosts"),
        ("169.254.169.254/32", "no hosts"),
        ("fe80::/64", "no hosts"),
        ("ff00::/8", "no hosts"),
        ("192.0.2.0/24", "outside of the tunnel"),
        ("128.0.0.0/1", "outside of the tunnel"),
        ("10.9.0.0/16", "gives it to lab"),
        ("10.9.1.0/24", "gives it to lab"),
    ],
)
def test_routes_that_a_server_may_not_have_are_left_out(route: str, why: str) -> None:
    told, complaints = take(**routes(route, "10.8.0.0/24"))

    assert told.routes == (Prefix.parse("10.8.0.0/24"),)
    assert len(complaints) == 1
    assert route in complaints[0] and why in complaints[0]


def test_other_servers_are_taken_that_are_neither_we_nor_peers_of_the_file() -> None:
    ours, south = (PublicKey(bytes([number]) * 32) for number in (7, 8))
    named = tuple(
        OtherServer(key, "south", ("198.51.100.9:51820", "south.example:51820"))
        for key in (ours, SERVER, OTHER, south)
    )
    around = replace(AROUND, own_key=ours)
    told, complaints = take(around, servers=named, **routes("198.51.100.0/24", "0.0.0.0/0"))

    places = HostPort("198.51.100.9", 51820), HostPort("south.example", 51820)
    assert told.servers == (FurtherServer(south, "south", places),)
    # What we send to it is not to go through the tunnel.
    assert told.routes == (Prefix(4, 0, 0),)
    assert len(complaints) == 1


def test_servers_stay_in_the_order_in_which_we_heard_of_them_first() -> None:
    one, two, three, four = (
        FurtherServer(PublicKey(bytes([number]) * 32), f"s{number}", (HostPort("a.example", 1),))
        for number in (11, 12, 13, 14)
    )
    moved = replace(two, endpoints=(HostPort("b.example", 1),))

    assert merge_servers((one, two, three), (four, moved), one.public_key) == (one, moved, four)
    assert merge_servers((), (two, one), four.public_key) == (two, one)


def test_a_server_may_have_all_the_rest_of_what_another_peer_has_by_default() -> None:
    exit_peer = replace(FILE.peers[1], allowed_ips=(Prefix(4, 0, 0),))
    file = replace(FILE, peers=(FILE.peers[0], exit_peer))
    settings = Settings((ADDRESS,), routes=(Prefix.parse("10.8.0.0/24"), Prefix(4, 0, 0)))
    told, complaints = take_settings(settings, SERVER, file, AROUND)

    assert told.routes == (Prefix.parse("10.8.0.0/24"),)
    assert len(complaints) == 1


@pytest.mark.parametrize("mtu", [1, 575, 9201, 65535])
def test_an_mtu_beyond_all_bounds_is_left_out(mtu: int) -> None:
    told, complaints = take(mtu=mtu)

    assert told.mtu is None
    assert len(complaints) == 1


def test_an_mtu_too_small_for_ipv6_is_left_out_where_ipv6_is_leased() -> None:
    told, _ = take(addresses=(Interface.parse("fd42::7/64"),), mtu=1000)

    assert told.mtu is None
    assert take(mtu=1000)[0].mtu == 1000


def test_name_servers_on_loopback_and_domains_that_are_none_are_left_out() -> None:
    servers = tuple(map(parse_address, ("127.0.0.53", "fe80::1", "10.8.0.1")))
    told, complaints = take(dns=servers, search=("ok.example", "not a domain", ";rm -rf"))

    assert told.dns == NameServers((parse_address("10.8.0.1"),), ("ok.example",))
    assert len(complaints) == 4


def test_endpoints_that_are_none_are_left_out_and_not_repeated() -> None:
    told, complaints = take(endpoints=("vpn.example:1", "$(reboot):1", "127.0.0.1:1", "x:0"))

    assert told.endpoints == (HostPort("vpn.example", 1),)
    assert len(complaints) == 3
    assert not any("reboot" in complaint for complaint in complaints)


@pytest.mark.parametrize(
    ("lease", "renew", "expected"),
    [
        (3600, 0, (3600, 1800)),
        (3600, 9999, (3600, 3240)),
        (1, 1, (20, 10)),
        (2**32 - 1, 5, (2_592_000, 10)),
        (0, 0, (0, 43_200)),
        (0, 1, (0, 20)),
    ],
)
def test_times_beyond_all_bounds_are_brought_within(
    lease: int, renew: int, expected: tuple[int, int]
) -> None:
    told, _ = take(lease_seconds=lease, renew_seconds=renew)

    assert (told.lease, told.renew) == expected


@pytest.mark.parametrize(("wished", "taken"), [(0, 0), (1, 10), (25, 25), (65535, 65535)])
def test_no_server_may_have_us_say_something_every_second(wished: int, taken: int) -> None:
    assert take(keepalive=wished)[0].keepalive == taken


interfaces = st.ip_addresses().flatmap(
    lambda ip: st.integers(0, ip.max_prefixlen).map(lambda n: Interface(ip.packed, n))
)
networks = interfaces.map(lambda one: one.prefix)
text = st.text(st.characters(exclude_categories=("C", "Z")), max_size=40)


@given(
    st.builds(
        Settings,
        addresses=st.lists(interfaces, max_size=8).map(tuple),
        routes=st.lists(networks, max_size=20).map(tuple),
        dns=st.lists(st.ip_addresses().map(lambda ip: ip.packed), max_size=8).map(tuple),
        search=st.lists(text, max_size=8).map(tuple),
        mtu=st.integers(0, 65535),
        lease_seconds=st.integers(0, 2**32 - 1),
        renew_seconds=st.integers(0, 2**32 - 1),
        keepalive=st.integers(0, 65535),
        endpoints=st.lists(text, max_size=8).map(tuple),
    )
)
def test_whatever_a_server_tells_is_refused_or_made_safe(settings: Settings) -> None:
    received = decode(encode(settings))
    assert isinstance(received, Settings)
    try:
        told, _ = take_settings(received, SERVER, FILE, AROUND)
    except Refused:
        return

    effective = overlay(FILE, told)
    for address in told.addresses:
        parsed = ipaddress.ip_address(address.address)
        assert not (parsed.is_loopback or parsed.is_multicast or parsed.is_link_local)
        assert not parsed.is_unspecified
    server = Prefix.of(parse_address("192.0.2.1"), 32)
    ways = [*told.routes, *(address.prefix for address in told.addresses)]
    assert not any(way.covers(server) for way in ways if not way.is_default)
    assert told.renew >= 10
    assert effective.peers[1] == FILE.peers[1]
    assert effective.interface.mtu is None or 576 <= effective.interface.mtu <= 9200
