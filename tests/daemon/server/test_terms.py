"""What clients are told."""

from __future__ import annotations

from pathlib import Path

from nvpn.channel.messages import decode, encode
from nvpn.config.model import HostPort, InterfaceConfig, PeerConfig, ServerConfig, TunnelConfig
from nvpn.daemon.server.terms import file_peers, registry_settings, settings_for
from nvpn.model.prefixes import Interface, Prefix
from nvpn.registry.model import FilePeer, Lease
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
    settings = registry_settings(config, "us")
    assert (settings.pools, settings.own, settings.server) == (
        TERMS.pools,
        config.interface.addresses,
        "us",
    )
    assert file_peers(config) == {B: FilePeer("bob", (prefix("10.8.0.9/32"),))}
