"""However it ends, asked, killed or broken: nothing is left behind, and it is told."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import CONFIG, Pair
from tests.support.machines import Machine
from tests.support.world import wait_until

pytestmark = pytest.mark.root


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_a_second_with_status_0(machine: Machine, number: int) -> None:
    machine.write(CONFIG)
    process = machine.start("up", "-f", "wg0.toml")
    machine.wait_until_ready(process)

    began = time.monotonic()
    process.send_signal(number)

    assert process.wait(30) == 0
    assert time.monotonic() - began < 3  # a second, and a loaded machine's share
    assert machine.is_clean()


def test_sigterm_at_any_moment_of_the_start_leaves_nothing(machine: Machine) -> None:
    everything = """
kill_switch = true
pre_up = "sleep 0.03"
post_up = ["true", "sleep 0.03; echo x"]
post_down = "true"
"""
    machine.write(
        CONFIG.replace("[[peer]]", f"{everything}[[peer]]").replace(
            '"10.20.0.0/16"', '"0.0.0.0/0"'
        )
    )
    before = machine.outside()
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    rounds = int(os.environ.get("NVPN_TEST_SIGNALS", "12"))
    for attempt in range(rounds):
        process = machine.start("up", "-f", "wg0.toml")
        time.sleep(chance.uniform(0.05, 0.9))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        # Before the first line of ours runs, Python dies of the signal itself.
        is_ours = "wg0:" in output
        what = f"seed {seed}, attempt {attempt}: {output}"
        assert process.returncode == 0 or not is_ours, what
        assert "Traceback" not in output, what
        assert machine.is_clean(), what
        assert machine.outside() == before, what


def test_kill_9_leaves_nothing_that_the_next_up_cannot_clean(machine: Machine) -> None:
    machine.write(CONFIG)
    for _ in range(3):
        machine.nvpn("up", "wg0.toml")
        machine.kill()
        assert (machine.run_directory / "wg0.sock").exists()
        assert "10.20.0.0/16" not in machine.host.run("ip", "route")
    machine.nvpn("up", "wg0.toml")
    machine.nvpn("down", "wg0.toml")
    assert machine.is_clean()


def test_down_clears_away_what_a_killed_daemon_left(machine: Machine) -> None:
    machine.write(CONFIG)
    machine.nvpn("up", "wg0.toml")
    machine.kill()

    down = machine.nvpn("down", "wg0")

    assert down.stderr == (
        "warning: wg0 was not running; the socket of a killed daemon is removed\n"
    )
    assert machine.is_clean()


def test_down_kills_a_daemon_that_hangs(machine: Machine) -> None:
    machine.write(CONFIG)
    machine.nvpn("up", "wg0.toml")
    os.kill(machine.pid(), signal.SIGSTOP)

    down = machine.nvpn("down", "wg0")

    assert down.stderr == "warning: wg0 did not stop within 5 seconds and is killed\n"
    wait_until(machine.is_clean, 30, "nothing is left")


def test_down_does_not_touch_another_program_behind_the_socket(machine: Machine) -> None:
    machine.run_directory.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(machine.run_directory / "wg0.sock"))
        listening.listen()
        process = subprocess.Popen(
            machine.argv("down", "wg0"), env=machine.environment, stderr=subprocess.PIPE, text=True
        )
        listening.settimeout(30)
        while process.poll() is None:
            try:
                listening.settimeout(0.2)
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            with connection:
                if connection.recv(100):
                    connection.sendall(b"listen_port=7\nerrno=0\n\n")
    assert process.returncode == 1
    assert process.stderr is not None
    assert "another program runs it" in process.stderr.read()


def test_the_interface_deleted_under_it_ends_it_cleanly(machine: Machine) -> None:
    machine.write(CONFIG)
    process = machine.start("up", "-f", "wg0.toml")
    machine.wait_until_ready(process)

    machine.host.run("ip", "link", "delete", "wg0")

    assert process.wait(30) == 0
    assert machine.is_clean()


def test_the_socket_deleted_ends_it_cleanly(machine: Machine) -> None:
    machine.write(CONFIG)
    process = machine.start("up", "-f", "wg0.toml")
    machine.wait_until_ready(process)

    (machine.run_directory / "wg0.sock").unlink()

    assert process.wait(30) == 0
    assert machine.is_clean()


@pytest.fixture
def waiting(pair: Pair) -> Iterator[Machine]:
    """A machine whose name server does not answer, so that a start takes its three seconds."""
    machine = pair.alice
    directory = Path("/etc/netns") / machine.host.netns
    directory.mkdir(parents=True)
    (directory / "resolv.conf").write_text("nameserver 10.77.1.77\n")
    try:
        machine.write(CONFIG.replace("127.0.0.1:5", "silent.example:5"))
        yield machine
    finally:
        shutil.rmtree(directory)


def test_ctrl_c_while_it_starts_stops_the_daemon_too(waiting: Machine) -> None:
    process = waiting.start("up", "wg0.toml")
    wait_until(waiting.has_link, 30, "the daemon works")

    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 130
    assert waiting.is_clean()


def test_a_resolver_that_hangs_does_not_keep_it_from_ending(waiting: Machine) -> None:
    process = waiting.start("up", "-f", "wg0.toml")
    wait_until(waiting.has_link, 30, "it waits for the name")

    began = time.monotonic()
    process.terminate()

    assert process.wait(30) == 0
    assert time.monotonic() - began < 3
    assert waiting.is_clean()


def test_a_resolver_that_hangs_costs_three_seconds_and_a_warning(waiting: Machine) -> None:
    up = waiting.nvpn("up", "wg0.toml")

    assert up.stderr == (
        "warning: bob: silent.example does not resolve yet (no answer yet);"
        " trying on in the background\n"
    )


def test_a_bug_inside_ends_it_loudly_and_leaves_nothing(machine: Machine) -> None:
    """Half a VPN is worse than none. The bug is put in where packets turn into decisions."""
    machine.write(CONFIG)
    with_bug = (
        "import sys\n"
        "from nvpn.protocol.device import Device\n"
        "def bug(self, event, now): raise RuntimeError('planted')\n"
        "Device.handle_event = bug\n"
        "from nvpn.cli.main import main\n"
        "sys.exit(main(['up', '-f', 'wg0.toml']))\n"
    )
    process = subprocess.Popen(
        [*machine.argv()[:5], "-c", with_bug],
        env=machine.environment,
        cwd=machine.etc,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: "10.20.0.0/16" in machine.host.run("ip", "route"), 30, "it is up")

    machine.host.run("ping", "-c", "1", "-W", "1", "10.9.0.2", check=False)

    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "critical: internal error" in errors
    assert "RuntimeError: planted" in errors
    assert machine.is_clean()
