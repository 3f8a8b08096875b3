"""How a new secret leaves the program: never readable by others, never over another one."""

from __future__ import annotations

import argparse
import errno
import os
import stat
from types import TracebackType

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


def hand_over(text: str, path: str | None, *, what: str = "key") -> None:
    """Write one secret and a line end: to a new file of mode 0600, or to standard output.

    ``what`` it is, for a message.

    Raises:
        PlatformError: the file exists already, or cannot be written.
    """
    if path is None or path == "-":
        _warn_if_others_can_read()
        write_output(f"{text}\n")
        return
    with SecretFile(path, what=what) as file:
        file.fill(f"{text}\n".encode())


class SecretFile:
    """A new file of mode 0600, made now, so that there is a place when the secret exists.

    It vanishes again at the end of a ``with`` in which nobody fills it.

    Args:
        what: is to be written, for messages.

    Raises:
        PlatformError: it exists already, or cannot be made.
    """

    def __init__(self, path: str, *, what: str) -> None:
        self._path = path
        self._operation = f"write the {what} to {path}"
        self._is_filled = False
        try:
            self._descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except FileExistsError:
            article = "an" if what[0] in "aeiou" else "a"
            raise PlatformError(
                self._operation,
                errno=errno.EEXIST,
                hint=f"{article} {what} is never overwritten;"
                " remove the file first, or name another",
            ) from None
        except OSError as error:
            is_nowhere = error.errno in (errno.ENOENT, errno.ENOTDIR)
            hint = "its directory has to be there; make it first" if is_nowhere else ""
            raise PlatformError(self._operation, errno=error.errno or 0, hint=hint) from None

    def fill(self, content: bytes) -> None:
        """Write it to the disk. Raises PlatformError."""
        try:
            with os.fdopen(self._descriptor, "wb", closefd=False) as file:
                file.write(content)
                file.flush()
                os.fsync(self._descriptor)
        except OSError as error:
            raise PlatformError(self._operation, errno=error.errno or 0) from None
        self._is_filled = True

    def __enter__(self) -> SecretFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
        if not self._is_filled:
            _forget(self._path)


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
