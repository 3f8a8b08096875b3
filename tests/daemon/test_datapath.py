"""The datapath as people choose it: at the start, by file or environment, and at a reload."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from nvpn.datapath.choice import find_missing
from tests.daemon.conftest import Pair
from tests.support.machines import Machine

pytestmark = pytest.mark.root

MISSING = find_missing()
PLAIN = '[interface]\nprivate_key = "PRIVATE"\naddress = "10.9.0.1/24"\n'


def shown(machine: Machine) -> dict[str, Any]:
    (tunnel,) = json.loads(machine.nvpn("show", "wg0", "--json").stdout)["interfaces"]
    found: dict[str, Any] = tunnel
    return found


def runs(machine: Machine) -> tuple[str, str | None]:
    """The name of the running datapath, and why it is that one."""
    tunnel = shown(machine)
    return str(tunnel["datapath"]).partition(" (")[0], tunnel["datapath_reason"]


def described(machine: Machine) -> str:
    """The running datapath with all that it uses."""
    return str(shown(machine)["datapath"])


def test_the_faster_one_that_is_there_runs_and_says_so(machine: Machine) -> None:
    machine.environment.pop("NVPN_DATAPATH", None)
    machine.write(PLAIN)
    machine.nvpn("up", "wg0.toml")
    name, why = runs(machine)
    if MISSING is None:
        assert (name, why) == ("native", None)
    else:
        assert (name, why) == ("python", str(MISSING))
        table = machine.nvpn("show", "wg0", "-v").stdout
        assert f"why python  {MISSING.what}" in table


def test_the_log_names_it_when_the_tunnel_is_ready(machine: Machine) -> None:
    machine.environment["NVPN_DATAPATH"] = "python"
    machine.write(PLAIN)
    daemon = machine.start("up", "-f", "wg0.toml")
    assert daemon.stdout is not None
    ready = next(line for line in daemon.stdout if "ready: " in line)
    assert re.search(r"ready: python \(.*\): NVPN_DATAPATH asks for it\n", ready)


@pytest.mark.parametrize("by_file", [True, False])
def test_python_runs_when_it_is_asked_for(machine: Machine, by_file: bool) -> None:
    machine.environment["NVPN_DATAPATH"] = "auto" if by_file else "python"
    machine.write(PLAIN + ("datapath = 'python'\n" if by_file else ""))
    machine.nvpn("up", "wg0.toml")
    who = "the configuration" if by_file else "NVPN_DATAPATH"
    assert runs(machine) == ("python", f"{who} asks for it")


def test_a_contradiction_starts_nothing(machine: Machine) -> None:
    machine.environment["NVPN_DATAPATH"] = "python"
    path = machine.write(PLAIN + "datapath = 'native'\n")
    done = machine.nvpn("up", "wg0.toml", status=1)
    assert done.stderr == (
        f'error: NVPN_DATAPATH: asks for "python", {path} for "native"; remove one of the two\n'
    )
    assert machine.is_clean()


@pytest.mark.skipif(MISSING is None, reason="the native datapath is there")
def test_the_native_one_is_not_replaced_when_it_is_missing(machine: Machine) -> None:
    assert MISSING is not None
    machine.environment.pop("NVPN_DATAPATH", None)
    path = machine.write(PLAIN + "datapath = 'native'\n")
    done = machine.nvpn("up", "wg0.toml", status=1)
    assert done.stderr == (
        f'error: {path}: interface.datapath: asks for "native", but {MISSING}\n'
    )
    assert machine.is_clean()


@pytest.mark.skipif(MISSING is not None, reason="the native datapath is not there")
def test_workers_and_queues_are_as_many_as_the_file_asks_for(machine: Machine) -> None:
    machine.environment["NVPN_DATAPATH"] = "native"
    machine.write(PLAIN + "workers = 3\nqueues = 2\n")
    assert machine.nvpn("up", "wg0.toml").stderr == ""
    table = machine.nvpn("show", "wg0", "-v").stdout.replace("│", "")
    assert "; 3 workers, 2 queues)" in " ".join(table.split())
    assert "; 3 workers, 2 queues)" in described(machine)
    queues = machine.host.run("ls", "/sys/class/net/wg0/queues").split()
    assert sum(queue.startswith("rx-") for queue in queues) == 2
    machine.nvpn("down", "wg0")
    assert machine.is_clean()


def test_python_serves_all_queues_and_says_that_it_has_one_thread(machine: Machine) -> None:
    machine.environment["NVPN_DATAPATH"] = "python"
    path = machine.write(PLAIN + "workers = 2\nqueues = 2\n")
    assert machine.nvpn("up", "wg0.toml").stderr == (
        f"warning: {path}: interface.workers: 2 workers need the native datapath;"
        " the Python one has one thread\n"
    )
    assert described(machine).endswith("; 2 queues)")


def test_a_reload_says_that_workers_and_queues_are_for_the_next_start(machine: Machine) -> None:
    machine.write(PLAIN)
    machine.nvpn("up", "wg0.toml")
    before = described(machine)
    path = machine.write(PLAIN + "workers = 2\nqueues = 2\n")
    next_start = "is for the next start: nvpn down wg0, then nvpn up wg0\n"
    assert machine.nvpn("reload", "wg0").stderr == (
        f"warning: {path}: interface.workers: 2 {next_start}"
        f"warning: {path}: interface.queues: 2 {next_start}"
    )
    assert described(machine) == before
    assert machine.nvpn("reload", "wg0").stderr == ""


def test_a_reload_says_that_a_datapath_is_for_the_next_start(pair: Pair) -> None:
    alice = pair.alice
    alice.environment.pop("NVPN_DATAPATH", None)
    text = pair.configuration(alice)
    alice.write(text)
    alice.nvpn("up", "wg0.toml")
    before = runs(alice)
    path = alice.write(text.replace("[interface]", "[interface]\ndatapath = 'python'"))
    assert alice.nvpn("reload", "wg0").stderr == (
        f'warning: {path}: interface.datapath: "python" is for the next start:'
        " nvpn down wg0, then nvpn up wg0\n"
    )
    assert runs(alice) == before
    assert alice.nvpn("reload", "wg0").stderr == ""
