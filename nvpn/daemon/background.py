"""Goes to the background, and lets the caller know when the work is ready or has failed.

The command that the user typed stays as the parent until the daemon reports over a pipe:
warnings, then "ready" or what went wrong. So it returns 0 exactly when the tunnel works.
The daemon is a fork, not a new program: nothing secret passes through arguments,
environment or files, and no descriptor is shared but the pipe, and those that are to be
kept.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import Final, NoReturn, Protocol

from nvpn.errors import NvpnError, PlatformError

_READY: Final = "ready"
_WARNING: Final = "warning"
_SHOWN: Final = "shown"
_FAILED: Final = "failed"


class Reporter(Protocol):
    """How a daemon reaches whoever started it: a person, until it is ready; a service manager."""

    def warn(self, sentence: str) -> None:
        """Something to know; the start goes on."""

    def show(self, line: str) -> None:
        """A line that a hook wrote, for the terminal as it is."""

    def ready(self) -> None:
        """The start is done, or a reload, well or not."""

    def reloading(self) -> None:
        """A reload begins; :meth:`ready` follows when it is over."""

    def stopping(self) -> None:
        """The end begins."""


class FailedInBackground(NvpnError):  # noqa: N818 - one of several sentences
    """What the daemon said before it gave up."""


class FrontReporter:
    """In front nobody waits, and the log on standard error says it all."""

    def warn(self, sentence: str) -> None:
        """Nothing."""

    def show(self, line: str) -> None:
        """Show it."""
        print_line(line)

    def ready(self) -> None:
        """Nothing."""

    def reloading(self) -> None:
        """Nothing."""

    def stopping(self) -> None:
        """Nothing."""


class PipeReporter:
    """Writes JSON lines to the parent."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def warn(self, sentence: str) -> None:
        """Tell the parent."""
        self._send(_WARNING, [sentence])

    def show(self, line: str) -> None:
        """Tell the parent."""
        self._send(_SHOWN, [line])

    def ready(self) -> None:
        """Tell the parent, and let it go. Again: nothing."""
        self._send(_READY, [])
        self._close()

    def reloading(self) -> None:
        """Nothing: nobody listens any more."""

    def stopping(self) -> None:
        """Nothing: the end of the pipe says it."""

    def failed(self, sentences: list[str]) -> None:
        """Tell the parent, and let it go."""
        self._send(_FAILED, sentences)
        self._close()

    def _send(self, kind: str, sentences: list[str]) -> None:
        if self._descriptor < 0:
            return
        try:
            os.write(self._descriptor, json.dumps([kind, sentences]).encode() + b"\n")
        except OSError:
            pass  # the parent was killed: the tunnel comes up all the same

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def run_in_background(
    work: Callable[[Reporter], int],
    *,
    keep: Collection[int] = (),
    keep_output: bool = False,
) -> None:
    """Run ``work`` in a process of its own and return when it reports that it is ready.

    What ``work`` returns is that process's exit status; a NvpnError that it raises is
    raised here.

    Args:
        keep: descriptors that it needs; all others are closed there.
        keep_output: let it write to our standard output and error for ever.

    Raises:
        FailedInBackground: with the daemon's sentence, or one that says how it ended.
        KeyboardInterrupt: the daemon was told to stop and has.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        raise PlatformError("start a process", errno=error.errno or 0) from None
    if child == 0:
        os.close(reading)
        _become_daemon(work, writing, keep, keep_output)
    os.close(writing)
    # The first child only makes the second and tells its number.
    try:
        _listen(reading, child)
    finally:
        os.close(reading)


def print_warning(sentence: str) -> None:
    """``warning: …`` on standard error."""
    print_line(f"warning: {sentence}")


def print_line(line: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _listen(reading: int, child: int) -> None:
    daemon = 0
    is_told_to_stop = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal is_told_to_stop
        is_told_to_stop = True
        if daemon:
            _send_signal(daemon, signal.SIGTERM)
            raise KeyboardInterrupt
        # Before there is somebody to pass it on to: in a moment there will be.

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        os.waitpid(child, 0)
        with os.fdopen(os.dup(reading), "rb") as lines:
            try:
                first = lines.readline()
                daemon = int(first) if first.strip().isdigit() else 0
                if not daemon:
                    raise FailedInBackground("the process in the background could not be started")
                if is_told_to_stop:
                    stop(signal.SIGTERM, None)
                _follow(iter(lines.readline, b""))
            except KeyboardInterrupt:
                for _ in iter(lines.readline, b""):
                    pass  # until it has cleaned up and closed the pipe
                raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _follow(lines: Iterator[bytes]) -> None:
    for line in lines:
        kind, sentences = json.loads(line)
        if kind == _READY:
            return
        if kind == _WARNING:
            print_warning(sentences[0])
        elif kind == _SHOWN:
            print_line(sentences[0])
        else:
            raise FailedInBackground("\n".join(sentences))
    raise FailedInBackground(
        "nvpn ended before the tunnel was ready; the journal or syslog says why"
    )


def _become_daemon(
    work: Callable[[Reporter], int], writing: int, keep: Collection[int], keep_output: bool
) -> NoReturn:
    """In the first child: never returns into the caller's code."""
    status = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        # Not a session leader any more: no terminal can become ours by accident.
        os.write(writing, b"%d\n" % os.getpid())
        _let_go({writing, *keep}, keep_output=keep_output)
        reporter = PipeReporter(writing)
        try:
            status = work(reporter)
        except NvpnError as error:
            reporter.failed(str(error).splitlines())
    finally:
        # Not sys.exit: the stack above belongs to the command that was typed, and threads
        # that hang in a resolver must not be waited for.
        os._exit(status)


def _let_go(keep: Collection[int], *, keep_output: bool) -> None:
    """Of the terminal, the working directory, and descriptors that a shell left open."""
    os.chdir("/")
    for number in [int(text) for text in os.listdir("/proc/self/fd")]:
        if number > 2 and number not in keep:
            try:
                os.close(number)
            except OSError:
                pass  # it was that of the listing itself
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0,) if keep_output else (0, 1, 2):
        os.dup2(null, standard)
    if null > 2:
        os.close(null)


def _send_signal(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass
