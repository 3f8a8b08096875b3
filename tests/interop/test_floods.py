"""Floods that are meant to keep others out: packets go on, newcomers get in, memory is flat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvpn.model.keys import PublicKey
from nvpn.protocol.cookies import MacStamper
from nvpn.wire.messages import Initiation
from tests.support.world import Tunnel, World, engine

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.slow]

FLOODER = Path(__file__).parents[1] / "support" / "flooder.py"
PER_SECOND = 8_000


def initiation(public: PublicKey) -> bytes:
    """Past mac1, which takes no more than our public key; only opening it shows the forgery."""
    noise = os.urandom(32), os.urandom(48), os.urandom(28)
    return MacStamper(public).stamp(Initiation(7, *noise).pack(), 0)


def cookie_reply(public: PublicKey) -> bytes:
    return b"\3\0\0\0" + os.urandom(60)


def transport(public: PublicKey) -> bytes:
    return b"\4\0\0\0" + os.urandom(124)


def memory_kib(tunnel: Tunnel) -> int:
    assert tunnel.process is not None
    status = Path(f"/proc/{tunnel.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@pytest.mark.parametrize(
    ("message", "patience"),
    [
        # Asked for a cookie, an honest newcomer comes back with it after five seconds.
        pytest.param(initiation, 7.0, id="initiations past mac1"),
        pytest.param(cookie_reply, 2.0, id="cookie replies"),
        pytest.param(transport, 2.0, id="transport messages"),
    ],
)
def test_a_flood_from_many_addresses_keeps_nobody_out(
    world: World, message: Callable[[PublicKey], bytes], patience: float
) -> None:
    server, friend, newcomer, enemy = (world.host(name) for name in "sfne")
    links = [world.link(server, other) for other in (friend, newcomer, enemy)]
    enemy.run("ip", "route", "add", "local", "10.200.0.0/16", "dev", "lo")
    server.run("ip", "route", "add", "10.200.0.0/16", "via", f"10.77.{links[2]}.2")
    tunnel = server.tunnel(engine("nvpn"), ("10.9.0.1/24",))
    for number, (host, link) in enumerate(((friend, links[0]), (newcomer, links[1])), 2):
        other = host.tunnel(engine("nvpn"), (f"10.9.0.{number}/24",))
        tunnel.add_peer(other, f"10.9.0.{number}/32")
        other.add_peer(tunnel, "10.9.0.1/32", endpoint=f"10.77.{link}.1:51820")
    assert friend.ping("10.9.0.1") == (3, 3)
    before = memory_kib(tunnel)

    public, seconds = tunnel.private_key.public(), int(patience) + 5
    flood = enemy.start(
        *(sys.executable, str(FLOODER), f"10.77.{links[2]}.1", str(tunnel.port)),
        *(str(PER_SECOND), str(seconds), "256"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert flood.stdin is not None
    assert flood.stdout is not None
    flood.stdin.write(json.dumps([message(public).hex() for _ in range(512)]).encode())
    flood.stdin.close()
    assert flood.stdout.readline() == b"begun\n"
    time.sleep(0.5)  # until the queue is as full as it gets

    pinging = friend.start(
        *("ping", "-n", "-q", "-c", "100", "-i", "0.05", "-W", "2", "10.9.0.1"),
        stdout=subprocess.PIPE,
    )
    begun = time.monotonic()
    newcomer.run("ping", "-n", "-c", "1", "-W", str(patience), "10.9.0.1", timeout=20)
    assert time.monotonic() - begun < patience
    told = pinging.communicate()[0].decode()
    received = int(told.split(" packets transmitted, ")[1].split()[0])
    result = json.loads(flood.stdout.readline())

    assert result["sent"] >= PER_SECOND * seconds * 0.8
    assert received >= 95, told
    assert memory_kib(tunnel) - before < 4096
    assert result["others"] == 0, "nobody but a peer gets more than a cookie reply"
    if message is not initiation:
        assert result["cookies"] == 0
    assert "Traceback" not in tunnel.log_text()
