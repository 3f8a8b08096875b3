"""A registry's store in a file of our own: the default, for one server.

Commits are lines at the end of the file (:mod:`nvpn.registry.journal`). Those that arrive
while the disk is at work are written together and synced once, so that five hundred clients
at once cost a few syncs and not five hundred; what each of them reads is what those before
it wrote. Memory is never ahead of the disk: if it is full or read-only nothing is given.

The file is written anew, behind a rename, when most of it is history.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from nvpn.config.writing import sync_directory
from nvpn.errors import PlatformError, Unavailable
from nvpn.registry.journal import Entry, Scan, format_entry, format_whole, scan
from nvpn.registry.store import Changes, Commit, Condition, Edit, Put, Record

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")

COMPACT_AT: Final = 1 << 20
"""Bytes: a smaller file is not worth the work."""

COMPACT_FACTOR: Final = 4
"""How many times what is alive a file may hold."""

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class InThread(Protocol):
    """Runs what may block beside the loop."""

    def __call__(self, call: Callable[[], _T], /) -> Awaitable[_T]:
        """Its result, or what it raised."""
        ...


class _Waiting(NamedTuple):
    conditions: Sequence[Condition]
    edits: Sequence[Edit]
    done: asyncio.Future[Commit]


class FileStore:
    """One process has the file: another one that tries is told so.

    Args:
        path: its directory is made where it is missing.
        in_thread: for disk work.
        compact_at: bytes, see COMPACT_AT.
    """

    is_shared: Final = False

    def __init__(
        self,
        path: str,
        *,
        in_thread: InThread = asyncio.to_thread,
        compact_at: int = COMPACT_AT,
    ) -> None:
        self._path: Final = path
        self._in_thread: Final = in_thread
        self._compact_at = compact_at
        self._records: Final[dict[str, Record]] = {}
        self._revision = 0
        self._live = 0
        self._file: int | None = None
        self._size = 0
        # Whether bytes may lie after ``_size`` that were not to be written.
        self._is_dirty = False
        self._changed: Callable[[Changes], None] | None = None
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._is_closed = False

    def describe(self) -> str:
        """The file's path."""
        return self._path

    async def load(self) -> Changes:
        """See Store.load."""
        found = await self._in_thread(self._open)
        for entry in found.entries:
            self._apply(entry)
        if found.damaged:
            await self._write_anew()
        return Changes(self._revision, tuple(self._records.values()), whole=True)

    def watch(self, changed: Callable[[Changes], None]) -> None:
        """See Store.watch: told are our own commits, for there are no others."""
        self._changed = changed

    async def commit(self, conditions: Sequence[Condition], edits: Sequence[Edit]) -> Commit:
        """See Store.commit."""
        if self._file is None or self._is_closed:
            raise Unavailable(f"{self._path} is closed")
        done: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(conditions, edits, done))
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write_all())
        return await done

    async def close(self) -> None:
        """See Store.close; what was asked for by now is written, whether anybody waits for it
        or not.
        """
        self._is_closed = True
        if self._writing is None:
            self._let_go()
        else:
            await asyncio.wait((self._writing,))

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    # --- commits ----------------------------------------------------------------------------

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._write(batch)
                if self._size >= max(self._compact_at, COMPACT_FACTOR * self._live):
                    await self._write_anew()
        except BaseException as error:
            self._refuse(self._waiting, error)
            raise
        else:
            # Not before: a thread has the file while we write.
            if self._is_closed:
                self._let_go()
        finally:
            self._writing = None

    async def _write(self, batch: list[_Waiting]) -> None:
        """Decide, write, sync, and only then remember and answer."""
        # What the commits before one in this batch make of the records: (value, revision).
        made: dict[str, Record | None] = {}
        entries: dict[int, Entry] = {}
        revision = self._revision
        for place, one in enumerate(batch):
            if all(self._revision_of(key, made) == wanted for key, wanted in one.conditions):
                revision += 1
                entries[place] = entry = _entry(revision, one.edits)
                made.update(dict.fromkeys(entry.deletes))
                made.update(
                    {key: Record(key, value, revision) for key, value in entry.puts.items()}
                )
        if entries:
            data = b"".join(map(format_entry, entries.values()))
            try:
                await self._in_thread(lambda: self._append(data))
            except BaseException as error:
                self._refuse(batch, error)
                if not isinstance(error, OSError):
                    raise
                return
        for place, one in enumerate(batch):
            written = entries.get(place)
            commit = self._answer(one) if written is None else self._apply(written)
            if not one.done.done():
                one.done.set_result(commit)

    def _refuse(self, batch: list[_Waiting], error: BaseException) -> None:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it was interrupted"
        for one in batch:
            if not one.done.done():
                one.done.set_exception(Unavailable(f"cannot write {self._path}: {why}"))

    def _revision_of(self, key: str, made: dict[str, Record | None]) -> int:
        record = made[key] if key in made else self._records.get(key)
        return 0 if record is None else record.revision

    def _apply(self, entry: Entry) -> Commit:
        """Remember what was written, and tell it."""
        self._revision = max(self._revision, entry.revision)
        records = tuple(Record(key, value, entry.revision) for key, value in entry.puts.items())
        for key in (*entry.puts, *entry.deletes):
            before = self._records.pop(key, None)
            if before is not None:
                self._live -= len(before.key) + len(before.value)
        for record in records:
            self._records[record.key] = record
            self._live += len(record.key) + len(record.value)
        changes = Changes(entry.revision, records, entry.deletes)
        if self._changed is not None:
            self._changed(changes)
        return Commit(True, changes)

    def _answer(self, one: _Waiting) -> Commit:
        """What stood in the way. By now, later commits of the batch are not done yet."""
        keys = dict.fromkeys(condition.key for condition in one.conditions)
        found = {key: self._records.get(key) for key in keys}
        records = tuple(record for record in found.values() if record is not None)
        missing = tuple(key for key, record in found.items() if record is None)
        return Commit(False, Changes(self._revision, records, missing))

    # --- the file, in a thread --------------------------------------------------------------

    def _append(self, data: bytes) -> None:
        """Write at the end and sync. Raises OSError: then nothing counts as written."""
        assert self._file is not None
        if self._is_dirty:
            os.ftruncate(self._file, self._size)
        self._is_dirty = True
        at, rest = self._size, memoryview(data)
        while rest:
            written = os.pwrite(self._file, rest, at)
            at, rest = at + written, rest[written:]
        os.fdatasync(self._file)
        self._size, self._is_dirty = at, False

    def _open(self) -> Scan:
        directory = os.path.dirname(self._path) or "."
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            file = self._open_locked()
            try:
                found = self._read(file)
                sync_directory(directory)
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            raise PlatformError(
                f"open {self._path}, where clients and leases are kept",
                errno=error.errno or 0,
                hint=_hint(error),
            ) from None
        self._file = file
        return found

    def _open_locked(self) -> int:
        while True:
            file = os.open(self._path, _FLAGS, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it may have renamed a new one over it in this moment.
                if _is_same(os.fstat(file), self._path):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _read(self, file: int) -> Scan:
        with os.fdopen(os.dup(file), "rb") as stream:
            data = stream.read()
        found = scan(data)
        if found.damaged:
            aside = f"{self._path}.broken"
            _write_new(aside, data)
            _log.warning(
                "%s is damaged in %d places, so that some clients or leases may be lost; it is"
                " kept as %s, and we go on with the rest",
                self._path,
                found.damaged,
                aside,
            )
        elif found.end < len(data):
            _log.info(
                "%s ends in a line that was being written when we were stopped: it is left out",
                self._path,
            )
        self._size = found.end
        self._is_dirty = found.end < len(data)
        return found

    # --- history ----------------------------------------------------------------------------

    async def _write_anew(self) -> None:
        data = b"".join(format_whole(self._records.values(), self._revision))
        try:
            await self._in_thread(lambda: self._replace(data))
        except OSError as error:
            # It is only longer than it need be, or damaged where it was. Not again at once.
            self._compact_at = 2 * self._size
            _log.warning("cannot write %s anew: %s", self._path, os.strerror(error.errno or 0))

    def _replace(self, data: bytes) -> None:
        temporary = f"{self._path}.new"
        try:
            os.unlink(temporary)  # of a daemon that was killed while it wrote
        except FileNotFoundError:
            pass
        file = os.open(temporary, _FLAGS | os.O_EXCL, 0o600)
        try:
            # Before the rename: nobody finds it without its lock.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_whole(file, data)
            os.rename(temporary, self._path)
        except BaseException:
            os.close(file)
            os.unlink(temporary)
            raise
        old, self._file = self._file, file
        self._size, self._is_dirty = len(data), False
        assert old is not None
        os.close(old)
        sync_directory(os.path.dirname(self._path) or ".")


def _entry(revision: int, edits: Sequence[Edit]) -> Entry:
    return Entry(
        revision,
        {edit.key: edit.value for edit in edits if isinstance(edit, Put)},
        tuple(edit.key for edit in edits if not isinstance(edit, Put)),
    )


def _is_same(status: os.stat_result, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)


def _write_new(path: str, data: bytes) -> None:
    file = os.open(path, _FLAGS | os.O_TRUNC, 0o600)
    try:
        _write_whole(file, data)
    finally:
        os.close(file)


def _write_whole(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def _hint(error: OSError) -> str:
    if error.errno == errno.EAGAIN:
        return "another process has it: is this tunnel up already?"
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, which is not followed"
    return ""
