"""Whole days between two devices, in seconds; and what must hold for every packet of them."""

from __future__ import annotations

from collections import Counter

import pytest

from nvpn.model.clock import MILLISECOND
from nvpn.wire.messages import MessageType
from tests.support.sim import Flight, Pair, Weather

pytestmark = pytest.mark.once

DAY = 86_400.0
BAD = Weather(
    latency=30 * MILLISECOND, jitter=80 * MILLISECOND, loss=0.1, duplication=0.05, corruption=0.02
)


def counters_under_keys(flights: list[Flight]) -> Counter[tuple[str, bytes]]:
    """How often each (sender, receiver index and counter) was sent; two are a reused nonce."""
    return Counter(
        (flight.sender, flight.datagram[4:16])
        for flight in flights
        if flight.kind is MessageType.TRANSPORT
    )


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("delays", [0, 20 * MILLISECOND], ids=["prompt", "lagging"])
def test_a_day_of_rekeys_over_a_bad_network(seed: int, delays: int) -> None:
    pair = Pair(seed, weather=BAD, delays=delays)
    number = iter(range(1_000_000))
    for sends in (pair.alice_sends, pair.bob_sends):
        pair.world.every(20.5, lambda sends=sends: sends(b"%d" % next(number)), until=DAY)
    pair.run(DAY)

    sent_each = int(DAY / 20.5) + 1
    for host in (pair.alice, pair.bob):
        assert len(set(host.delivered)) == len(host.delivered)  # nothing twice
        assert len(host.delivered) > 0.83 * sent_each, pair  # ten in a hundred are lost
        assert len(host.core.receivers) <= 3
        assert len(host.device._context.indices) <= 4
    assert max(counters_under_keys(pair.world.flights).values()) == 1
    rekeys = len(pair.world.sent(MessageType.INITIATION))
    assert DAY / 180 < rekeys < DAY / 60


def test_a_day_of_silence_costs_nothing() -> None:
    pair = Pair(1)
    pair.connect()
    pair.run(DAY)
    assert [flight.is_keepalive for flight in pair.world.flights] == [True]
    # The keepalive, the erasing, and what was armed by the first packet.
    assert pair.alice.wakes + pair.bob.wakes <= 6


def test_ten_busy_minutes_cost_the_protocol_a_handful_of_events_a_minute() -> None:
    pair = Pair(1, weather=Weather(latency=2 * MILLISECOND))
    events = 0
    handle = pair.alice.device.handle_event

    def count(event, now):  # type: ignore[no-untyped-def]
        nonlocal events
        events += 1
        handle(event, now)

    pair.alice.device.handle_event = count  # type: ignore[method-assign]
    minutes = 10
    # Ping and answer, three times a second: each packet settles the one before.
    pair.world.every(1 / 3, pair.alice_sends, until=60 * minutes - 1)
    pair.world.at(
        pair.world.time + 10 * MILLISECOND,
        lambda: pair.world.every(1 / 3, pair.bob_sends, until=60 * minutes - 1),
    )
    pair.run(60 * minutes)
    assert len(pair.alice.delivered) > 170 * minutes
    assert events < 20 * minutes
    assert pair.alice.wakes < 20 * minutes
