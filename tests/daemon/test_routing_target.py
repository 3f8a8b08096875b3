"""What a configuration wants of routing, before anything is done about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvpn.config.model import HostPort, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.daemon import routing_target
from nvpn.daemon.routing_target import Target, explain_unheard_resolver
from nvpn.errors import PlatformError
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface, Prefix, parse_address

PEER = PublicKey(bytes(range(32)))
DEFAULT, DEFAULT_V6, PLAIN = map(Prefix.parse, ("0.0.0.0/0", "::/0", "10.7.0.0/16"))


def configuration(
    *allowed: Prefix, table: int | None = None, switch: bool = False, host: str = "192.0.2.1"
) -> TunnelConfig:
    interface = InterfaceConfig(
        addresses=(Interface.parse("10.9.0.1/24"),), table=table, kill_switch=switch
    )
    peer = PeerConfig(PEER, endpoint=HostPort(host, 1), allowed_ips=allowed)
    return TunnelConfig("wg0", Path("wg0.toml"), interface, (peer,))


def of(config: TunnelConfig, *, mark: int = 7, is_apart: bool = False) -> Target:
    return Target.of(config, mark=mark, is_apart=is_apart)


def test_a_default_route_is_in_the_table_of_the_mark_and_plain_ones_are_not_ours() -> None:
    assert of(configuration(DEFAULT, PLAIN)) == Target(
        frozenset({(7, DEFAULT)}), frozenset({4}), 7, (parse_address("10.9.0.1"),)
    )
    assert of(configuration(PLAIN)).routes == frozenset()


def test_a_table_that_is_named_is_ours_wholly_and_has_no_rules() -> None:
    target = of(configuration(DEFAULT, DEFAULT_V6, PLAIN, table=7))

    assert target.routes == {(7, DEFAULT), (7, DEFAULT_V6), (7, PLAIN)}
    assert target.versions == frozenset()


def test_off_is_nothing_and_apart_a_default_route_is_in_main() -> None:
    assert of(configuration(DEFAULT, PLAIN, table=0)).routes == frozenset()
    apart = of(configuration(DEFAULT, PLAIN), mark=0, is_apart=True)
    assert (apart.routes, apart.versions, apart.marks) == ({(254, DEFAULT)}, set(), set())


@pytest.mark.parametrize("mark", (253, 254, 255))
def test_a_mark_that_is_a_table_of_the_system_is_refused_for_a_default_route(mark: int) -> None:
    assert of(configuration(PLAIN), mark=mark).mark == mark
    with pytest.raises(PlatformError, match=f"into table {mark}; .* choose another fwmark"):
        of(configuration(DEFAULT), mark=mark)


@pytest.mark.parametrize(
    ("server", "is_heard"),
    [
        ("127.0.0.53", True),
        ("192.168.1.1", True),
        ("10.7.0.53", True),
        ("fe80::1%eth0", True),
        ("8.8.8.8", False),
        ("nonsense", True),  # nothing can be said of it
    ],
)
def test_a_name_server_out_of_reach_is_told_where_there_are_names(
    server: str, is_heard: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(
        f"# here\nsearch example.com\nnameserver {server}\nnameserver 9.9.9.9\n"
    )
    monkeypatch.setattr(routing_target, "_RESOLV_CONF", str(resolv_conf))
    lan = [Prefix.parse("192.168.1.0/24"), Prefix.parse("0.0.0.0/1")]

    sentence = explain_unheard_resolver(configuration(PLAIN, host="vpn.example.com"), lan)

    assert (sentence == "") is is_heard
    assert explain_unheard_resolver(configuration(PLAIN), lan) == ""
