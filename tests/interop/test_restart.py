"""`nvpn up` as a user runs it, killed without warning, and back within a second."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.world import NVPN, SOCKETS, Host, World, engine, wait_until

pytestmark = [pytest.mark.root, pytest.mark.interop]


def write_config(path: Path, key: PrivateKey, address: str, peer: str) -> None:
    path.touch(0o600)
    path.write_text(
        f'[interface]\nprivate_key = "{key.reveal_base64()}"\naddress = ["{address}"]\n'
        f"listen_port = 51820\n\n[[peer]]\n{peer}"
    )


def up(host: Host, config: Path, state: Path) -> subprocess.Popen[bytes]:
    host.world.sockets.add(SOCKETS / f"{config.stem}.sock")
    log = (host.world.directory / f"{config.stem}.log").open("ab")
    return host.start(
        *(*NVPN, "up", "-f", str(config)),
        env={**os.environ, "NVPN_STATE_DIR": str(state)},
        stdout=log,
        stderr=log,
    )


@pytest.mark.parametrize("other", ["nvpn", "wireguard-go"])
def test_a_killed_responder_is_back_within_a_second(world: World, other: str) -> None:
    """The initiator alone would need 15 s to notice; the responder calls it at its start."""
    a, b = world.host("a"), world.host("b")
    link = world.link(a, b)
    state = world.directory / "state"
    key = PrivateKey(os.urandom(32))
    config = world.directory / f"{world.prefix}a.toml"
    far = b.tunnel(engine(other), ("10.9.0.2/24",))
    # The responder knows no endpoint by its file: only what it learned, and remembered.
    write_config(
        config, key, "10.9.0.1/24",
        f'public_key = "{far.public_key}"\nallowed_ips = ["10.9.0.2/32"]\n',
    )  # fmt: skip
    daemon = up(a, config, state)
    wait_until(lambda: a.run("wg", "show", config.stem, check=False) != "", 30, "nvpn up")
    far.wg_set(
        *("peer", key.public().base64, "allowed-ips", "10.9.0.1/32"),
        *("endpoint", f"10.77.{link}.1:51820"),
    )
    assert b.ping("10.9.0.1") == (3, 3)
    written = state / f"{config.stem}.json"
    wait_until(
        lambda: written.exists() and far.public_key in written.read_text(), 20, "it is remembered"
    )
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()

    killed = time.monotonic()
    begun = up(a, config, state)
    wait_until(lambda: a.run("wg", "show", config.stem, check=False) != "", 20, "nvpn up again")
    ready = time.monotonic()
    wait_until(lambda: b.ping("10.9.0.1", count=1, wait=0.1) == (1, 1), 30, "it is back")
    back = time.monotonic()
    print(f"{back - killed:.2f} s without a reply, the start of the new process included")
    # By the very first handshake, with its start: the next try would be five seconds later.
    assert back - ready < 5
    assert b.ping("10.9.0.1", count=20, interval=0.02) == (20, 20)
    assert begun.poll() is None
