"""Several endpoints and several ways out: traffic goes on where a way is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.machines import Machine
from tests.support.world import Tunnel, World, engine, wait_until

pytestmark = [pytest.mark.root, pytest.mark.interop]

FAR = "10.9.0.2"


class TwoWays:
    """A machine with two cables to a server of any kind, which is reached by both."""

    def __init__(self, world: World, other: str, endpoints: str) -> None:
        self.machine = Machine(world, "a")
        server = world.host("b")
        for _ in range(2):
            world.link(self.machine.host, server)
        self.far: Tunnel = server.tunnel(engine(other), (f"{FAR}/24",))
        self.far.wg_set("peer", self.machine.public_key, "allowed-ips", "10.9.0.1/32")
        self.name = f"{world.prefix}a"
        self.machine.write(
            f"""
[interface]
private_key = "PRIVATE"
address = "10.9.0.1/24"
[[peer]]
public_key = "{self.far.public_key}"
allowed_ips = ["{FAR}/32"]
endpoints = [{endpoints}]
""",
            f"{self.name}.toml",
        )
        # A link that was made just now holds datagrams back until it has found its neighbours.
        for way in ("10.77.1.2", "10.77.2.2", "fd77:1::2", "fd77:2::2"):
            self.machine.host.run("ping", "-c1", "-w10", way)
        self.machine.nvpn("up", f"./{self.name}.toml")

    @property
    def endpoint(self) -> str:
        """Where the machine takes the server to be."""
        return str(self.machine.record(self.name)[1][2])

    def answers(self) -> bool:
        return self.machine.host.ping(FAR, count=1, wait=0.2) == (1, 1)

    def wait_for_answer(self, seconds: float) -> float:
        return wait_until(self.answers, seconds, "the server answers")

    def close(self) -> None:
        self.machine.nvpn("down", self.name)


@pytest.fixture
def two_ways(world: World, request: pytest.FixtureRequest) -> Callable[[str, str], TwoWays]:
    def make(other: str, endpoints: str) -> TwoWays:
        made = TwoWays(world, other, endpoints)
        request.addfinalizer(made.close)
        return made

    return make


@pytest.mark.parametrize(
    ("other", "second", "change"),
    [
        # Not to the other family: wireguard-go keeps addresses for reuse, and after one of IPv4
        # fills in a part of the next one of IPv6 only.
        ("wireguard-go", "10.77.2.2", "ip address flush dev {}"),
        # The kernel takes the routes of IPv4 away without a word, and leaves the address.
        ("nvpn", "[fd77:2::2]", "ip link set {} down"),
    ],
    ids=["address", "link"],
)
def test_when_a_way_out_is_taken_away_the_other_one_is_used_at_once(
    two_ways: Callable[[str, str], TwoWays], other: str, second: str, change: str
) -> None:
    """By itself, a session that is lost would be missed after fifteen seconds."""
    there = two_ways(other, f'"10.77.1.2:51820", "{second}:51820"')
    there.wait_for_answer(30)
    over_first = there.endpoint.startswith("10.77.1.2:")
    there.machine.host.run(*change.format("v1b" if over_first else "v2b").split())
    seconds = there.wait_for_answer(13)
    print(f"back after {seconds:.2f} s")
    assert there.endpoint.startswith(f"{second}:" if over_first else "10.77.1.2:")
