"""Standard output, whose failure is a failure: a full disk must not look like success."""

from __future__ import annotations

import sys

from nvpn.errors import PlatformError


class OutputError(PlatformError):
    """Standard output could not be written. Not for a reader that went away: that is
    BrokenPipeError, and no reason to say anything."""


def write_output(text: str) -> None:
    """Write and flush.

    Raises:
        OutputError: the text did not arrive.
        BrokenPipeError: nobody reads any more.
    """
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _cannot_write(error) from None
    flush_output()


def flush_output() -> None:
    """Send what other code has printed. Raises as :func:`write_output` does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _cannot_write(error) from None


def _cannot_write(error: OSError) -> OutputError:
    return OutputError("write to standard output", errno=error.errno or 0)
