"""Anything may happen for a while; when it is over, packets pass again."""

from __future__ import annotations

import os
import random

import pytest

from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.keys import PresharedKey, PrivateKey
from nvpn.model.prefixes import Prefix
from tests.sim.test_long_runs import BAD, counters_under_keys
from tests.support.sim import Host, Pair, Weather

SEEDS = range(int(os.environ.get("NVPN_FUZZ_SEEDS", "40")))


class Turmoil:
    """Random deeds upon a pair, all of which a user, a network or a machine could do."""

    def __init__(self, pair: Pair, rng: random.Random) -> None:
        self.pair = pair
        self.rng = rng
        self.preshared: PresharedKey | None = None

    def strike(self) -> None:
        deeds = (
            self.send,
            self.send,
            self.send,
            self.send,
            self.cut,
            self.mend,
            self.go_down_and_up,
            self.change_preshared_key,
            self.change_identity,
            self.forget_and_meet_again,
            self.toggle_keepalive,
            self.suspend,
            self.move,
            self.load,
            self.initiate,
        )
        self.rng.choice(deeds)()

    def side(self) -> tuple[Host, Host]:
        pair = self.pair
        sides = (pair.alice, pair.bob)
        return sides if self.rng.random() < 0.5 else (sides[1], sides[0])

    def send(self) -> None:
        for _ in range(self.rng.randrange(1, 5)):
            self.rng.choice((self.pair.alice_sends, self.pair.bob_sends))()

    def cut(self) -> None:
        one, other = self.side()
        self.pair.world.blocked.add((one.name, other.name))

    def mend(self) -> None:
        self.pair.world.blocked.clear()

    def go_down_and_up(self) -> None:
        one, _ = self.side()
        one.device.bring_down(one.now)
        one.turn()
        self.pair.run(self.rng.random())
        one.device.bring_up(one.now)
        one.turn()

    def change_preshared_key(self) -> None:
        one, other = self.side()
        one.device.set_preshared_key(other.public, PresharedKey(self.rng.randbytes(32)))

    def change_identity(self) -> None:
        one, other = self.side()
        other.device.remove_peer(one.public, other.now)
        one.key = PrivateKey(self.rng.randbytes(32))
        one.public = one.key.public()
        one.device.set_private_key(one.key, one.now)
        one.turn()
        self.introduce(one, to=other)

    def forget_and_meet_again(self) -> None:
        one, other = self.side()
        one.device.remove_peer(other.public, one.now)
        self.introduce(other, to=one)

    def introduce(self, one: Host, *, to: Host) -> None:
        device = to.device
        device.add_peer(one.public)
        device.set_endpoint(one.public, one.outer, to.now)
        address = "10.0.0.1/32" if one is self.pair.alice else "10.0.0.2/32"
        device.add_allowed_ip(one.public, Prefix.parse(address))
        to.turn()

    def toggle_keepalive(self) -> None:
        one, other = self.side()
        one.device.set_persistent_keepalive(other.public, self.rng.choice((0, 3, 25)), one.now)
        one.turn()

    def suspend(self) -> None:
        self.side()[0].suspend(self.rng.choice((1, 20, 200)))

    def move(self) -> None:
        self.side()[0].move(
            f"198.51.100.{self.rng.randrange(1, 250)}:{self.rng.randrange(1, 999)}"
        )

    def load(self) -> None:
        one, _ = self.side()
        one.core._admission._loaded_until = self.pair.world.time + 3 * SECOND

    def initiate(self) -> None:
        one, other = self.side()
        one.device.initiate(other.public, one.now)
        one.turn()

    def calm(self) -> None:
        """Everybody is awake, knows where the other is, and the network is good."""
        pair = self.pair
        pair.world.blocked.clear()
        pair.world.weather = Weather(latency=20 * MILLISECOND)
        pair.run(201)
        for one, other in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
            one.device.set_preshared_key(other.public, None)
            one.device.set_endpoint(other.public, other.outer, one.now)
            one.turn()
        pair.run(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_after_any_turmoil_packets_pass_again(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(seed, weather=BAD, delays=rng.choice((0, 15 * MILLISECOND)))
    turmoil = Turmoil(pair, rng)
    for _ in range(rng.randrange(5, 60)):
        turmoil.strike()
        pair.run(rng.choice((0.0, 0.01, 0.1, 1.0, 6.0, 40.0)))
    turmoil.calm()

    for send, receiver in ((pair.alice_sends, pair.bob), (pair.bob_sends, pair.alice)):
        receiver.delivered.clear()
        pair.world.every(1, lambda send=send: send(b"at last") and None, until=19)
        pair.run(25)
        assert receiver.delivered, (seed, pair.alice.drops, pair.bob.drops)
    assert max(counters_under_keys(pair.world.flights).values()) == 1
    for host in (pair.alice, pair.bob):
        assert len(host.device._context.indices) <= 5
        assert len(host.core.receivers) <= 3
