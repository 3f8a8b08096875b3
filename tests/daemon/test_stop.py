"""A tunnel that ends by itself while it is being taken down has been taken down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nvpn.daemon.stop import stop_tunnel
from nvpn.errors import ControlError

# Ends with the connection of that number, as one that was told to end just before: its socket
# goes first. It has the name of a daemon, or another.
ENDING = """
import os, socket, sys
path, number, name, lingers = sys.argv[1:]
with open("/proc/self/comm", "w") as comm:
    comm.write(name)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
print("listens", flush=True)
connections = [listener.accept()[0] for _ in range(int(number))]
os.unlink(path)
for each in (listener, *connections):
    each.close()
if lingers:
    sys.stdin.read()
"""


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NVPN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def stop_one_that_ends(run_directory: Path, connection: int, name: str, lingers: str = "") -> None:
    path = run_directory / "wg0.sock"
    with subprocess.Popen(
        [sys.executable, "-c", ENDING, str(path), str(connection), name, lingers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            stop_tunnel("wg0")
        finally:
            process.kill()
            assert not path.exists()


@pytest.mark.parametrize("connection", [1, 2, 3])
def test_wherever_it_ends_it_is_down(run_directory: Path, connection: int) -> None:
    stop_one_that_ends(run_directory, connection, "nvpn-wg0")


def test_another_program_that_ends_meanwhile_is_not_waited_for(run_directory: Path) -> None:
    with pytest.raises(ControlError):
        stop_one_that_ends(run_directory, 3, "wireguard-go", "lingers")
