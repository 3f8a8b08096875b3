"""What running tunnels tell: events, hooks, numbers, and where these are served after a reload."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.daemon.conftest import Pair
from tests.support.machines import Machine
from tests.support.world import wait_until

pytestmark = pytest.mark.root


class Told:
    """Lines of ``nvpn events`` on a machine on which no tunnel is up yet."""

    def __init__(self, machine: Machine) -> None:
        self._path = machine.directory / "events"
        ours, theirs = pty.openpty()
        with self._path.open("w") as output:
            self.process = subprocess.Popen(
                machine.argv("events"), env=machine.environment, stdout=output, stderr=theirs
            )
        os.close(theirs)
        machine.world.processes.append(self.process)  # type: ignore[arg-type]
        # To people it says that it has looked: what comes from now on is told.
        self._terminal = os.fdopen(ours, "rb", buffering=0)
        said = b""
        while b"waiting for one" not in said:
            said += self._terminal.read(4096)

    def all(self) -> list[dict[str, Any]]:
        whole, _, _unfinished = self._path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def wait_for(self, event: str) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [line for line in self.all() if line["event"] == event]

        wait_until(lambda: bool(found()), 30, f"{event} is told")
        return found()[-1]


def scrape(machine: Machine, port: int) -> dict[tuple[str, str], float]:
    """Values by the name of a sample, and one of its labels that tells it from others."""
    accept = "Accept: application/openmetrics-text"
    text = machine.host.run("curl", "-fsS", "-H", accept, f"http://127.0.0.1:{port}/metrics")
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: label for name, label in sample.labels.items() if name != "interface"}
            found[sample.name, labels.get("friendly_name") or next(iter(labels.values()), "")] = (
                sample.value
            )
    return found


def test_a_tunnel_tells_of_its_peers(pair: Pair) -> None:
    alice, bob = pair.alice, pair.bob
    story = alice.directory / "story"
    tell = f'"$NVPN_PEER_NAME $NVPN_ENDPOINT $NVPN_ADDRESSES" >> {story}'
    hooks = f"on_connect = 'echo up {tell}'\non_disconnect = 'echo down {tell}'\n"
    configuration = pair.configuration(alice, 'name = "bob"').replace(
        "listen_port", f"{hooks}listen_port"
    )
    metrics = '\n[metrics]\nlisten = "127.0.0.1:9586"\n'
    alice.write(configuration + metrics)
    bob.write(pair.configuration(bob))
    told = Told(alice)
    alice.nvpn("up", "wg0.toml")
    bob.nvpn("up", "wg0.toml")
    assert told.wait_for("up")["interface"] == "wg0"

    bob.host.run("ping", "-c", "1", "-W", "5", "10.9.0.1")
    connected = told.wait_for("connected")
    assert connected == {
        "time": connected["time"],
        "interface": "wg0",
        "event": "connected",
        "peer": bob.public_key,
        "name": "bob",
        "endpoint": "10.77.1.2:51820",
        "addresses": ["10.9.0.2/32"],
    }

    numbers = scrape(alice, 9586)
    assert numbers["wireguard_received_bytes_total", "bob"] > 100
    assert numbers["wireguard_latest_handshake_seconds", "bob"] > 1_700_000_000
    assert numbers["nvpn_connected_peers", ""] == 1
    assert numbers["nvpn_handshakes_total", "completed"] == 1
    (interface,) = json.loads(alice.nvpn("show", "--json").stdout)["interfaces"]
    assert interface["breakers"] == []

    other = '[interface]\nprivate_key = "PRIVATE"\n' + metrics
    alice.write(other, "wg1.toml")
    refused = alice.nvpn("up", "wg1.toml", status=1)
    assert "cannot serve metrics on 127.0.0.1:9586: Address already in use" in refused.stderr
    assert alice.is_clean("wg1")

    alice.write(configuration + metrics.replace("9586", "9587"))
    assert alice.nvpn("reload", "wg0").stderr == ""
    assert scrape(alice, 9587)["nvpn_peers", ""] == 1
    before = alice.host.argv("curl", "-s", "http://127.0.0.1:9586/metrics")
    assert subprocess.run(before, check=False).returncode == 7, "nobody listens there any more"

    alice.nvpn("down", "wg0")
    assert told.wait_for("disconnected")["why"] == "stopping"
    assert told.wait_for("down")["interface"] == "wg0"
    where = "bob 10.77.1.2:51820 10.9.0.2/32"
    assert story.read_text().splitlines() == [f"up {where}", f"down {where}"]
