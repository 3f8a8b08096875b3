"""Ten thousand peers: what is idle costs nothing, what is busy costs only itself."""

from __future__ import annotations

import random

from nvpn.datapath.commands import SendHandshake
from nvpn.model.clock import SECOND, Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.protocol.device import MAX_TIMERS_AT_ONCE, Device
from nvpn.protocol.tai64n import TimestampSource
from tests.support.recorder import Recorder
from tests.support.sim import START, WALL, Host, Pair, World, inner

PEERS = 10_000


def crowd(rng: random.Random) -> list[PublicKey]:
    return [PublicKey(rng.randbytes(32)) for _ in range(PEERS)]


def test_idle_peers_need_no_wake_up_and_disturb_nobody() -> None:
    pair = Pair(1)
    for public in crowd(random.Random(1)):
        pair.bob.device.add_peer(public)
    pair.bob.turn()
    assert pair.bob.device.next_timeout() is None
    pair.connect()
    pair.run(1_000)
    assert pair.bob.wakes <= 3
    assert pair.bob.device.next_timeout() is None


def test_a_crowd_of_due_timers_is_handled_a_few_at_a_time() -> None:
    rng = random.Random(2)
    datapath = Recorder()
    now = Now(START, WALL)
    device = Device(datapath=datapath, random=rng.randbytes, timestamps=TimestampSource())
    device.set_private_key(PrivateKey(rng.randbytes(32)), now)
    device.bring_up(now)
    for public in crowd(rng)[:500]:
        device.add_peer(public)
        device.set_endpoint(public, Endpoint.parse("192.0.2.1:1"), now)
        device.set_persistent_keepalive(public, 25, now)
    device.take_commands()

    later = Now(now.boot + 25 * SECOND, now.wall + 25 * SECOND)
    calls = 0
    sent = 0
    while (deadline := device.next_timeout()) is not None and deadline <= later.boot:
        device.handle_timeout(later)
        commands = device.take_commands()
        assert 0 < len(commands) <= MAX_TIMERS_AT_ONCE
        calls += 1
        sent += len(commands)
    assert sent == 500
    assert calls == -(-500 // MAX_TIMERS_AT_ONCE)
    assert not any(isinstance(command, SendHandshake) for command in commands)


def test_a_hundred_peers_of_one_host_have_a_session_each() -> None:
    world = World(3)
    hub = Host(world, "hub", "192.0.2.254:51820")
    spokes = [Host(world, f"spoke{n}", f"192.0.2.{n}:51820") for n in range(1, 101)]
    for number, spoke in enumerate(spokes, 1):
        hub.meet(spoke, f"10.0.0.{number}/32", endpoint=False)
        spoke.meet(hub, "10.0.1.0/24")
    for number, spoke in enumerate(spokes, 1):
        spoke.send(inner(f"10.0.0.{number}", "10.0.1.1", b"%d" % number))
    world.run(1)
    assert sorted(packet[20:] for packet in hub.delivered) == sorted(
        b"%d" % number for number in range(1, 101)
    )
    assert len(hub.device._context.indices) == 100
