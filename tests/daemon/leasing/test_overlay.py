from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nvpn.config.model import (
    HostPort,
    InterfaceConfig,
    PeerConfig,
    ServerConfig,
    TunnelConfig,
)
from nvpn.daemon.leasing.overlay import (
    lease_plan,
    leased_addresses,
    leased_keepalives,
    overlay,
    servers_of,
    with_servers,
)
from nvpn.daemon.leasing.servers import FurtherServer
from nvpn.daemon.leasing.told import Told
from nvpn.model.changes import AddAllowedIp, Owner, RemoveAllowedIp, SetPersistentKeepalive
from nvpn.model.keys import PublicKey
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import Interface, Prefix, parse_address

SERVER, OTHER, SOUTH = (PublicKey(bytes([number]) * 32) for number in (1, 2, 3))
NET, OFFICE, EXTRA = map(Prefix.parse, ("10.8.0.0/24", "192.168.7.0/24", "10.9.0.0/16"))
PLACE = HostPort("192.0.2.1", 51820)
FILE = TunnelConfig(
    "wg0",
    Path("wg0.toml"),
    InterfaceConfig(),
    (PeerConfig(SERVER, endpoint=PLACE, server=True), PeerConfig(OTHER, allowed_ips=(EXTRA,))),
)
TOLD = Told(
    SERVER,
    addresses=(Interface.parse("10.8.0.7/24"),),
    routes=(NET, OFFICE),
    dns=NameServers((parse_address("10.8.0.1"),)),
    mtu=1380,
    endpoints=(HostPort("vpn.example", 51820), PLACE),
)


def test_servers_are_the_peers_that_the_file_calls_so() -> None:
    assert servers_of(FILE) == (SERVER,)


def test_what_is_told_completes_the_file() -> None:
    effective = overlay(FILE, TOLD)

    assert effective.interface.addresses == TOLD.addresses
    assert effective.interface.dns == TOLD.dns
    assert effective.interface.mtu == 1380
    assert effective.peers[0].allowed_ips == (NET, OFFICE)
    assert effective.peers[0].endpoints == (PLACE, HostPort("vpn.example", 51820))
    assert effective.peers[1] == FILE.peers[1]


def test_what_the_file_gives_wins_and_addresses_and_routes_add_up() -> None:
    own = Interface.parse("10.8.0.7/32"), Interface.parse("10.0.0.5/24")
    interface = InterfaceConfig(addresses=own, mtu=1300, dns=NameServers(search=("lan",)))
    peers = (replace(FILE.peers[0], allowed_ips=(OFFICE,)), FILE.peers[1])
    effective = overlay(replace(FILE, interface=interface, peers=peers), TOLD)

    assert effective.interface == interface
    assert effective.peers[0].allowed_ips == (OFFICE, NET)


def test_nothing_told_leaves_the_file_as_it_is() -> None:
    assert overlay(FILE, None) is FILE


def test_what_a_peer_tells_that_is_no_server_of_the_file_does_not_count() -> None:
    demoted = replace(FILE, peers=(replace(FILE.peers[0], server=False),))

    assert overlay(demoted, TOLD) is demoted
    assert lease_plan((FILE, TOLD), (demoted, TOLD)) == (
        RemoveAllowedIp(SERVER, NET),
        RemoveAllowedIp(SERVER, OFFICE),
    )


def test_servers_of_which_one_of_the_files_tells_are_peers_after_those_of_the_file() -> None:
    places = HostPort("192.0.2.9", 51820), HostPort("south.example", 51820)
    named = tuple(FurtherServer(key, "south", places) for key in (OTHER, SOUTH))
    told = replace(TOLD, servers=named)
    south = PeerConfig(SOUTH, "south", None, places[0], other_endpoints=places[1:], server=True)

    assert with_servers(FILE, told).peers == (*FILE.peers, south)
    assert overlay(FILE, told).peers[2:] == (south,)
    assert servers_of(FILE, told) == (SERVER, SOUTH)
    moved = replace(told, server=SOUTH, known_by=SERVER)
    assert overlay(FILE, moved).peers[2].allowed_ips == (NET, OFFICE)
    # Not without the one that they are known by, and not where such peers are our clients.
    for file in (
        replace(FILE, peers=FILE.peers[1:]),
        replace(FILE, server=ServerConfig((NET,))),
    ):
        assert with_servers(file, told) is with_servers(file, moved) is file


def test_a_peer_without_an_endpoint_gets_none_from_a_lease() -> None:
    hidden = replace(FILE, peers=(PeerConfig(SERVER, server=True),))

    assert overlay(hidden, TOLD).peers[0].endpoints == ()


def test_a_peer_has_no_more_endpoints_than_a_file_may_give() -> None:
    many = replace(TOLD, endpoints=tuple(HostPort("vpn.example", port) for port in range(1, 9)))

    assert len(overlay(FILE, many).peers[0].endpoints) == 8


def test_the_leased_addresses_are_those_that_the_file_does_not_give() -> None:
    own = replace(FILE.interface, addresses=(Interface.parse("10.8.0.9/24"),))

    assert leased_addresses(FILE, None) == ()
    assert leased_addresses(replace(FILE, interface=own), TOLD) == TOLD.addresses


def test_the_server_of_the_lease_is_kept_awake_as_it_wishes_unless_the_file_says() -> None:
    wished, moved = replace(TOLD, keepalive=25), replace(TOLD, keepalive=15)

    def kept(file: TunnelConfig, told: Told | None) -> list[int | None]:
        return [peer.persistent_keepalive for peer in overlay(file, told).peers]

    assert kept(FILE, wished) == [25, None]
    assert leased_keepalives(FILE, wished) == {SERVER: 25}
    assert lease_plan((FILE, TOLD), (FILE, wished)) == (SetPersistentKeepalive(SERVER, 25),)
    assert lease_plan((FILE, wished), (FILE, wished)) == ()
    assert lease_plan((FILE, wished), (FILE, moved)) == (SetPersistentKeepalive(SERVER, 15),)
    assert lease_plan((FILE, wished), (FILE, TOLD)) == (SetPersistentKeepalive(SERVER, 0),)
    for seconds in (0, 40):
        file = replace(FILE, peers=(replace(FILE.peers[0], persistent_keepalive=seconds),))
        assert kept(file, wished) == [seconds]
        assert leased_keepalives(file, wished) == {}
        assert lease_plan((file, TOLD), (file, wished)) == ()
        # A reload: what the file says by now stays.
        assert lease_plan((FILE, wished), (file, wished))[-1] == SetPersistentKeepalive(
            SERVER, seconds
        )


def test_the_keepalive_goes_along_when_another_server_has_the_lease() -> None:
    further = FurtherServer(SOUTH, "south", (PLACE,))
    north = replace(TOLD, keepalive=25, servers=(further,))
    south = replace(north, server=SOUTH, known_by=SERVER)
    assert lease_plan((FILE, north), (FILE, south))[-2:] == (
        SetPersistentKeepalive(SERVER, 0),
        SetPersistentKeepalive(SOUTH, 25),
    )
    # Who is no peer any more has none.
    gone = replace(north, servers=())
    assert SetPersistentKeepalive(SOUTH, 0) not in lease_plan((FILE, south), (FILE, gone))
    assert lease_plan((FILE, south), (FILE, None)) == lease_plan(
        (FILE, replace(south, keepalive=0)), (FILE, None)
    )


def test_routes_of_a_lease_belong_to_the_lease() -> None:
    assert lease_plan((FILE, None), (FILE, TOLD)) == (
        AddAllowedIp(SERVER, NET, Owner.LEASE),
        AddAllowedIp(SERVER, OFFICE, Owner.LEASE),
    )


def test_only_what_a_renewal_changes_is_changed() -> None:
    renewed = replace(TOLD, routes=(NET, EXTRA))

    assert lease_plan((FILE, TOLD), (FILE, renewed)) == (
        RemoveAllowedIp(SERVER, OFFICE),
        AddAllowedIp(SERVER, EXTRA, Owner.LEASE),
    )
    assert lease_plan((FILE, TOLD), (FILE, TOLD)) == ()


def test_the_end_of_a_lease_leaves_what_the_file_gives_the_server_by_now() -> None:
    peers = (replace(FILE.peers[0], allowed_ips=(OFFICE,)), FILE.peers[1])
    reloaded = replace(FILE, peers=peers)

    assert lease_plan((FILE, TOLD), (reloaded, TOLD)) == ()
    assert lease_plan((reloaded, TOLD), (reloaded, None)) == (RemoveAllowedIp(SERVER, NET),)
