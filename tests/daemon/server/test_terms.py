"""What clients are told."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from nvpn.channel.messages import Enrolled, decode, encode
from nvpn.config.model import (
    HostPort,
    InterfaceConfig,
    PeerConfig,
    ServerConfig,
    StoreConfig,
    StoreKind,
    TunnelConfig,
)
from nvpn.daemon.server.terms import file_peers, registry_settings, settings_for, with_servers
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface, Prefix
from nvpn.registry.model import FilePeer, Lease, Server
from tests.support.scenarios import A, B, prefix

TERMS = ServerConfig(
    pools=(Prefix.parse("10.8.0.0/24"),),
    endpoints=(HostPort("vpn.example", 51820), HostPort("2001:db8::1", 443)),
    routes=(Prefix.parse("10.8.0.0/24"), Prefix.parse("192.168.7.0/24")),
    dns=(bytes((10, 8, 0, 1)),),
    search=("home.arpa",),
    mtu=1380,
)
LEASE = Lease(A, (Interface.parse("10.8.0.5/24"),), given_at=0, expires_at=1)


def test_a_client_is_to_renew_when_half_of_its_time_is_over() -> None:
    settings = settings_for(TERMS, LEASE, 3601, name="ada", server="hub")
    assert (settings.lease_seconds, settings.renew_seconds) == (3601, 1800)
    assert settings.addresses == LEASE.addresses
    assert settings.endpoints == ("vpn.example:51820", "[2001:db8::1]:443")
    assert (settings.dns, settings.search, settings.mtu) == (TERMS.dns, TERMS.search, 1380)
    assert decode(encode(settings)) == settings


def test_what_is_given_for_good_is_not_renewed() -> None:
    settings = settings_for(TERMS, LEASE, None, name="ada", server="hub")
    assert (settings.lease_seconds, settings.renew_seconds) == (0, 0)


def test_a_name_of_ours_that_is_longer_than_the_channel_takes_is_cut() -> None:
    settings = settings_for(TERMS, LEASE, 60, name="n" * 100, server="s" * 100)
    assert decode(encode(settings)) == settings


def test_the_registry_learns_what_the_file_says_of_peers_and_of_us() -> None:
    config = TunnelConfig(
        "wg0",
        Path("wg0.toml"),
        InterfaceConfig(addresses=(Interface.parse("10.8.0.1/24"),)),
        (PeerConfig(B, name="bob", allowed_ips=(prefix("10.8.0.9/32"),)),),
        server=TERMS,
    )
    settings = registry_settings(config, A)
    assert (settings.pools, settings.own, settings.server) == (
        TERMS.pools,
        config.interface.addresses,
        A.base64,
    )
    assert file_peers(config) == {B: FilePeer("bob", (prefix("10.8.0.9/32"),))}


ETCD = StoreConfig(StoreKind.ETCD, ("http://etcd.example:2379",), "/nvpn")


@pytest.mark.parametrize(
    ("terms", "key", "is_announced"),
    [
        (replace(TERMS, store=ETCD), A, True),
        (TERMS, A, False),  # whom should it tell?
        (replace(TERMS, store=ETCD, endpoints=()), A, False),
        (replace(TERMS, store=ETCD), None, False),
    ],
)
def test_a_server_on_a_shared_store_that_can_be_reached_is_announced_there(
    terms: ServerConfig, key: PublicKey | None, is_announced: bool
) -> None:
    config = TunnelConfig("wg0", Path("wg0.toml"), InterfaceConfig(), server=terms)
    announced = registry_settings(config, key).announced
    assert (announced is not None) == is_announced
    if announced is not None:
        assert (announced.public_key, announced.endpoints) == (A, TERMS.endpoints)
        assert announced.name == socket.gethostname()


def test_as_many_servers_are_told_of_as_one_message_has_room_for() -> None:
    answer = Enrolled("laptop", ("vpn.example:51820",), "north")
    small = [Server(PublicKey(bytes([n]) * 32), f"s{n}", TERMS.endpoints) for n in range(1, 9)]
    told = with_servers(answer, small)
    assert [one.name for one in told.servers] == ["s1", "s2", "s3", "s4", "s5", "s6", "s7"]
    assert told.servers[0].endpoints == ("vpn.example:51820", "[2001:db8::1]:443")
    assert decode(encode(told)) == told

    hosts = tuple(HostPort(f"{n}" + "x" * 250, 51820) for n in range(8))
    large = [Server(one.public_key, "\U0001f980" * 64, hosts) for one in small]
    told = with_servers(answer, large)
    assert [one.public_key for one in told.servers] == [one.public_key for one in large[:3]]
    assert decode(encode(told)) == told
    assert with_servers(answer, ()) == answer
