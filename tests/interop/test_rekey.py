"""One real session old enough to be renewed: two minutes and ten seconds of wall clock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.world import World, engine, wait_until

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.slow]


def test_sessions_are_renewed_at_120_seconds_and_nobody_notices(world: World) -> None:
    hub = world.host("h")
    near = hub.tunnel(engine("nvpn"), ("10.9.0.1/24",))
    pairs = []
    for number, name in enumerate(["nvpn", "wireguard-go"], 2):
        host = world.host(f"s{number}")
        link = world.link(hub, host)
        far = host.tunnel(engine(name), (f"10.9.0.{number}/24",))
        near.add_peer(far, f"10.9.0.{number}/32", endpoint=f"10.77.{link}.2:51820")
        far.add_peer(near, "10.9.0.1/32")
        pairs.append((far, number))
    for _, number in pairs:
        assert hub.ping(f"10.9.0.{number}") == (3, 3)
    before = {far.interface: near.peer(far)["handshake"] for far, _ in pairs}
    with ThreadPoolExecutor() as pool:
        runs = pool.map(
            lambda pair: hub.ping(f"10.9.0.{pair[1]}", count=1280, interval=0.1), pairs
        )
        assert list(runs) == [(1280, 1280)] * 2
    for far, _ in pairs:
        renewed = near.peer(far)["handshake"] - before[far.interface]
        assert 118 <= renewed <= 124
        wait_until(
            lambda far=far: abs(far.peer(near)["handshake"] - near.peer(far)["handshake"]) <= 1,
            10,
            "both sides know the same handshake",
        )
