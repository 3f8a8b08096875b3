"""What a tunnel does without where IPv6 is switched off, and the one sentence about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvpn.config.model import InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.daemon.families import without_ipv6
from nvpn.errors import PlatformError
from nvpn.model.keys import PrivateKey
from nvpn.model.prefixes import Interface, Prefix

PEER = PrivateKey(bytes(range(32))).public()


def config(addresses: str, allowed_ips: str, *, table: int | None = None) -> TunnelConfig:
    return TunnelConfig(
        "wg0",
        Path("wg0.toml"),
        InterfaceConfig(
            addresses=tuple(Interface.parse(text) for text in addresses.split()), table=table
        ),
        (PeerConfig(PEER, allowed_ips=tuple(map(Prefix.parse, allowed_ips.split()))),),
    )


@pytest.mark.parametrize(
    ("addresses", "allowed_ips", "table", "told"),
    [
        ("10.0.0.1/24", "10.0.0.0/8", None, ""),
        ("10.0.0.1/24 fd00::1/64", "fd00::2/128", None, "fd00::1/64 is"),
        ("10.0.0.1/24 fd00::1/64", "fd01::/48", None, "fd00::1/64 and 1 route are"),
        ("10.0.0.1/24", "fd01::/48", None, "1 route is"),
        ("", "::/0 fd01::/48", None, "2 routes are"),
        ("10.0.0.1/24", "fd01::/48", 0, ""),
        ("10.0.0.1/24", "fd01::/48 ::/0", 77, "2 routes are"),
        ("10.0.0.1/24 fd00::1/64 fd01::1/64", "", None, "fd00::1/64 and fd01::1/64 are"),
        (
            "10.0.0.1/24 fd00::1/64 fd01::1/64",
            "::/0",
            None,
            "fd00::1/64, fd01::1/64 and 1 route are",
        ),
        (
            "10.0.0.1/24 fd00::1/64 fd01::1/64 fd02::1/64 fd03::1/64",
            "",
            None,
            "4 addresses are",
        ),
    ],
)
def test_one_sentence_says_what_is_left_out(
    addresses: str, allowed_ips: str, table: int | None, told: str
) -> None:
    whole = config(addresses, allowed_ips, table=table)

    left, sentence = without_ipv6(whole)

    assert sentence == (f"IPv6 is switched off here: {told} left out" if told else "")
    assert all(len(one.address) == 4 for one in left.interface.addresses)
    assert all(prefix.version == 4 for peer in left.peers for prefix in peer.allowed_ips)
    assert set(left.interface.addresses) <= set(whole.interface.addresses)


def test_a_tunnel_without_any_address_left_is_refused() -> None:
    with pytest.raises(PlatformError, match="cannot give address fd00::1/64 to wg0"):
        without_ipv6(config("fd00::1/64", "10.0.0.0/8"))
