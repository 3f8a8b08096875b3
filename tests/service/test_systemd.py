"""The units under a real systemd: it starts, reloads, restarts and stops tunnels by them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import Pair
from tests.support.systemd import SYSTEMD, Systemd
from tests.support.world import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not SYSTEMD.exists(), reason="needs systemd"),
]

UNIT = "nvpn@wg0"


@pytest.fixture
def systemd(pair: Pair, tmp_path: Path) -> Iterator[Systemd]:
    """That of alice; bob is up already."""
    pair.bob.write(pair.configuration(pair.bob))
    pair.bob.nvpn("up", "wg0.toml")
    pair.alice.write(pair.configuration(pair.alice))
    running = Systemd(pair.alice, tmp_path)
    yield running
    running.close()


def test_a_service_is_a_tunnel_from_its_start_to_its_stop(pair: Pair, systemd: Systemd) -> None:
    alice = pair.alice

    started = systemd.control("start", UNIT)

    assert started.returncode == 0, systemd.said.read_text()
    assert alice.host.ping("10.9.0.2", count=1) == (1, 1)
    assert systemd.property(UNIT, "ActiveState") == "active"
    assert systemd.property(UNIT, "StatusText") == "up"
    process = int(systemd.property(UNIT, "MainPID"))
    status = Path(f"/proc/{process}/status").read_text()
    assert "CapEff:\t0000000000001000\n" in status
    assert "CapBnd:\t0000000000001000\n" in status
    assert "Seccomp:\t2\n" in status

    alice.write(pair.configuration(alice).replace('"10.9.0.2/32"', '"10.9.0.0/16"'))
    assert systemd.control("reload", UNIT).returncode == 0
    assert "10.9.0.0/16" in alice.routes()

    alice.write("nonsense")
    assert systemd.control("reload", UNIT).returncode == 1
    assert systemd.property(UNIT, "ActiveState") == "active"
    alice.write(pair.configuration(alice))

    assert systemd.control("restart", "nvpn.target").returncode == 0
    wait_until(lambda: systemd.property(UNIT, "MainPID") not in ("0", str(process)), 10, "another")
    wait_until(lambda: systemd.property(UNIT, "ActiveState") == "active", 10, "it is up again")

    os.kill(int(systemd.property(UNIT, "MainPID")), signal.SIGKILL)
    wait_until(lambda: systemd.property(UNIT, "NRestarts") == "1", 10, "it was restarted")
    wait_until(lambda: systemd.property(UNIT, "ActiveState") == "active", 10, "it is up once more")
    assert alice.host.ping("10.9.0.2", count=1) == (1, 1)

    assert systemd.control("stop", UNIT).returncode == 0
    assert systemd.property(UNIT, "Result") == "success"
    assert alice.is_clean()
    assert (alice.run_directory).exists()


def test_a_start_that_fails_says_why_once(pair: Pair, systemd: Systemd) -> None:
    pair.alice.write(pair.configuration(pair.alice).replace("listen_port", "listen_prot"))

    started = systemd.control("start", UNIT)

    assert started.returncode == 1
    systemd.control("stop", UNIT)
    said = systemd.said.read_text().splitlines()
    line = '/etc/nvpn/wg0.toml:5: interface.listen_prot: is unknown; did you mean "listen_port"?'
    assert said == [f"error: {line}"] * (int(systemd.property(UNIT, "NRestarts")) + 1)
