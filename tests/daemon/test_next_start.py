"""What a reload cannot change is told."""

from __future__ import annotations

from pathlib import Path

from nvpn.config.model import (
    InterfaceConfig,
    ServerConfig,
    StoreConfig,
    StoreKind,
    TunnelConfig,
)
from nvpn.daemon.next_start import left_for_next_start
from nvpn.model.prefixes import Prefix
from nvpn.model.secret import SecretText

POOL = (Prefix.parse("10.8.0.0/24"),)


def tunnel(server: ServerConfig | None = None, **interface: object) -> TunnelConfig:
    return TunnelConfig(
        "wg0",
        Path("wg0.toml"),
        InterfaceConfig(**interface),  # type: ignore[arg-type]
        server=server,
    )


def server(store: StoreConfig | None = None, lease_time: int = 60) -> ServerConfig:
    return ServerConfig(POOL, store=store or StoreConfig(), lease_time=lease_time)


def etcd(password: str) -> StoreConfig:
    where = ("http://localhost:2379",)
    return StoreConfig(StoreKind.ETCD, where, user="nvpn", password=SecretText(password))


def test_what_needs_another_start_is_told_with_what_it_will_be() -> None:
    assert left_for_next_start(tunnel(workers=1), tunnel(workers=4, mtu=1400)) == [
        "wg0.toml: interface.workers: 4 is for the next start: nvpn down wg0, then nvpn up wg0"
    ]


def test_a_server_keeps_its_store_until_the_next_start() -> None:
    (said,) = left_for_next_start(tunnel(server()), tunnel(server(etcd("x"), lease_time=90)))
    assert said.startswith('wg0.toml: server.store: "etcd" is for the next start')
    (said,) = left_for_next_start(tunnel(server(etcd("x"))), tunnel(server(etcd("y"))))
    assert said.startswith("wg0.toml: server.store: what is another now about the etcd is for")


def test_the_rest_of_a_server_and_its_coming_and_going_is_no_matter() -> None:
    for old, new in [
        (server(), server(lease_time=90)),
        (None, server(etcd("x"))),
        (server(), None),
    ]:
        assert left_for_next_start(tunnel(old), tunnel(new)) == []
