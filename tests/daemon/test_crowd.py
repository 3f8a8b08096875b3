"""A server and a crowd of clients: all are served, and none is at the mercy of another."""

from __future__ import annotations

import json

import pytest

from tests.support.crowd import INSIDE, Crowd, hosts_of
from tests.support.world import World, wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_five_hundred_clients_are_leased_in_ten_seconds_and_survive_a_kill(world: World) -> None:
    crowd = Crowd(world, 500)
    crowd.server.nvpn("up", "wg0.toml")

    told = crowd.lease()

    assert told["failed"] == {}
    given = hosts_of(told["leased"])
    assert len(given) == 500
    assert all(len(addresses) == 2 for addresses in given.values())
    assert len(set().union(*given.values())) == 1000, "nobody has what another has"
    assert told["seconds"] < 10
    assert crowd.leased() == given

    crowd.server.kill()
    crowd.server.nvpn("up", "wg0.toml")

    assert crowd.leased() == given, "all leases are there again before anybody asks"
    again = hosts_of(crowd.lease(20)["leased"])
    assert again == {number: given[number] for number in again}
    assert len(again) == 20


def test_ten_of_fifty_clients_that_misbehave_are_nobody_elses_trouble(world: World) -> None:
    crowd = Crowd(world, 50)
    crowd.server.nvpn("up", "wg0.toml")

    honest, others = slice(40), slice(40, None)

    with crowd.misbehaving(others):
        told = crowd.ping(honest, 25)

    assert told["sent"] == 40 * 25
    assert told["answered"] >= told["sent"] * 0.99, told
    assert told["renewed"]["failed"] == {}
    leased = crowd.leased()
    assert hosts_of(told["renewed"]["leased"]).items() <= leased.items()
    assert len(crowd.peers()) == 51, "nobody was let in"
    held = [address for addresses in leased.values() for address in addresses]
    assert len(held) == len(set(held))
    assert not {f"{INSIDE}/32", "fd42::1/128"} & set(held)
    drops = json.loads(crowd.server.nvpn("show", "wg0", "--json").stdout)
    assert "source-not-allowed" in json.dumps(drops)
    wait_until(lambda: crowd.memory_kib() < 200_000, 30, "memory is what it was")
