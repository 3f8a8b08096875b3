"""The process around a tunnel, before there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Python calls such a function in the middle of anything, of an import say, and only prints
# what it raises.
PROGRAM = """
import logging, os, signal, weakref
from nvpn.daemon import process

class Module:
    pass

async def supervise():
    module = Module()
    watched = weakref.ref(module, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del module
    print("goes on")
    return 7

process._work("wg0", logging.INFO, True, False, supervise)
"""


def test_a_signal_before_the_start_ends_it_wherever_it_comes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
