"""The bare device, as wireguard-go makes it, and what people then do to it by `ip link`."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from tests.daemon.conftest import Pair
from tests.support.machines import Machine
from tests.support.wg_quick import WgQuick
from tests.support.world import Host, wait_until

pytestmark = pytest.mark.root


def set_over_socket(machine: Machine, *lines: str) -> None:
    script = f"from nvpn.control.client import request; request('wg0', 'set', {list(lines)!r})"
    subprocess.run([machine.argv()[4], "-c", script], env=machine.environment, check=True)


def has_port(machine: Machine, port: int) -> bool:
    return f":{port} " in machine.host.run("ss", "-Hlun")


def test_it_returns_when_device_and_socket_are_there(machine: Machine) -> None:
    done = machine.nvpn("wg0")

    assert (done.stdout, done.stderr) == ("", "")
    (link,) = machine.ip("link", "show", "wg0")
    assert link["mtu"] == 1420
    assert "UP" not in link["flags"]
    assert machine.addresses() == set()
    assert machine.record() == [["(none)", "(none)", "0", "off"]]
    machine.nvpn("down", "wg0")
    assert machine.is_clean()


def test_sockets_follow_the_link_and_the_port_is_set_before(machine: Machine) -> None:
    machine.nvpn("wg0")
    set_over_socket(machine, f"private_key={machine.key.reveal_hex()}", "listen_port=7777")
    assert machine.record()[0][2] == "7777"
    assert not has_port(machine, 7777)

    machine.host.run("ip", "link", "set", "wg0", "up")
    wait_until(lambda: has_port(machine, 7777), 30, "the port is bound")

    machine.host.run("ip", "link", "set", "wg0", "down")
    wait_until(lambda: not has_port(machine, 7777), 30, "the port is free")
    machine.host.run("ip", "link", "set", "wg0", "up")
    wait_until(lambda: has_port(machine, 7777), 30, "the port is bound again")


def test_a_flapping_link_ends_where_it_ends(machine: Machine) -> None:
    machine.nvpn("wg0")
    set_over_socket(machine, "listen_port=7777")
    for _ in range(20):
        machine.host.run("ip", "link", "set", "wg0", "up")
        machine.host.run("ip", "link", "set", "wg0", "down")
    machine.host.run("ip", "link", "set", "wg0", "up")

    wait_until(lambda: has_port(machine, 7777), 30, "the port is bound")


def test_a_port_that_is_taken_when_the_link_comes_up_is_tried_again_later(
    machine: Machine,
) -> None:
    taken = machine.host.start(
        "python3", "-c",
        "import socket,time; s=socket.socket(2,2); s.bind(('',7777)); time.sleep(60)",
    )  # fmt: skip
    wait_until(lambda: has_port(machine, 7777), 30, "the other program has the port")
    machine.nvpn("wg0")
    set_over_socket(machine, "listen_port=7777")

    machine.host.run("ip", "link", "set", "wg0", "up")
    machine.host.run("ip", "link", "set", "wg0", "down")
    taken.kill()
    taken.wait()
    machine.host.run("ip", "link", "set", "wg0", "up")

    wait_until(lambda: has_port(machine, 7777), 30, "the port is bound")


def test_the_mtu_is_followed(machine: Machine) -> None:
    machine.nvpn("wg0")

    machine.host.run("ip", "link", "set", "wg0", "mtu", "1300")

    def segments() -> int:
        (link,) = machine.ip("-d", "link", "show", "wg0")
        found: int = link["gso_max_segs"]
        return found

    wait_until(lambda: segments() == 65507 // 1332, 30, "batches follow the MTU")


def test_a_rename_is_survived(machine: Machine) -> None:
    machine.nvpn("wg0")
    set_over_socket(machine, "listen_port=7777")

    machine.host.run("ip", "link", "set", "wg0", "name", "renamed")
    machine.host.run("ip", "link", "set", "renamed", "up")

    wait_until(lambda: has_port(machine, 7777), 30, "the port is bound")
    machine.nvpn("down", "wg0")
    assert machine.is_clean("renamed")


def test_in_another_namespace_it_serves_with_the_sockets_of_its_own(machine: Machine) -> None:
    """How containers get a tunnel as their only way out."""
    inner = Machine(machine.world, "inner")
    process = machine.start("-f", "wg0")
    machine.wait_until_serving()
    set_over_socket(machine, "listen_port=7777")

    machine.host.run("ip", "link", "set", "wg0", "netns", inner.host.netns)
    inner.host.run("ip", "link", "set", "wg0", "up")

    wait_until(lambda: has_port(machine, 7777), 30, "the port is bound, here")
    assert not has_port(inner, 7777)
    inner.host.run("ip", "link", "set", "wg0", "down")
    wait_until(lambda: not has_port(machine, 7777), 30, "the port is free")

    # Nothing of ours keeps the namespace alive.
    subprocess.run(["ip", "netns", "delete", inner.host.netns], check=True)
    assert process.wait(30) == 0
    assert machine.is_clean()


def test_traffic_goes_on_when_the_device_moves_to_another_namespace(pair: Pair) -> None:
    alice, bob = pair.alice, pair.bob
    bob.write(pair.configuration(bob, endpoint=False))
    bob.nvpn("up", "wg0.toml")
    private = alice.write("PRIVATE\n", "private")
    alice.nvpn("wg0")
    alice.nvpn(
        *("set", "wg0", "private-key", str(private), "peer", bob.public_key),
        *("endpoint", "10.77.1.2:51820", "allowed-ips", "10.9.0.2/32"),
    )

    def bring_up(host: Host) -> None:
        host.run("ip", "address", "add", "10.9.0.1/24", "dev", "wg0")
        host.run("ip", "link", "set", "wg0", "up")

    bring_up(alice.host)
    assert alice.host.ping("10.9.0.2", count=2) == (2, 2)
    inner = Machine(alice.world, "inner")
    alice.host.run("ip", "link", "set", "wg0", "netns", inner.host.netns)
    bring_up(inner.host)

    # It has no other way out: what arrives went through the sockets where it was born.
    # A link that is out of sight is looked at once a second.
    wait_until(lambda: inner.host.ping("10.9.0.2", count=1, wait=0.5) == (1, 1), 30, "an answer")
    assert inner.host.ping("10.9.0.2", count=3) == (3, 3)
    # `wg` finds the interface where its socket is, from anywhere.
    assert alice.record()[1][0] == bob.public_key


def test_a_second_one_is_refused_and_a_dead_one_s_socket_is_not_in_the_way(
    machine: Machine,
) -> None:
    machine.nvpn("wg0")
    assert "wg0: it is running already" in machine.nvpn("wg0", status=1).stderr.replace(";", ":")
    machine.kill()
    assert (machine.run_directory / "wg0.sock").exists()

    process = machine.start("-f", "wg0")
    wait_until(lambda: machine.nvpn("show", "wg0", status=None).returncode == 0, 30, "it answers")
    machine.host.run("ip", "link", "delete", "wg0")

    assert process.wait(30) == 0
    assert machine.is_clean()


def test_in_the_background_it_logs_where_wireguard_go_does_if_it_is_told_a_level(
    machine: Machine,
) -> None:
    def words(level: str | None) -> str:
        log = machine.directory / f"log-{level}"
        environment = {**machine.environment, **({} if level is None else {"LOG_LEVEL": level})}
        with log.open("w") as output:
            argv = machine.argv("wg0")
            subprocess.run(argv, env=environment, stdout=output, stderr=output, check=True)
        machine.nvpn("down", "wg0")
        return log.read_text()

    said = words("verbose")
    assert "wg0: info: ready" in said
    assert "wg0: info: stopping" in said
    assert words("silent") == ""
    assert words(None) == ""


def test_wireguard_go_s_environment_chooses_the_log_level(machine: Machine) -> None:
    def output(level: str) -> str:
        machine.environment["LOG_LEVEL"] = level
        process = machine.start("-f", "wg0")
        machine.wait_until_serving()
        process.terminate()
        return process.communicate(timeout=30)[0]

    assert "ready" in output("verbose")
    assert output("error") == ""
    assert output("silent") == ""


def test_a_name_that_cannot_be_one_is_refused(machine: Machine) -> None:
    done = machine.nvpn("device", "a-name-that-is-too-long", status=1)

    assert "an interface name has 1 to 15" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal(machine: Machine, number: int) -> None:
    machine.nvpn("wg0")

    os.kill(machine.pid(), number)

    assert machine.wait_until_clean() < 3


def test_it_ends_when_it_is_asked_to_and_says_that_it_will(machine: Machine) -> None:
    process = machine.start("-f", "wg0")
    machine.wait_until_serving()
    script = "from nvpn.control.client import request; print(request('wg0', 'nvpn_stop'))"

    done = subprocess.run(
        [machine.argv()[4], "-c", script],
        env=machine.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout == "[]\n"
    assert process.wait(30) == 0
    assert machine.is_clean()


def test_what_was_not_started_from_a_file_cannot_be_saved_into_one(machine: Machine) -> None:
    machine.nvpn("wg0")
    script = "from nvpn.control.client import request; request('wg0', 'nvpn_save')"

    done = subprocess.run(
        [machine.argv()[4], "-c", script],
        env=machine.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "wg0 was not started from a file; print its settings with: nvpn showconf wg0" in (
        done.stderr
    )


def test_its_timestamps_survive_it(machine: Machine) -> None:
    """Also of a key that `wg` sets: the file holds when it last spoke, not to whom."""
    machine.nvpn("wg0")
    peer = PrivateKey(bytes(range(32))).public().hex
    set_over_socket(
        machine, f"private_key={machine.key.reveal_hex()}", f"public_key={peer}",
        "endpoint=127.0.0.1:9", "persistent_keepalive_interval=1", "allowed_ip=10.9.0.2/32",
    )  # fmt: skip
    machine.host.run("ip", "link", "set", "wg0", "up")
    state = machine.state_directory / "wg0.json"
    wait_until(state.exists, 30, "a timestamp is reserved")

    text = state.read_text()

    assert '"timestamp": "4000' in text
    assert '"peers": {}' in text
    assert state.stat().st_mode & 0o777 == 0o600


@pytest.mark.interop
def test_wg_quick_brings_it_up_and_takes_it_down(machine: Machine) -> None:
    wg_quick = WgQuick(machine.host, machine.directory)
    name = f"m7{os.getpid() % 100_000}"
    peer = PrivateKey(bytes(range(32))).public().base64
    path = machine.write(
        f"[Interface]\nPrivateKey = PRIVATE\nAddress = 10.9.0.1/24\nListenPort = 7878\n"
        f"[Peer]\nPublicKey = {peer}\nAllowedIPs = 10.9.0.2/32, 10.20.0.0/16\n",
        f"{name}.conf",
    )
    wg_quick("up", path)
    try:
        assert machine.addresses(name) == {"10.9.0.1/24"}
        assert "10.20.0.0/16" in machine.routes(name)
        assert has_port(machine, 7878)
        assert peer in machine.host.run("wg", "show", name)
    finally:
        wg_quick("down", path)
    socket = Path(f"/var/run/wireguard/{name}.sock")
    wait_until(lambda: not socket.exists(), 30, "the daemon ended with its interface")


def test_it_lives_on_when_the_hosts_addresses_change(machine: Machine) -> None:
    device = machine.start("-f", "--log-level", "info", "wg0")
    assert device.stdout is not None
    assert "ready" in device.stdout.readline()

    machine.host.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")

    assert "addresses changed" in device.stdout.readline()
    assert machine.record() == [["(none)", "(none)", "0", "off"]]
