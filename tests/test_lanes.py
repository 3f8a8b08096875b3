"""How ``scripts/lanes`` tells of what runs side by side."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.once  # no Python changes what bash does

ROOT = Path(__file__).parents[1]
SUMMED_UP = "FAILED tests/test_a.py::test_b - the reason"


def play(script: str) -> tuple[int, list[str]]:
    """Exit status and lines of a script that has sourced it."""
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; source scripts/lanes\n{script}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_who_passes_gets_a_line_and_what_was_skipped_is_counted() -> None:
    dots, skips = "....s [100%]", "SKIPPED [2] a.py:7: needs root\nSKIPPED [1] b.py:9: needs root"
    status, lines = play(f"beside units printf '%s\\n' '{dots}' '{skips}' '5 passed'\njoin")
    assert status == 0
    assert len(lines) == 2
    assert lines[0].startswith("== units: passed in ")
    assert lines[0].endswith(": 5 passed")
    assert lines[1] == "   skipped: 3 (needs root)"


def test_what_failed_and_why_is_told_last_whatever_ended_before() -> None:
    status, lines = play(
        f"""
beside first sh -c 'echo "..F. [100%]"; echo all of it; echo "{SUMMED_UP}"; exit 1'
await first
beside second sh -c 'echo no such thing; exit 3'
beside third true
join
echo not reached
"""
    )
    assert status == 1
    told, last = lines[:3], lines[-4:]
    assert told[0].startswith("== first: failed, exit 1 after ")
    assert told[1:] == ["all of it", SUMMED_UP]
    assert any(line.startswith("== third: passed") for line in lines)
    reasons = {last[0].partition(" (")[0]: last[1], last[2].partition(" (")[0]: last[3]}
    assert reasons == {"== failed: first": SUMMED_UP, "== failed: second": "no such thing"}


def test_some_can_be_waited_for_while_others_go_on() -> None:
    status, lines = play(
        """
mkfifo "$lanes_directory/gate"
beside quick true
beside slow sh -c 'read line <"$0"; echo "$line"' "$lanes_directory/gate"
await quick
echo then
echo opened >"$lanes_directory/gate"
join
"""
    )
    assert status == 0
    assert lines[0].startswith("== quick: passed")
    assert lines[1] == "then"
    assert lines[2].endswith(": opened")


def test_what_hangs_is_interrupted_and_says_where() -> None:
    status, lines = play(
        """
lanes_seconds=3
beside hanging sh -c 'trap "echo here; exit" INT; while :; do sleep 0.1; done'
join
"""
    )
    assert status == 1
    assert lines[0].startswith("== hanging: failed, exit 124 after ")
    assert lines[1] == "here"


def test_a_script_that_is_ended_ends_what_runs_beside_and_tells_how_far_it_came() -> None:
    script = """
set -euo pipefail; source scripts/lanes
exec 9>&1
beside hanging sh -c 'echo begun; exec sleep 1000'
until grep -q begun "$lanes_directory/hanging"; do sleep 0.1; done
echo up
join
"""
    running = subprocess.Popen(
        ["bash", "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    running.send_signal(signal.SIGTERM)
    # This comes to an end only with the last one that has the output open.
    assert running.communicate(timeout=120)[0].splitlines() == [
        "== hanging: not over yet; so far:",
        "begun",
    ]
