"""How a new secret leaves the program: never readable by others, never over another one."""

from __future__ import annotations

import argparse
import errno
import os
import stat

from nvpn.cli.output import write_complaint, write_output
from nvpn.errors import PlatformError


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    """``-o FILE``, the same for every verb that makes a secret."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="Write to a new file that only you can read, instead of standard output",
    )


def hand_over(text: str, path: str | None) -> None:
    """Write one secret and a line end: to a new file of mode 0600, or to standard output.

    Raises:
        PlatformError: the file exists already, or cannot be written.
    """
    if path is None or path == "-":
        _warn_if_others_can_read()
        write_output(f"{text}\n")
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise PlatformError(
            f"write the key to {path}",
            errno=errno.EEXIST,
            hint="a key is never overwritten; remove the file first, or name another",
        ) from None
    except OSError as error:
        raise PlatformError(f"write the key to {path}", errno=error.errno or 0) from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        _forget(path)
        raise PlatformError(f"write the key to {path}", errno=error.errno or 0) from None


def _warn_if_others_can_read() -> None:
    """As `wg genkey` does: a shell's ``>`` made the file with the user's umask."""
    try:
        mode = os.fstat(1).st_mode
    except OSError:
        return
    if stat.S_ISREG(mode) and mode & stat.S_IRWXO:
        write_complaint(
            "Warning: writing to world accessible file.\n"
            "Consider setting the umask to 077 and trying again.\n"
        )


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
