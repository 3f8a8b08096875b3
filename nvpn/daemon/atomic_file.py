"""Replaces a file of the daemon's own: whole, or not at all."""

from __future__ import annotations

import os

from nvpn.config.writing import sync_directory


def write_atomically(path: str, data: bytes) -> None:
    """Replace the file, mode 0600; its directory is made where it is missing.

    Raises:
        OSError: no space, read-only, …; the old file is as it was.
    """
    directory, name = os.path.split(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    temporary = os.path.join(directory, f".{name}.new")
    try:
        os.unlink(temporary)  # of a daemon that was killed while it wrote
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    sync_directory(directory)
