"""A changed file under a running tunnel: what changed is applied, and nothing else."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nvpn.model.keys import PrivateKey
from tests.daemon.conftest import Pair
from tests.support.machines import Machine
from tests.support.world import wait_until

pytestmark = pytest.mark.root

THIRD = PrivateKey(bytes(range(32))).public().base64


def third(*allowed_ips: str, extra: str = "") -> str:
    listed = ", ".join(f'"{prefix}"' for prefix in allowed_ips)
    return f'\n[[peer]]\nname = "third"\npublic_key = "{THIRD}"\nallowed_ips = [{listed}]\n{extra}'


@pytest.fixture
def running(pair: Pair) -> Pair:
    """Both up, and in session."""
    for machine in (pair.alice, pair.bob):
        machine.write(pair.configuration(machine))
        machine.nvpn("up", "wg0.toml")
    assert pair.alice.host.ping("10.9.0.2", count=1) == (1, 1)
    return pair


def session(machine: Machine, other: Machine) -> tuple[str, ...]:
    """What a new session would change: the time of the handshake."""
    (line,) = [line for line in machine.record()[1:] if line[0] == other.public_key]
    return line[0], line[4]


def test_a_peer_is_added_and_removed_with_its_routes(running: Pair) -> None:
    alice, bob = running.alice, running.bob
    before = session(alice, bob)
    text = running.configuration(alice)

    more = 'persistent_keepalive = 9\nendpoints = ["127.0.0.1:9", "[::1]:9"]'
    alice.write(text + third("10.9.0.3/32", "10.33.0.0/16", extra=more))
    assert alice.nvpn("reload", "wg0").stderr == ""
    peers = {line[0]: line for line in alice.record()[1:]}
    assert peers[THIRD][3] == "10.9.0.3/32,10.33.0.0/16"
    assert peers[THIRD][7] == "9"
    assert alice.routes() == {"10.9.0.0/24", "10.33.0.0/16"}

    alice.write(text)
    assert alice.nvpn("reload", "wg0.toml").stderr == ""
    assert [line[0] for line in alice.record()[1:]] == [bob.public_key]
    assert alice.routes() == {"10.9.0.0/24"}
    assert session(alice, bob) == before


def test_addresses_mtu_port_and_mark_change_under_a_living_session(running: Pair) -> None:
    alice, bob = running.alice, running.bob
    before = session(alice, bob)
    changed = (
        running.configuration(alice)
        .replace(
            'address = "10.9.0.1/24"', 'address = ["10.9.0.1/24", "10.9.0.7/24", "fd09::1/64"]'
        )
        .replace("listen_port = 51820", "listen_port = 51999\nmtu = 1300\nfwmark = 7")
    )

    alice.write(changed)
    alice.nvpn("reload", "wg0")

    assert alice.addresses() == {"10.9.0.1/24", "10.9.0.7/24", "fd09::1/64"}
    assert alice.ip("link", "show", "wg0")[0]["mtu"] == 1300
    interface = alice.record()[0]
    assert interface[2:] == ["51999", "0x7"]
    assert alice.host.ping("10.9.0.2", count=2) == (2, 2)
    assert session(alice, bob) == before


def test_the_primary_address_may_go_while_a_secondary_one_stays(running: Pair) -> None:
    """Linux takes the secondary addresses along with their primary one."""
    alice = running.alice
    text = running.configuration(alice)
    two = text.replace('"10.9.0.1/24"', '["10.9.0.1/24", "10.9.0.7/24"]') + third("10.33.0.0/16")
    alice.write(two)
    alice.nvpn("reload", "wg0")

    alice.write(two.replace('"10.9.0.1/24", ', ""))
    alice.nvpn("reload", "wg0")

    assert alice.addresses() == {"10.9.0.7/24"}
    assert alice.routes() == {"10.9.0.0/24", "10.33.0.0/16"}


def test_the_last_address_may_go_and_the_routes_stay(running: Pair) -> None:
    """Linux takes an interface's IPv4 routes along with its last address."""
    alice = running.alice
    text = running.configuration(alice) + third("10.33.0.0/16", "fd33::/48")
    alice.write(text)
    alice.nvpn("reload", "wg0")

    alice.write(text.replace('address = "10.9.0.1/24"', ""))
    alice.nvpn("reload", "wg0")

    assert alice.addresses() == set()
    assert alice.routes() == {"10.9.0.2", "10.33.0.0/16", "fd33::/48"}


def test_a_file_with_mistakes_changes_nothing_and_tells_them_all(running: Pair) -> None:
    alice = running.alice
    before = alice.record()[0], alice.routes()
    alice.write(
        running.configuration(alice).replace("51820\n", "99999\n", 1) + third("10.33.0.0/99")
    )

    done = alice.nvpn("reload", "wg0", status=1)

    assert "listen_port" in done.stderr
    assert "allowed_ips" in done.stderr
    assert (alice.record()[0], alice.routes()) == before


def test_what_the_host_refuses_leaves_everything_as_it_was(running: Pair) -> None:
    alice, bob = running.alice, running.bob
    alice.host.run("ip", "route", "add", "10.44.0.0/16", "dev", "lo")
    before = alice.record(), alice.routes(), alice.addresses(), session(alice, bob)
    changed = running.configuration(alice).replace(
        '"10.9.0.1/24"', '["10.9.0.1/24", "10.8.0.1/24"]'
    )

    alice.write(changed + third("10.33.0.0/16", "10.44.0.0/16"))
    done = alice.nvpn("reload", "wg0", status=1)

    assert "cannot add route 10.44.0.0/16 to wg0: File exists" in done.stderr
    after = alice.record(), alice.routes(), alice.addresses(), session(alice, bob)
    assert after == before


def test_a_port_that_is_taken_leaves_everything_as_it_was(running: Pair) -> None:
    alice = running.alice
    taken = alice.host.start(
        "python3", "-c",
        "import socket,time; s=socket.socket(2,2); s.bind(('',7777)); time.sleep(60)",
    )  # fmt: skip
    wait_until(lambda: "7777" in alice.host.run("ss", "-Hlun"), 30, "the other program has it")
    before = alice.record()[0], alice.outside()

    more = "7777\nmtu = 1290\nkill_switch = true\n"
    text = running.configuration(alice).replace("51820\n", more, 1)
    alice.write(text + third("10.33.0.0/16", "0.0.0.0/0"))
    done = alice.nvpn("reload", "wg0", status=1)

    assert "cannot bind UDP port 7777: Address already in use" in done.stderr
    assert (alice.record()[0], alice.outside()) == before
    assert alice.ip("link", "show", "wg0")[0]["mtu"] == 1420
    assert alice.host.ping("10.9.0.2", count=2) == (2, 2)
    taken.kill()


def test_sighup_reloads_too(running: Pair) -> None:
    alice = running.alice
    alice.write(running.configuration(alice) + third("10.33.0.0/16"))

    os.kill(alice.pid(), signal.SIGHUP)

    wait_until(lambda: "10.33.0.0/16" in alice.routes(), 30, "the file is applied")


def test_sighup_with_a_broken_file_is_survived(running: Pair) -> None:
    alice = running.alice
    alice.write("[interface\n")

    os.kill(alice.pid(), signal.SIGHUP)

    assert alice.host.ping("10.9.0.2", count=3, interval=0.2) == (3, 3)


def test_the_name_of_an_endpoint_is_looked_up_again_when_it_changes(running: Pair) -> None:
    alice, bob = running.alice, running.bob
    alice.write(running.configuration(alice).replace("10.77.1.2:51820", "nowhere.invalid:51820"))

    done = alice.nvpn("reload", "wg0")

    assert "nowhere.invalid does not resolve yet" in done.stderr
    # Not resolved: the peer stays where it is.
    (line,) = [line for line in alice.record()[1:] if line[0] == bob.public_key]
    assert line[2] == "10.77.1.2:51820"
    assert alice.host.ping("10.9.0.2", count=2) == (2, 2)


def test_what_wg_has_set_is_left_alone_unless_the_file_owns_it(running: Pair) -> None:
    """A peer of the file gets the file's settings back; its routes follow the file."""
    alice = running.alice
    alice.write(running.configuration(alice) + third("10.33.0.0/16"))
    alice.nvpn("reload", "wg0")
    routes = alice.routes()
    lines = [f"public_key={PrivateKey(bytes(range(32))).public().hex}", "allowed_ip=10.55.0.0/16"]
    script = (
        f"import sys; from nvpn.control.client import request;request('wg0', 'set', {lines!r})"
    )
    subprocess.run([alice.argv()[4], "-c", script], env=alice.environment, check=True)
    assert alice.routes() == routes

    alice.nvpn("reload", "wg0")

    peers = {line[0]: line for line in alice.record()[1:]}
    assert peers[THIRD][3] == "10.33.0.0/16"
    assert alice.routes() == routes


def test_a_device_without_a_file_cannot_be_reloaded(machine: Machine) -> None:
    machine.nvpn("wg0")

    done = machine.nvpn("reload", "wg0", status=1)

    assert "wg0 was not started from a file" in done.stderr


def test_a_tunnel_that_does_not_run_cannot_be_reloaded(machine: Machine) -> None:
    done = machine.nvpn("reload", "wg0", status=1)

    assert done.stderr.startswith("error: cannot access interface wg0")


def test_reload_after_reload_loses_no_packet_of_an_unchanged_peer(running: Pair) -> None:
    """NVPN_TEST_RELOADS=1000 is the long form."""
    alice, bob = running.alice, running.bob
    reloads = int(os.environ.get("NVPN_TEST_RELOADS", "30"))
    before = session(alice, bob)
    texts = (
        running.configuration(alice),
        running.configuration(alice) + third("10.33.0.0/16", extra="persistent_keepalive = 3"),
    )
    daemon, count = alice.pid(), 4 * reloads
    with ThreadPoolExecutor() as pool:
        pings = pool.submit(alice.host.ping, "10.9.0.2", count=count, interval=0.01)
        for number in itertools.count():
            alice.write(texts[number % 2])
            os.kill(daemon, signal.SIGHUP)
            time.sleep(0.02)
            if number >= reloads and pings.done():
                break
    alice.write(texts[1])
    alice.nvpn("reload", "wg0")

    assert pings.result() == (count, count)
    assert alice.routes() == {"10.9.0.0/24", "10.33.0.0/16"}
    assert session(alice, bob) == before


def test_all_that_a_tunnel_puts_on_its_host_comes_and_goes_with_a_reload(running: Pair) -> None:
    alice, bob = running.alice, running.bob
    story = alice.directory / "story"
    before, since = alice.outside(), session(alice, bob)
    text = running.configuration(alice)
    full = text.replace(
        "listen_port", f'kill_switch = true\npost_up = "touch {story}"\nlisten_port'
    )
    full = full.replace('"10.9.0.2/32"', '"10.9.0.2/32", "0.0.0.0/0", "::/0"')

    alice.write(full)
    assert alice.nvpn("reload", "wg0").stderr == ""
    there = alice.outside()
    assert "suppress_prefixlength" in there
    assert "table inet nvpn-wg0/switch" in there
    assert alice.host.ping("10.9.0.2", count=2) == (2, 2)
    assert not story.exists()  # hooks are for the start

    alice.write(text.replace("listen_port", "table = 77\nlisten_port"))
    alice.nvpn("reload", "wg0")
    assert "10.9.0.2 dev wg0 table 77" in alice.outside()
    assert "suppress_prefixlength" not in alice.outside()

    alice.write(text)
    alice.nvpn("reload", "wg0")
    assert alice.outside() == before
    assert session(alice, bob) == since


def test_an_mtu_set_by_hand_stays_and_what_only_a_start_can_change_is_told(running: Pair) -> None:
    alice = running.alice
    text = running.configuration(alice)
    alice.host.run("ip", "link", "set", "wg0", "mtu", "1350")

    alice.write(text + third("10.33.0.0/16"))
    alice.nvpn("reload", "wg0")
    assert alice.ip("link", "show", "wg0")[0]["mtu"] == 1350
    assert alice.host.ping("10.9.0.2", count=2, size=1300) == (2, 2)

    alice.write(text.replace("listen_port", "mtu = 1280\nlisten_port"))
    alice.nvpn("reload", "wg0")
    assert alice.ip("link", "show", "wg0")[0]["mtu"] == 1280

    alice.write(text.replace("listen_port", 'netns = "cell"\nbackend = "auto"\nlisten_port'))
    done = alice.nvpn("reload", "wg0")
    for key, value in (("backend", "auto"), ("netns", "cell")):
        assert (
            f'{alice.etc}/wg0.toml: interface.{key}: "{value}" is for the next start:'
            " nvpn down wg0, then nvpn up wg0\n"
        ) in done.stderr
