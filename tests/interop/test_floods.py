"""Floods that are meant to keep others out: packets go on, newcomers get in, memory is flat."""

from __future__ import annotations

import time

import pytest

from tests.support.floods import Flood, Siege, outcome, received, waited
from tests.support.world import World, engine

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.slow]

PER_SECOND = {"native": 100_000, "python": 4_000}

# Asked for a cookie, an honest newcomer comes back with it after five seconds. Where processors
# are short one of its datagrams may be lost, and another five seconds go by.
QUICK, WITH_COOKIE = 7.0, 12.0


@pytest.mark.parametrize(
    ("flood", "patience"),
    [
        (Flood("initiations"), WITH_COOKIE),
        (Flood("initiations", sources=256), WITH_COOKIE),
        (Flood("initiations-with-cookie"), WITH_COOKIE),
        (Flood("forged-macs", sources=256), QUICK),
        (Flood("cookie-replies", sources=256), QUICK),
        (Flood("unknown-indices", sources=256), QUICK),
        (Flood("malformed", sources=256), QUICK),
        (Flood("replays"), QUICK),
    ],
    ids=lambda value: str(value) if isinstance(value, Flood) else "",
)
def test_a_flood_keeps_nobody_out(
    world: World, datapath: str, flood: Flood, patience: float
) -> None:
    siege = Siege(world)
    tunnel = siege.tunnel(engine("nvpn"))
    assert tunnel.friend.host.ping(tunnel.address) == (3, 3)
    before = tunnel.memory_kib()
    rate = PER_SECOND[datapath]

    enemy = siege.start(flood, tunnel, rate, patience + 1)
    time.sleep(0.5)  # until the queue is as full as it gets
    pings = tunnel.start_pings(100, 0.05)
    newcomer = tunnel.start_newcomer(patience)
    wait, answered = waited(newcomer), received(pings)
    enemy.terminate()
    told = outcome(enemy)

    assert wait is not None, f"the newcomer had no answer within {patience} s"
    assert answered >= 95
    assert tunnel.memory_kib() - before < 4096
    # The enemy has to share two cores with everybody else here, and still it has to be a flood.
    assert told["sent"] >= rate * told["seconds"] * 0.2
    assert told["others"] == 0, "nobody but a peer gets more than a cookie reply"
    if flood.kind != "initiations":
        assert told["cookies"] == 0
    assert "Traceback" not in tunnel.server.log_text()
