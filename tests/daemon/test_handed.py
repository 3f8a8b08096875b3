"""A device and a socket that somebody else opened: WG_TUN_FD and WG_UAPI_FD."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nvpn.daemon.handed import NOTHING_HANDED, Handed, take_handed
from nvpn.errors import PlatformError
from tests.daemon.conftest import Pair
from tests.support.machines import Machine
from tests.support.world import wait_until

# As wireguard-go's parent does it: a device, a socket that listens, numbers 3 and 4.
LAUNCHER = """
import fcntl, os, socket, struct, sys
name, path, *command = sys.argv[1:]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x5001))
os.makedirs(os.path.dirname(path), exist_ok=True)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(5)
spare = [os.dup(listener.fileno()), os.dup(tun)]
os.dup2(spare[1], 3)
os.dup2(spare[0], 4)
os.execv(command[0], command)
"""


def launch(machine: Machine, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """nvpn with wg0 and its socket in its hands, told that the interface is called other0."""
    path = str(machine.run_directory / "wg0.sock")
    process = subprocess.Popen(
        machine.host.argv(
            sys.executable, "-c", LAUNCHER, "wg0", path, sys.executable, "-m", "nvpn", *arguments
        ),
        env={**machine.environment, "WG_TUN_FD": "3", "WG_UAPI_FD": "4", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    machine.world.processes.append(process)  # type: ignore[arg-type]
    wait_until(lambda: os.path.exists(path), 30, "the socket is there")
    return process


@pytest.mark.root
def test_what_it_is_handed_carries_traffic_and_goes_at_the_end(pair: Pair) -> None:
    alice, bob = pair.alice, pair.bob
    bob.write(pair.configuration(bob, endpoint=False))
    bob.nvpn("up", "wg0.toml")
    private = alice.write("PRIVATE\n", "private")

    process = launch(alice, "other0", WG_PROCESS_FOREGROUND="1")
    # The socket was there before anybody answered on it, and does wait.
    alice.nvpn(
        *("set", "wg0", "private-key", str(private), "peer", bob.public_key),
        *("endpoint", "10.77.1.2:51820", "allowed-ips", "10.9.0.2/32"),
    )
    alice.host.run("ip", "address", "add", "10.9.0.1/24", "dev", "wg0")
    alice.host.run("ip", "link", "set", "wg0", "up")

    assert alice.host.ping("10.9.0.2", count=2) == (2, 2)
    assert not alice.has_link("other0")
    environment = Path(f"/proc/{alice.pid()}/environ").read_bytes()
    assert b"WG_TUN_FD=3" in environment  # what it was started with; not what it passes on
    alice.host.run("ip", "link", "delete", "wg0")
    assert process.wait(30) == 0
    assert alice.is_clean()


@pytest.mark.root
def test_they_are_kept_on_the_way_to_the_background(machine: Machine) -> None:
    process = launch(machine, "other0")

    assert process.wait(30) == 0
    assert process.communicate()[0] == ""
    assert machine.record() == [["(none)", "(none)", "0", "off"]]
    kept = [os.readlink(entry) for entry in Path(f"/proc/{machine.pid()}/fd").iterdir()]
    assert kept.count("/dev/net/tun") == 1
    machine.nvpn("down", "wg0")
    assert machine.is_clean()


@pytest.mark.root
def test_a_socket_that_is_removed_ends_it(machine: Machine) -> None:
    process = launch(machine, "-f", "other0")
    machine.record()

    (machine.run_directory / "wg0.sock").unlink()

    assert process.wait(30) == 0
    assert machine.is_clean()


def test_nothing_is_handed_as_a_rule() -> None:
    assert take_handed({"WG_TUN_FD": ""}) == NOTHING_HANDED


def test_a_listener_is_taken_and_no_program_of_ours_will_have_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "wg0.sock"))
        listener.listen(1)
        os.set_inheritable(listener.fileno(), True)
        environment = {"WG_UAPI_FD": str(listener.fileno()), "HOME": "/"}

        handed = take_handed(environment)

        assert handed == Handed(control=listener.fileno())
        assert handed.descriptors == {listener.fileno()}
        assert environment == {"HOME": "/"}
        assert not os.get_inheritable(listener.fileno())


@pytest.mark.parametrize("variable", ["WG_TUN_FD", "WG_UAPI_FD"])
@pytest.mark.parametrize("text", ["abc", "-1", "2", "3.0", " 3", "9" * 4000, "\u0663"])
def test_a_number_that_is_none_is_refused_in_one_sentence(variable: str, text: str) -> None:
    with pytest.raises(PlatformError) as raised:
        take_handed({variable: text})
    assert str(raised.value) == (
        f"cannot use ${variable}; expected the number of a descriptor from 3 on"
    )


def test_what_is_closed_or_something_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def sentence(variable: str, descriptor: int) -> str:
        with pytest.raises(PlatformError) as raised:
            take_handed({variable: str(descriptor)})
        return str(raised.value).replace(str(descriptor), "N")

    tun, control = "expected an open TUN device", "expected a UNIX socket that is bound to a path"
    cannot = "cannot use descriptor N of"
    assert sentence("WG_TUN_FD", 9999) == f"{cannot} $WG_TUN_FD: Bad file descriptor; {tun}"
    assert sentence("WG_UAPI_FD", 9999).startswith(f"{cannot} $WG_UAPI_FD: Bad file descriptor; ")
    with (tmp_path / "file").open("w") as file:
        assert sentence("WG_TUN_FD", file.fileno()).endswith(tun)
        assert control in sentence("WG_UAPI_FD", file.fileno())
    with socket.socket(socket.AF_UNIX) as unbound, socket.socket() as internet:
        assert control in sentence("WG_UAPI_FD", unbound.fileno())
        internet.bind(("127.0.0.1", 0))
        internet.listen(1)
        assert control in sentence("WG_UAPI_FD", internet.fileno())
        assert internet.fileno() >= 0
    with socket.socket(socket.AF_UNIX) as nameless:
        nameless.bind(f"\0nvpn-test-{os.getpid()}")
        nameless.listen(1)
        assert control in sentence("WG_UAPI_FD", nameless.fileno())
