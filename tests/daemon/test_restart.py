"""Killed and started again: how long traffic stays away, and what is remembered."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from nvpn.model.clock import SECOND
from nvpn.protocol.tai64n import stamp
from tests.daemon.conftest import Pair
from tests.support.machines import Machine
from tests.support.world import wait_until

pytestmark = pytest.mark.root


def state(machine: Machine) -> dict:
    try:
        return json.loads((machine.state_directory / "wg0.json").read_text())
    except FileNotFoundError:
        return {"peers": {}}


def bring_up(pair: Pair, *, bob_knows_alice: bool = False) -> None:
    """Alice knows where Bob is, and Bob learns it, as a server does."""
    pair.alice.write(pair.configuration(pair.alice))
    pair.bob.write(pair.configuration(pair.bob, endpoint=bob_knows_alice))
    for machine in (pair.bob, pair.alice):
        machine.nvpn("up", "wg0.toml")
    assert pair.alice.host.ping("10.9.0.2", count=1) == (1, 1)
    wait_until(lambda: bool(state(pair.bob)["peers"]), 30, "Bob has written Alice down")


def test_a_killed_responder_is_back_within_a_second_of_its_start(pair: Pair) -> None:
    bring_up(pair)
    pair.bob.kill()
    pair.bob.nvpn("up", "wg0.toml")
    ready = time.monotonic()
    alice = pair.alice.host
    wait_until(lambda: alice.ping("10.9.0.2", count=1, wait=0.5) == (1, 1), 30, "Bob is back")
    # By the first handshake: the next try would be five seconds later.
    assert time.monotonic() - ready < 5


def test_without_memory_it_takes_the_other_side_s_fifteen_seconds(pair: Pair) -> None:
    """That the test above tests something."""
    bring_up(pair)
    pair.bob.kill()
    (pair.bob.state_directory / "wg0.json").unlink()
    pair.bob.nvpn("up", "wg0.toml")

    assert pair.alice.host.ping("10.9.0.2", count=4, interval=0.3, wait=1)[1] == 0


def test_the_file_holds_no_secret_and_is_private(pair: Pair) -> None:
    bring_up(pair)
    text = (pair.bob.state_directory / "wg0.json").read_text()

    assert pair.bob.key.reveal_base64() not in text
    assert pair.bob.key.reveal_hex() not in text
    assert pair.bob.state_directory.stat().st_mode & 0o777 == 0o700
    assert (pair.bob.state_directory / "wg0.json").stat().st_mode & 0o777 == 0o600
    assert state(pair.bob)["peers"][pair.alice.public_key]["endpoint"] == "10.77.1.1:51820"


def test_a_port_that_the_kernel_chose_is_taken_again(pair: Pair) -> None:
    text = pair.configuration(pair.alice).replace("listen_port = 51820", "")
    pair.alice.write(text)
    pair.alice.nvpn("up", "wg0.toml")
    port = pair.alice.record()[0][2]
    wait_until(lambda: str(state(pair.alice).get("listen_port")) == port, 30, "it is written down")
    pair.alice.kill()

    pair.alice.nvpn("up", "wg0.toml")
    assert pair.alice.record()[0][2] == port
    pair.alice.nvpn("down", "wg0")

    taken = pair.alice.host.start(
        "python3", "-c",
        f"import socket,time; s=socket.socket(2,2); s.bind(('',{port})); time.sleep(60)",
    )  # fmt: skip
    wait_until(lambda: port in pair.alice.host.run("ss", "-Hlun"), 30, "somebody else has it")
    pair.alice.nvpn("up", "wg0.toml")
    assert pair.alice.record()[0][2] != port
    taken.kill()


def test_timestamps_of_a_clock_that_was_wrong_do_not_lock_us_out(pair: Pair) -> None:
    """The last run spoke from ten days ahead; Bob remembers that, and so do we."""
    bring_up(pair)
    pair.alice.nvpn("down", "wg0")
    remembered = state(pair.alice)
    ahead = stamp(time.time_ns() + 10 * 86_400 * SECOND)
    remembered["timestamp"] = ahead.hex()
    (pair.alice.state_directory / "wg0.json").write_text(json.dumps(remembered))

    up = pair.alice.nvpn("up", "wg0.toml")

    assert "the clock is " in up.stderr
    assert "days behind the handshakes of the last run" in up.stderr
    assert pair.alice.host.ping("10.9.0.2", count=2) == (2, 2)
    pair.alice.nvpn("down", "wg0")
    assert bytes.fromhex(state(pair.alice)["timestamp"]) > ahead


def test_a_broken_state_file_is_told_and_starts_anew(pair: Pair) -> None:
    pair.alice.state_directory.mkdir()
    (pair.alice.state_directory / "wg0.json").write_text("{half")
    pair.alice.write(pair.configuration(pair.alice))

    up = pair.alice.nvpn("up", "wg0.toml")

    assert "it is not a state file; starting without what it remembers" in up.stderr


def test_a_full_disk_does_not_stop_the_tunnel_and_keeps_the_old_file(pair: Pair) -> None:
    bring_up(pair)
    directory = pair.bob.state_directory
    pair.bob.nvpn("down", "wg0")
    old = (directory / "wg0.json").read_bytes()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "m7", directory], check=True)
    try:
        (directory / "wg0.json").write_bytes(old)
        try:
            (directory / "filler").write_bytes(bytes(1 << 20))
        except OSError:
            pass  # full is what it should be
        process = pair.bob.start("up", "-f", "wg0.toml")
        alice = pair.alice.host
        wait_until(lambda: alice.ping("10.9.0.2", count=1, wait=1) == (1, 1), 30, "Bob is back")

        assert alice.ping("10.9.0.2", count=20, interval=0.1) == (20, 20)
        assert (directory / "wg0.json").read_bytes() == old
        process.terminate()
        output = process.communicate(timeout=30)[0]
        assert output.count("No space left on device") == 1
        assert (directory / "wg0.json").read_bytes() == old
    finally:
        subprocess.run(["umount", "-l", directory], check=True)
