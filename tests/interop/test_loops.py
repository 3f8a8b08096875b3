"""The way to a peer's endpoint leads into the tunnel."""

from __future__ import annotations

import time

import pytest

from tests.support.world import World, engine

pytestmark = [pytest.mark.root, pytest.mark.interop]


@pytest.mark.parametrize(
    ("inside", "here", "there"),
    [("10.9.0.2", "10.9.0.1/24", "10.9.0.2/24"), ("fd09::2", "fd09::1/64", "fd09::2/64")],
)
def test_ten_pings_into_a_routing_loop_stay_ten(
    world: World, inside: str, here: str, there: str
) -> None:
    a, b = world.host("a"), world.host("b")
    link = world.link(a, b)
    alice = a.tunnel(engine("nvpn"), (here,))
    bob = b.tunnel(engine("nvpn"), (there,))
    alice.add_peer(bob, f"{inside}", endpoint=f"10.77.{link}.2:51820")
    bob.add_peer(alice, here.partition("/")[0])
    assert a.ping(inside) == (3, 3)

    where = f"[{inside}]:51820" if ":" in inside else f"{inside}:51820"
    alice.wg_set("peer", bob.public_key, "endpoint", where)
    before = alice.peer(bob)["tx"]
    for size in (56, 1372, 3000):
        a.ping(inside, count=10, interval=0.02, wait=0.5, size=size)
    time.sleep(0.5)
    # 3,000 bytes are three packets, and what is too long outside comes in two pieces.
    assert alice.peer(bob)["tx"] - before < 10 * (128 + 1500 + 3500) * 2
