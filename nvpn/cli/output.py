"""Standard output, whose failure is a failure: a full disk must not look like success."""

from __future__ import annotations

import contextlib
import errno
import io
import sys
from collections.abc import Iterator
from typing import TextIO

from nvpn.errors import PlatformError


class OutputError(PlatformError):
    """Standard output could not be written. Not for a reader that went away: that is
    BrokenPipeError, and no reason to say anything."""


def prepare_output() -> None:
    """Let a character that the terminal's encoding lacks be a question mark, not a failure."""
    stream = standard_stream("stdout")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")


def write_output(text: str) -> None:
    """Write and flush.

    Raises:
        OutputError: the text did not arrive.
        BrokenPipeError: nobody reads any more.
    """
    stream = standard_stream("stdout")
    if stream is None:
        raise OutputError("write to standard output", errno=errno.EBADF)
    with writing():
        stream.write(text)
    flush_output()


def flush_output() -> None:
    """Send what other code has printed. Raises as :func:`write_output` does."""
    stream = standard_stream("stdout")
    if stream is None:
        return  # closed by whoever started us, who wants no output
    with writing():
        stream.flush()


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Around other code that writes there. Raises as :func:`write_output` does."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError("write to standard output", errno=error.errno or 0) from None


def write_complaint(text: str) -> None:
    """Write to standard error. When that fails, too, there is nobody left to tell."""
    stream = standard_stream("stderr")
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        pass


def standard_stream(name: str) -> TextIO | None:
    """``stdin``, ``stdout`` or ``stderr``; None if we were started with it closed."""
    stream: TextIO | None = getattr(sys, name)
    return stream
