"""Files of a configuration, replaced whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from nvpn.errors import PlatformError

Contents = Mapping[Path, bytes | None]
"""What files hold; None: there is no such file."""


def replace_files(old: Contents, new: Contents) -> Callable[[], None]:
    """Write what is new over what is old; what is returned puts the old back.

    Each file keeps its mode and its owner, or gets mode 0600, and a symbolic link stays
    one. When a file cannot be written, those before it are put back.

    Raises:
        PlatformError: nothing was changed.
    """
    changed = [path for path in new if new[path] != old[path]]
    for path in changed:
        if _read(path) != old[path]:
            raise PlatformError(
                f"write {path}", hint="somebody else has changed it meanwhile; try again"
            )
    done: list[Path] = []

    def put_back() -> None:
        for path in reversed(done):
            _replace(path, old[path])

    for path in changed:
        try:
            _replace(path, new[path])
        except PlatformError:
            put_back()
            raise
        done.append(path)
    return put_back


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlatformError(f"read {path}", errno=error.errno or 0) from None


def _replace(path: Path, data: bytes | None) -> None:
    real = os.path.realpath(path)
    directory = os.path.dirname(real)
    try:
        if data is None:
            Path(real).unlink(missing_ok=True)
        else:
            _write(real, directory, data)
        sync_directory(directory)
    except OSError as error:
        hint = "try again with sudo" if isinstance(error, PermissionError) else ""
        raise PlatformError(f"write {path}", errno=error.errno or 0, hint=hint) from None


def _write(real: str, directory: str, data: bytes) -> None:
    try:
        before = os.stat(real)
    except FileNotFoundError:
        before = None
    # Beside the file, so that renaming stays within one file system; mode 0600.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(real)}.", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if before is not None:
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        os.rename(temporary, real)
    except BaseException:
        os.unlink(temporary)
        raise


def sync_directory(directory: str) -> None:
    """Let what was renamed or removed in it survive a crash. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
