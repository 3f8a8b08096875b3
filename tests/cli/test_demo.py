"""The demonstration, watched as users watch it, and interrupted as users interrupt it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.cli.demonstration.view import describe, format_rate
from tests.support.cli import NVPN, ROOT, clean_environment, nvpn, run, run_on_terminal

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="needs /dev/net/tun"),
]

NOBODY = 65534


def left_behind() -> set[str]:
    """Everything that a demo could leave: processes, directories, interfaces, namespaces."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if re.search(r"nvpn\.cli\.demonstration|/(alice|bob)/wg0\.toml", command):
            found.add(command)
    found |= {str(path) for path in Path(tempfile.gettempdir()).glob("nvpn-demo-*")}
    found |= {str(path) for path in Path("/sys/class/net").glob("wg0")}
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = left_behind()
    yield
    deadline = time.monotonic() + 30
    while left_behind() - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left_behind() - before == set()
    assert "nvpn-demo" not in Path("/proc/self/mounts").read_text()


def assert_a_good_show(text: str) -> None:
    for pattern in (
        r"two hosts: alice \(192\.0\.2\.1\) and bob \(192\.0\.2\.2\), joined by a cable",
        r"keys and a wg0\.toml for each of them",
        r"nvpn up wg0\.toml on both: up after \d+\.\d\d s",
        r"ping 10\.8\.0\.2: 5 of 5 answered, the first after .* ms with its handshake, then in",
        r"ping fd00:8::2: 3 of 3 answered, in .* ms",
        r"alice to bob: \S+ [MG]bit/s, .* in \d\.\d s",
        r"bob to alice: \S+ [MG]bit/s, .* in \d\.\d s",
        r"nvpn show on alice:",
        r"nvpn show on bob:",
        r"both are down again, and nothing is left behind",
        r"On two real hosts: a wg0\.toml on each",
    ):
        assert re.search(pattern, text), f"{pattern}\n{text}"


def test_through_a_pipe_it_is_lines_in_order() -> None:
    done = nvpn("demo", "--seconds", "0.3")
    assert (done.status, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert_a_good_show(done.out)
    places = [done.out.index(word) for word in ("two hosts", "keys and", "up after", "ping 10",
              "ping fd", "alice to bob", "bob to alice", "show on alice", "are down")]  # fmt: skip
    assert places == sorted(places)
    assert done.out.count("latest handshake") == 2
    assert done.out.count("preshared key: (hidden)") == 2


def test_on_a_terminal_it_has_ticks_a_bar_and_tables() -> None:
    status, screen = run_on_terminal(*NVPN, "demo", "--seconds", "0.5")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode())
    assert status == 0
    assert_a_good_show(text)
    assert text.count("✓ ") == 8
    assert "✗" not in text
    assert re.search(r"▸ alice to bob [━╸╺]+ .*bit/s", text)
    assert text.count("1 of 1 peer connected") == 2
    assert "! " not in text
    assert screen.rstrip().endswith(b"'nvpn up wg0.toml'.")
    # The cursor that the live display hid is back.
    assert screen.rfind(b"\x1b[?25h") > screen.rfind(b"\x1b[?25l")


def test_a_terminal_may_be_asked_for_lines() -> None:
    status, screen = run_on_terminal(*NVPN, "demo", "--seconds", "0.2", "--plain")
    assert status == 0
    assert b"\x1b" not in screen


def test_control_c_ends_it_at_once_and_the_terminal_is_as_it_was() -> None:
    status, screen = run_on_terminal(
        *(
            "setsid",
            "--ctty",
            "--wait",
            "env",
            "--default-signal=INT",
            *NVPN,
            "demo",
            "--seconds",
            "60",
        ),
        answer=(b"alice to bob", b"\x03"),
    )
    assert status == 130
    assert screen.rfind(b"\x1b[?25h") > screen.rfind(b"\x1b[?25l")
    assert b"Traceback" not in screen


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_however_it_is_killed_nothing_stays(signum: int) -> None:
    process = subprocess.Popen(
        [*NVPN, "demo", "--seconds", "60"], stdout=subprocess.PIPE, env=clean_environment()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b"ping fd00" in line:
            break
    assert left_behind()
    process.send_signal(signum)
    process.wait(30)
    process.stdout.close()


def test_a_reader_that_goes_away_ends_it() -> None:
    done = run("sh", "-c", f"{' '.join(NVPN)} demo --seconds 60 | head -n 3")
    assert done.out.count("\n") == 3


def as_nobody(*command: str) -> tuple[str, ...]:
    # By a shell: only after one exec are root's capabilities really gone.
    user = str(NOBODY)
    drop = ("setpriv", "--reuid", user, "--regid", user, "--clear-groups")
    return (*drop, "sh", "-c", 'exec "$@"', "sh", *command)


def python_for_nobody() -> tuple[str, str] | None:
    """An interpreter that other users may run, and its PYTHONPATH; a venv may be root's."""
    path = os.pathsep.join((str(ROOT), sysconfig.get_path("platlib")))
    needed = "import nvpn, cryptography, nacl, noise, numpy, uvloop"
    for program in (sys.executable, "/usr/bin/python3"):
        if not run(*as_nobody(program, "-c", needed), PYTHONPATH=path).status:
            return program, path
    return None


def test_it_needs_no_root_where_users_may_have_namespaces() -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv (util-linux)")
    if run(*as_nobody("unshare", "-Urnm", "true")).status:
        pytest.skip("users may not have namespaces here")
    python = python_for_nobody()
    if python is None:
        pytest.skip("no Python that other users may run has what nvpn needs")
    command = (python[0], "-m", "nvpn", "demo", "--seconds", "0.3")
    done = run(*as_nobody(*command), PYTHONPATH=python[1])
    assert (done.status, done.err) == (0, "")
    assert_a_good_show(done.out)


def test_in_a_user_namespace_it_runs_too() -> None:
    if run("unshare", "-Ur", "true").status:
        pytest.skip("no user namespaces here")
    done = run("unshare", "-Ur", *NVPN, "demo", "--seconds", "0.3")
    assert (done.status, done.err) == (0, "")
    assert_a_good_show(done.out)


def test_without_tun_it_says_so_in_one_line() -> None:
    hidden = 'mount -t tmpfs none /dev/net && exec "$@"'
    done = run("unshare", "-m", "sh", "-c", hidden, "sh", *NVPN, "demo")
    assert done.status == 1
    assert done.err.startswith("error: cannot find /dev/net/tun; load the module")
    assert done.err.count("\n") == 1


def test_without_the_right_to_namespaces_it_says_so_in_one_line() -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv (util-linux)")
    if run("unshare", "-Ur", "true").status:
        pytest.skip("no user namespaces here")
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all "$@"'
    done = run("unshare", "-Ur", "sh", "-c", forbid, "sh", *NVPN, "demo")
    assert done.status == 1
    assert done.err.startswith("error: cannot make the namespaces of two hosts: ")
    assert "sudo" in done.err or "--privileged" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("size", "seconds", "text"),
    [(0, 0, "0 Mbit/s"), (125_000_000, 2.0, "500 Mbit/s"), (250_000_000, 2.0, "1.00 Gbit/s")],
)
def test_rates_are_decimal(size: int, seconds: float, text: str) -> None:
    assert format_rate(size, seconds) == text


@pytest.mark.parametrize(
    ("answers", "with_handshake", "text"),
    [
        ([None, None], True, "ping A: 0 of 2 answered"),
        ([None, 0.002], True, "ping A: 1 of 2 answered, in 2.00 ms"),
        ([0.0101, 0.001, 0.003, 0.002], True, "ping A: 4 of 4 answered, the first after "
         "10.1 ms with its handshake, then in 2.00 ms"),
        ([0.001], False, "ping A: 1 of 1 answered, in 1.00 ms"),
    ],
)  # fmt: skip
def test_pings_are_told_honestly(
    answers: list[float | None], with_handshake: bool, text: str
) -> None:
    event = {"kind": "ping", "address": "A", "answers": answers, "with_handshake": with_handshake}
    assert describe(event) == text
