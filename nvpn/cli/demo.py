"""``nvpn demo``: the main job, on this machine alone, for everybody to see.

This process only watches: the hosts live in namespaces that their own processes hold
(:mod:`nvpn.cli.demonstration`), so there is nothing here to clean up but a process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO

from nvpn.cli.demonstration.view import Event, PlainView, View
from nvpn.cli.paint import is_terminal
from nvpn.cli.usage import print_error
from nvpn.control.records import parse_get

_FEWEST_SECONDS = 0.2
_MOST_SECONDS = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``[--seconds N] [--plain]``."""
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=2.0,
        metavar="N",
        help="How long to transfer in each direction (default: 2)",
    )
    parser.add_argument(
        "--plain", action="store_true", help="Lines instead of a live display, as through a pipe"
    )


def run(args: argparse.Namespace) -> int:
    """Play it, and return 0 if a ping and both transfers went through."""
    if not sys.platform.startswith("linux"):
        print_error("the demo needs Linux: its two hosts are network namespaces")
        return 1
    with contextlib.ExitStack() as stack:
        view: View
        if args.plain or not is_terminal(sys.stdout) or os.environ.get("TERM") == "dumb":
            view = PlainView()
        else:
            from nvpn.cli.demonstration.terminal import TerminalView

            view = stack.enter_context(TerminalView(args.seconds))
        complaints = stack.enter_context(tempfile.TemporaryFile())
        # Started before the view draws: that may use threads, and a child wants none.
        stage = stack.enter_context(_stage(args.seconds, complaints))
        assert stage.stdout is not None
        view.begin()
        audience = _Audience(view)
        for line in stage.stdout:
            audience.see(json.loads(line))
        stage.wait()
        failure = audience.failure or _early_end(stage, complaints, audience)
        view.end(happy=not failure)
    if failure:
        print_error(failure)
    return 1 if failure else 0


class _Audience:
    """Sees all events, tells the view, and remembers what went wrong first."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.failure = ""
        self.saw_end = False

    def see(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "failed":
            self.failure = self.failure or event["sentence"]
        elif kind == "status":
            self._view.show(event["host"], parse_get("wg0", event["lines"]), int(time.time()))
        else:
            self._view.tell(event)
        if kind == "ping" and all(answer is None for answer in event["answers"]):
            self.failure = f"no ping came back from {event['address']}"
        if kind == "transfer" and not event["bytes"]:
            self.failure = f"nothing went from {' to '.join(event['towards'])}"
        self.saw_end = self.saw_end or kind == "down"


@contextlib.contextmanager
def _stage(seconds: float, complaints: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The play in a process of its own, out of reach of our terminal's Ctrl-C.

    However we leave, it ends, and with it the namespaces and all that is in them.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "nvpn.cli.demonstration.stage", str(seconds)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=complaints,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _early_end(stage: subprocess.Popen[bytes], complaints: IO[bytes], audience: _Audience) -> str:
    """A sentence for a play that ended without saying why; empty if it ended well."""
    if audience.saw_end and stage.returncode == 0:
        return ""
    complaints.seek(0)
    said = complaints.read().decode(errors="replace").strip()
    if said and os.environ.get("NVPN_DEBUG"):
        print(said, file=sys.stderr)
    last = said.splitlines()[-1] if said else f"exit status {stage.returncode}"
    return f"the demo ended early: {last}"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _FEWEST_SECONDS <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"expected seconds from {_FEWEST_SECONDS:g} to {_MOST_SECONDS:g}"
        )
    return seconds
