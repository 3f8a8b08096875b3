"""The command that was typed returns when the daemon says so, and says what it said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.world import wait_until

ROOT = Path(__file__).parents[2]


def run(work: str, *, after: str = "print('returned')") -> subprocess.CompletedProcess[str]:
    """A program that goes to the background with ``work`` in it."""
    program = f"""
import os, signal, sys, time
from nvpn.daemon.background import run_in_background
from nvpn.errors import NvpnError, PlatformError

command = os.getpid()

def work(reporter):
{textwrap.indent(textwrap.dedent(work), "    ")}

try:
    run_in_background(work)
    {after}
except NvpnError as error:
    print("failed:", error)
"""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_returns_when_the_work_is_ready_and_not_when_it_is_done(tmp_path: Path) -> None:
    returned, ended = tmp_path / "returned", tmp_path / "ended"
    done = run(
        f"""
        reporter.ready()
        while not os.path.exists({str(returned)!r}):
            time.sleep(0.01)
        open({str(ended)!r}, "w").close()
        return 0
        """,
        after=f"open({str(returned)!r}, 'w').close(); print('returned')",
    )

    assert (done.stdout, done.stderr) == ("returned\n", "")
    wait_until(ended.exists, 30, "the work goes on")


def test_warnings_reach_the_terminal_before_it_returns() -> None:
    done = run("reporter.warn('mind the gap'); reporter.ready(); return 0")

    assert done.stderr == "warning: mind the gap\n"
    assert done.stdout == "returned\n"


def test_what_a_hook_writes_reaches_the_terminal_as_it_is() -> None:
    done = run("reporter.show('[#] echo up'); reporter.ready(); return 0")

    assert done.stderr == "[#] echo up\n"
    assert done.stdout == "returned\n"


def test_what_is_told_after_it_is_ready_harms_nobody(tmp_path: Path) -> None:
    marker = tmp_path / "alive"
    done = run(
        f"""
        reporter.ready()
        reporter.show("nobody reads this")
        reporter.reloading()
        reporter.ready()
        reporter.stopping()
        open({str(marker)!r}, "w").close()
        return 0
        """
    )

    assert done.stdout == "returned\n"
    wait_until(marker.exists, 30, "the daemon goes on")


def test_what_the_work_raises_is_raised_where_it_was_typed() -> None:
    done = run("raise PlatformError('fly', errno=1, hint='walk')")

    assert done.stdout == "failed: cannot fly: Operation not permitted; walk\n"


@pytest.mark.parametrize(
    "work",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "raise RuntimeError('a bug')",
        "return 0",
        "sys.exit(3)",
    ],
)
def test_an_end_without_a_word_is_no_success(work: str) -> None:
    done = run(work)

    assert done.stdout == (
        "failed: nvpn ended before the tunnel was ready; the journal or syslog says why\n"
    )
    assert "Traceback" not in done.stderr


def test_the_daemon_has_no_terminal_no_directory_and_a_session_of_its_own(tmp_path: Path) -> None:
    done = run(
        f"""
        with open({str(tmp_path / "seen")!r}, "w") as seen:
            print(os.getcwd(), os.getsid(0) not in (os.getpid(), {os.getsid(0)}),
                  *(os.readlink(f"/proc/self/fd/{{n}}") for n in (0, 1, 2)), file=seen)
        reporter.ready()
        return 0
        """
    )

    assert done.stdout == "returned\n"
    seen = (tmp_path / "seen").read_text()
    assert seen == "/ True /dev/null /dev/null /dev/null\n"


def test_a_killed_command_does_not_take_the_daemon_along(tmp_path: Path) -> None:
    marker = tmp_path / "alive"
    done = run(
        f"""
        os.kill(command, signal.SIGKILL)
        while os.path.exists(f"/proc/{{command}}/exe"):
            time.sleep(0.01)
        reporter.warn("nobody hears this")
        reporter.ready()
        open({str(marker)!r}, "w").close()
        return 0
        """
    )

    assert done.returncode == -signal.SIGKILL
    wait_until(marker.exists, 30, "the daemon goes on")


def test_an_interrupt_before_the_daemon_is_known_ends_it_all_the_same() -> None:
    program = """
import os, select, signal, time
from nvpn.daemon.background import run_in_background

wait = os.waitpid
heard, held = os.pipe()

def interrupted(*which):
    os.waitpid = wait
    waited = wait(*which)
    os.read(heard, 1)
    os.kill(os.getpid(), signal.SIGINT)
    return waited

def work(reporter):
    os.write(held, b"it is there")
    time.sleep(120)
    return 0

os.waitpid = interrupted
try:
    run_in_background(work, keep={held})
    print("it is ready")
except KeyboardInterrupt:
    os.close(held)
    os.read(heard, 100)  # the rest
    ended, _, _ = select.select([heard], [], [], 30)
    print("it has ended" if ended else "it goes on")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("it has ended\n", "")
