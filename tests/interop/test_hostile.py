"""A million datagrams of every length from strangers: silence, no exception, flat memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from nvpn.protocol.cookies import MacStamper
from nvpn.protocol.handshake import InitiatorHandshake
from nvpn.protocol.tai64n import stamp
from tests.support.world import Tunnel, World, engine

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.slow]

MAX_IPV4, MAX_IPV6 = 65_507, 65_527
COUNT = int(os.environ.get("NVPN_HOSTILE_DATAGRAMS", "1000000"))
STRANGER = Path(__file__).parents[1] / "support" / "stranger.py"


def memory_kib(tunnel: Tunnel) -> int:
    assert tunnel.process is not None
    status = Path(f"/proc/{tunnel.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def templates(tunnel: Tunnel) -> Iterator[bytes]:
    """Messages that are right but for who sends them."""
    public = tunnel.private_key.public()
    handshake = InitiatorHandshake.begin(
        static=PrivateKey(os.urandom(32)),
        their_static=public,
        our_index=7,
        timestamp=stamp(time.time_ns()),
        ephemeral=os.urandom(32),
    )
    yield MacStamper(public).stamp(handshake.message, 0)
    yield b"\2\0\0\0" + os.urandom(88)
    yield b"\3\0\0\0" + os.urandom(60)
    for length in (32, 48, 128, 1452):
        yield b"\4\0\0\0" + os.urandom(length - 4)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_strangers_get_nothing_and_cost_nothing(world: World, address: str) -> None:
    host, friend = world.host("a"), world.host("b")
    link = world.link(host, friend)
    tunnel = host.tunnel(engine("nvpn"), ("10.9.0.1/24",))
    far = friend.tunnel(engine("nvpn"), ("10.9.0.2/24",))
    tunnel.add_peer(far, "10.9.0.2/32")
    far.add_peer(tunnel, "10.9.0.1/32", endpoint=f"10.77.{link}.1:51820")
    assert friend.ping("10.9.0.1") == (3, 3)
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)

    def strangers(count: int) -> dict[str, int]:
        longest = MAX_IPV4 if address == "127.0.0.1" else MAX_IPV6
        arguments = [address, str(tunnel.port), str(count), str(longest), str(seed)]
        done = subprocess.run(
            host.argv(sys.executable, str(STRANGER), *arguments),
            input=json.dumps([message.hex() for message in templates(tunnel)]).encode(),
            capture_output=True,
            timeout=600,
            check=True,
        )
        return dict(json.loads(done.stdout))

    strangers(COUNT // 20)  # buffers and tables reach their size
    before = memory_kib(tunnel)
    result = strangers(COUNT // 2)
    assert result["sent"] >= COUNT // 2
    assert result["replies"] == 0
    assert result["overflowed"] <= result["sent"] * 0.02, "most must have been looked at"
    assert memory_kib(tunnel) - before < 2048
    assert friend.ping("10.9.0.1", count=20, interval=0.02) == (20, 20)
    assert "Traceback" not in tunnel.log_text()
    assert tunnel.process is not None and tunnel.process.poll() is None
