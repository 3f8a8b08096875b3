"""Files of a configuration, replaced whole or not at all."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nvpn.errors import PlatformError

Contents = Mapping[Path, bytes | None]
"""What files hold; None: there is no such file."""

_LOCK_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.005


def replace_files(old: Contents, new: Contents) -> Callable[[], None]:
    """Write what is new over what is old; what is returned puts the old back.

    Each file keeps its mode and its owner, or gets mode 0600, and a symbolic link stays
    one. When a file cannot be written, those before it are put back. What somebody else has
    written meanwhile is never written over.

    Raises:
        PlatformError: nothing was changed.
    """
    changed = [path for path in new if new[path] != old[path]]
    done: list[Path] = []

    def put_back() -> None:
        with _alone(done):
            theirs = [path for path in done if _read(path) not in (new[path], old[path])]
            for path in reversed(done):
                if path not in theirs:
                    _replace(path, old[path])
        for path in theirs:
            raise PlatformError(
                f"put {path} back", hint="somebody else has changed it meanwhile; see what it says"
            )

    with _alone(changed):
        for path in changed:
            if _read(path) != old[path]:
                raise PlatformError(
                    f"write {path}", hint="somebody else has changed it meanwhile; try again"
                )
        for path in changed:
            try:
                _replace(path, new[path])
            except PlatformError:
                for before in reversed(done):
                    _replace(before, old[before])
                raise
            done.append(path)
    return put_back


@contextmanager
def _alone(paths: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of their directories among all who write here, if they can be had soon.

    Everybody may lock a directory that they can read, so that we wait for a moment only:
    nobody can keep a file from being written.
    """
    descriptors: list[int] = []
    deadline = time.monotonic() + _LOCK_SECONDS
    try:
        # In the same order by all.
        for directory in sorted({os.path.dirname(os.path.realpath(path)) for path in paths}):
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                descriptors.append(os.open(directory, flags))
                _take_lock(descriptors[-1], deadline)
            except OSError:
                pass  # missing, which writing will tell, or on a file system without locks
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _take_lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return
            time.sleep(_POLL_SECONDS)
        else:
            return


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
