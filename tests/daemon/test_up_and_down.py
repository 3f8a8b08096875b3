"""A tunnel's life as a user sees it: up, down, what is refused, what is left behind."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.daemon.conftest import CONFIG, PEER, Pair
from tests.support.machines import Machine
from tests.support.world import wait_until

pytestmark = pytest.mark.root


def test_up_makes_everything_and_down_removes_everything(machine: Machine) -> None:
    machine.write(CONFIG)

    up = machine.nvpn("up", "wg0.toml")

    assert up.stdout == ""
    assert up.stderr == ""
    assert machine.addresses() == {"10.9.0.1/24", "fd09::1/64"}
    assert machine.routes() == {"10.9.0.0/24", "10.20.0.0/16", "fd09::/64", "fd20::/48"}
    (link,) = machine.ip("-d", "link", "show", "wg0")
    assert "UP" in link["flags"]
    assert link["txqlen"] == 1000
    assert machine.record()[1][0] == PEER

    down = machine.nvpn("down", "wg0")

    assert down.stdout == ""
    assert down.stderr == ""
    assert machine.is_clean()


def test_packets_go_through_as_soon_as_up_returns(pair: Pair) -> None:
    for machine in (pair.alice, pair.bob):
        machine.write(pair.configuration(machine))
        machine.nvpn("up", "wg0.toml")

    assert pair.alice.host.ping("10.9.0.2", count=3) == (3, 3)
    assert pair.bob.host.ping("10.9.0.1", count=3) == (3, 3)


def test_the_mtu_is_given_or_derived_from_the_path_to_the_endpoint(pair: Pair) -> None:
    alice = pair.alice
    device = next(link["ifname"] for link in alice.ip("link") if link["ifname"].startswith("v1"))
    alice.host.run("ip", "link", "set", device, "mtu", "1400")
    alice.write(pair.configuration(alice))
    alice.nvpn("up", "wg0.toml")
    assert alice.ip("link", "show", "wg0")[0]["mtu"] == 1320
    assert alice.ip("-d", "link", "show", "wg0")[0]["gso_max_segs"] == 65507 // 1352
    alice.nvpn("down", "wg0.toml")

    alice.write(pair.configuration(alice).replace("[[peer]]", "mtu = 1280\n[[peer]]"))
    alice.nvpn("up", "wg0.toml")
    assert alice.ip("link", "show", "wg0")[0]["mtu"] == 1280


def test_a_thousand_routes_do_not_hold_up_the_start(machine: Machine) -> None:
    prefixes = ", ".join(f'"10.{100 + n // 250}.{n % 250}.0/24"' for n in range(1000))
    machine.write(CONFIG.replace('"10.20.0.0/16"', prefixes))

    machine.nvpn("up", "wg0.toml")

    assert len(machine.routes()) == 1000 + 3


def test_mistakes_are_told_all_at_once_and_nothing_is_made(machine: Machine) -> None:
    machine.write(CONFIG.replace("10.9.0.1/24", "10.9.0/24").replace(":5", ":99999"))

    up = machine.nvpn("up", "wg0.toml", status=1)

    assert up.stderr.count("error: ") == 2
    assert machine.is_clean()


def test_a_second_daemon_of_the_name_is_refused(machine: Machine) -> None:
    machine.write(CONFIG)
    machine.nvpn("up", "wg0.toml")
    process = machine.pid()

    again = machine.nvpn("up", "wg0.toml", status=1)
    bare = machine.nvpn("wg0", status=1)

    expected = "error: cannot start wg0; it is running already; see: nvpn show wg0\n"
    assert again.stderr == bare.stderr == expected
    assert machine.pid() == process


def test_an_interface_of_somebody_else_is_left_alone(machine: Machine) -> None:
    machine.write(CONFIG)
    machine.host.run("ip", "link", "add", "wg0", "type", "veth", "peer", "name", "wg1")

    up = machine.nvpn("up", "wg0.toml", status=1)
    down = machine.nvpn("down", "wg0", status=1)

    assert "cannot create interface wg0: File exists" in up.stderr
    assert down.stderr == (
        "error: cannot take wg0 down; the interface is not nvpn's; try: wg-quick down wg0\n"
    )
    assert machine.has_link()
    assert not (machine.run_directory / "wg0.sock").exists()


def test_a_route_that_somebody_has_rolls_the_whole_start_back(machine: Machine) -> None:
    machine.write(CONFIG)
    machine.host.run("ip", "route", "add", "10.20.0.0/16", "dev", "lo")

    up = machine.nvpn("up", "wg0.toml", status=1)

    assert up.stderr == (
        "error: cannot add route 10.20.0.0/16 to wg0: File exists;"
        " another interface has it; see: ip route show 10.20.0.0/16\n"
    )
    assert machine.is_clean()
    assert [route["dev"] for route in machine.ip("route")] == ["lo"]


def test_a_taken_port_rolls_the_whole_start_back(machine: Machine) -> None:
    machine.write(CONFIG.replace("[[peer]]", "listen_port = 7777\n[[peer]]"))
    taken = machine.host.start(
        "python3", "-c",
        "import socket,time; s=socket.socket(2,2); s.bind(('',7777)); time.sleep(60)",
    )  # fmt: skip
    wait_until(
        lambda: "7777" in machine.host.run("ss", "-Hlun"), 30, "the other program has the port"
    )

    up = machine.nvpn("up", "wg0.toml", status=1)

    assert "cannot bind UDP port 7777: Address already in use" in up.stderr
    assert machine.is_clean()
    taken.kill()


def test_up_returns_only_when_a_name_had_its_chance_and_fails_nothing(machine: Machine) -> None:
    machine.write(CONFIG.replace("127.0.0.1:5", "nowhere.invalid:5"))

    up = machine.nvpn("up", "wg0.toml")

    assert up.stderr.startswith("warning: bob: nowhere.invalid does not resolve yet (")
    assert up.stderr.endswith("; trying on in the background\n")
    assert machine.record()[1][2] == "(none)"
    (interface,) = json.loads(machine.nvpn("show", "--json", "wg0").stdout)["interfaces"]
    (breaker,) = interface["breakers"]
    assert breaker.keys() == {"name", "state", "failures", "retry_in_seconds"}
    assert breaker["name"] == "dns nowhere.invalid"


def test_without_the_capability_one_sentence_says_what_is_missing(machine: Machine) -> None:
    path = machine.write(CONFIG)
    command = machine.host.argv(
        "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin",
        *machine.argv("up", str(path))[4:],
    )  # fmt: skip

    done = subprocess.run(
        command, env=machine.environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "CAP_NET_ADMIN" in done.stderr
    assert machine.is_clean()


def test_the_capability_alone_is_enough_without_being_root(machine: Machine) -> None:
    machine.directory.chmod(0o755)
    for parent in machine.directory.parents:
        if parent == parent.parent or str(parent) == "/tmp":
            break
        parent.chmod(0o755)
    path = machine.write(CONFIG)
    for owned in (machine.directory, machine.etc, path):
        os.chown(owned, 65534, 65534)
    # The interpreter and nvpn itself may lie where only root can read.
    readers = "+dac_read_search"
    process = subprocess.Popen(
        machine.host.argv(
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            f"--inh-caps=+net_admin,{readers}", f"--ambient-caps=+net_admin,{readers}",
            *machine.argv("up", "-f", str(path))[4:],
        ),
        env=machine.environment,
    )  # fmt: skip
    try:
        machine.wait_until_serving()
        wait_until(lambda: "10.20.0.0/16" in machine.routes(), 30, "routes")
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert machine.is_clean()


def test_down_of_what_does_not_run_is_an_error(machine: Machine) -> None:
    down = machine.nvpn("down", "wg0", status=1)

    assert down.stderr == ("error: cannot take wg0 down; it is not running; see: nvpn show\n")


def test_a_link_set_down_and_up_has_its_routes_again(pair: Pair) -> None:
    text = pair.configuration(pair.alice).replace("/32", '/32", "10.30.0.0/16')
    pair.alice.write(text)
    pair.bob.write(pair.configuration(pair.bob))
    for machine in (pair.alice, pair.bob):
        machine.nvpn("up", "wg0.toml")
    before = pair.alice.routes()
    assert "10.30.0.0/16" in before

    pair.alice.host.run("ip", "link", "set", "wg0", "down")
    wait_until(lambda: "51820" not in pair.alice.host.run("ss", "-Hlun"), 30, "sockets close")
    pair.alice.host.run("ip", "link", "set", "wg0", "up")

    wait_until(lambda: pair.alice.routes() == before, 30, "the routes are back")
    assert pair.alice.host.ping("10.9.0.2", count=2) == (2, 2)


def test_no_descriptor_of_the_shell_stays_open_in_the_daemon(machine: Machine) -> None:
    machine.write(CONFIG)
    reading, writing = os.pipe()
    done = subprocess.run(
        machine.argv("up", "wg0.toml"),
        env=machine.environment,
        cwd=machine.etc,
        pass_fds=(reading, writing),
        check=False,
    )
    assert done.returncode == 0
    os.close(writing)

    os.set_blocking(reading, False)
    assert os.read(reading, 1) == b"", "somebody still holds the other end"
    targets = {
        int(entry.name): os.readlink(entry)
        for entry in Path(f"/proc/{machine.pid()}/fd").iterdir()
    }
    assert targets[0] == targets[1] == targets[2] == "/dev/null"


def test_no_secret_is_in_arguments_environment_or_logs(pair: Pair) -> None:
    alice = pair.alice
    secret = alice.key.reveal_base64()
    alice.write(pair.configuration(alice))
    process = alice.start("up", "-f", "--log-level", "debug", "wg0.toml")
    output = alice.wait_until_ready(process)
    daemon = alice.pid()

    for name in ("cmdline", "environ"):
        with open(f"/proc/{daemon}/{name}", encoding="utf-8") as stream:
            assert secret not in stream.read()
    process.terminate()
    assert process.stdout is not None
    output += process.stdout.read()
    assert process.wait(30) == 0
    assert secret not in output
    assert alice.key.reveal_hex() not in output


def test_without_ipv6_one_warning_says_what_is_left_out_and_ipv4_works(pair: Pair) -> None:
    alice = pair.alice
    alice.host.run("sysctl", "-wq", "net.ipv6.conf.all.disable_ipv6=1")
    alice.host.run("sysctl", "-wq", "net.ipv6.conf.default.disable_ipv6=1")
    text = pair.configuration(alice)
    text = text.replace('"10.9.0.1/24"', '["10.9.0.1/24", "fd09::1/64"]')
    alice.write(text.replace('"10.9.0.2/32"', '"10.9.0.2/32", "0.0.0.0/0", "::/0", "fd20::/48"'))
    pair.bob.write(pair.configuration(pair.bob))
    pair.bob.nvpn("up", "wg0.toml")

    up = alice.nvpn("up", "wg0.toml")

    assert up.stderr == (
        "warning: IPv6 is switched off here: fd09::1/64 and 2 routes are left out\n"
    )
    assert alice.host.ping("10.9.0.2", count=2) == (2, 2)
    assert alice.record()[1][3].endswith("::/0,fd20::/48")  # peers may send it all the same
    alice.nvpn("down", "wg0")

    alice.write(text.replace('"10.9.0.1/24", ', ""))
    assert alice.nvpn("up", "wg0.toml", status=1).stderr == (
        "error: cannot give address fd09::1/64 to wg0: Address family not supported by protocol;"
        " IPv6 is switched off here: see sysctl net.ipv6.conf.all.disable_ipv6\n"
    )
    assert alice.is_clean()
