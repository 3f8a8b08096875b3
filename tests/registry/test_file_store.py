"""The store in a file: what was answered is there after any crash, and nothing else is."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.errors import PlatformError, Unavailable
from nvpn.registry.file_store import FileStore
from nvpn.registry.journal import Entry, format_entry, scan
from nvpn.registry.registry import Registry
from nvpn.registry.store import Changes, Commit, Condition, Delete, Edit, Put
from tests.support.registry import Clocks, admit_all, key_of, settings_of

_T = TypeVar("_T")


class Disk:
    """Work on the disk, counted, held up, and refused."""

    def __init__(self) -> None:
        self.works = 0
        self.is_held = asyncio.Event()
        self.is_held.set()

    async def __call__(self, call: Callable[[], _T], /) -> _T:
        self.works += 1
        await self.is_held.wait()
        return await asyncio.to_thread(call)


def with_store(path: Path, story: Callable[[FileStore], Awaitable[_T]], **more: object) -> _T:
    async def tell() -> _T:
        store = FileStore(str(path), **more)  # type: ignore[arg-type]
        await store.load()
        try:
            return await story(store)
        finally:
            await store.close()

    return asyncio.run(tell())


def content(path: Path) -> dict[str, bytes]:
    async def read() -> Changes:
        store = FileStore(str(path))
        changes = await store.load()
        await store.close()
        return changes

    return {record.key: record.value for record in asyncio.run(read()).records}


async def put(store: FileStore, key: str, value: bytes = b"{}", revision: int = 0) -> Commit:
    return await store.commit([Condition(key, revision)], [Put(key, value)])


def test_what_was_committed_is_there_again_with_its_revision(tmp_path: Path) -> None:
    path = tmp_path / "state" / "wg0.registry"

    async def first(store: FileStore) -> None:
        assert (await put(store, "a", b'{"n":1}')).changes.revision == 1
        await put(store, "b")
        await store.commit([Condition("a", 1)], [Delete("b"), Put("a", b'{"n":2}')])

    with_store(path, first)

    async def second(store: FileStore) -> None:
        assert not (await put(store, "a", b"{}", 1)).done
        commit = await put(store, "a", b"{}", 3)
        assert commit.done and commit.changes.revision == 4

    assert content(path) == {"a": b'{"n":2}'}
    with_store(path, second)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_condition_that_fails_tells_what_is_there(tmp_path: Path) -> None:
    async def story(store: FileStore) -> None:
        await put(store, "a", b'{"mine":1}')
        conditions = [Condition("a", 0), Condition("b", 0)]
        commit = await store.commit(conditions, [Put("a", b"{}"), Put("b", b"{}")])
        assert not commit.done
        assert [record.value for record in commit.changes.records] == [b'{"mine":1}']
        assert commit.changes.missing == ("b",)

    with_store(tmp_path / "r", story)


def test_commits_that_wait_for_the_disk_are_written_together_in_order(tmp_path: Path) -> None:
    async def tell() -> None:
        disk = Disk()
        store = FileStore(str(tmp_path / "r"), in_thread=disk)
        await store.load()
        told: list[Changes] = []
        store.watch(told.append)
        disk.is_held.clear()
        commits = [asyncio.ensure_future(put(store, f"k{number % 400}")) for number in range(500)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in commits)
        disk.is_held.set()
        results = await asyncio.gather(*commits)
        assert disk.works <= 3  # the load, and one or two writes
        assert [one.done for one in results] == [True] * 400 + [False] * 100
        assert [one.revision for one in told] == list(range(1, 401))
        # Each who failed hears who was there before, as of that moment.
        assert {one.changes.records[0].revision for one in results[400:]} == set(range(1, 101))
        await store.close()

    asyncio.run(tell())


def test_one_who_stops_waiting_keeps_nobody_from_anything(tmp_path: Path) -> None:
    async def story(store: FileStore) -> None:
        commits = [asyncio.ensure_future(put(store, key)) for key in "abc"]
        await asyncio.sleep(0)
        commits[1].cancel()
        assert (await commits[0]).done and (await commits[2]).done

    with_store(tmp_path / "r", story)
    assert set(content(tmp_path / "r")) == {"a", "b", "c"}


def test_close_waits_for_what_was_asked_for(tmp_path: Path) -> None:
    async def tell() -> None:
        store = FileStore(str(tmp_path / "r"))
        await store.load()
        commit = asyncio.ensure_future(put(store, "a"))
        await asyncio.sleep(0)
        await store.close()
        assert (await commit).done
        with pytest.raises(Unavailable, match="closed"):
            await put(store, "b")

    asyncio.run(tell())


# --- crashes ------------------------------------------------------------------------------


def test_who_is_next_when_it_closes_is_turned_away(tmp_path: Path) -> None:
    async def tell() -> None:
        disk, troubles = Disk(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: troubles.append(about))
        store = FileStore(str(tmp_path / "r"), in_thread=disk)
        await store.load()
        turn = asyncio.Lock()

        async def guest(number: int) -> bool:
            async with turn:
                return (await put(store, str(number))).done

        disk.is_held.clear()
        guests = [asyncio.ensure_future(guest(number)) for number in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        disk.is_held.set()
        await closing
        first, *others = await asyncio.gather(*guests, return_exceptions=True)
        assert first is True
        assert [str(one) for one in others] == [f"{tmp_path}/r is closed"] * 2
        gc.collect()
        assert troubles == []

    asyncio.run(tell())
    assert content(tmp_path / "r") == {"0": b"{}"}


def test_a_close_that_nobody_waits_for_gives_the_file_free_all_the_same(tmp_path: Path) -> None:
    async def tell() -> None:
        disk = Disk()
        store = FileStore(str(tmp_path / "r"), in_thread=disk)
        await store.load()
        disk.is_held.clear()
        writing = asyncio.ensure_future(put(store, "a"))
        await asyncio.sleep(0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(store.close(), 0.01)
        disk.is_held.set()
        assert (await writing).done
        again = FileStore(str(tmp_path / "r"))
        assert [record.key for record in (await again.load()).records] == ["a"]
        await again.close()

    asyncio.run(tell())


def some_history(path: Path) -> list[dict[str, bytes]]:
    """Write a few commits, and say what each state was."""
    states: list[dict[str, bytes]] = [{}]

    async def story(store: FileStore) -> None:
        edits: list[list[Edit]] = [
            [Put("client/a", b'{"name":"x"}'), Put("name/x", b"{}")],
            [Put("lease/10.8.0.2", b'{"client":"a"}')],
            [Delete("lease/10.8.0.2"), Put("client/a", b'{"name":"y"}')],
            [Put("lease/10.8.0.2", b'{"client":"b"}'), Delete("name/x")],
        ]
        for each in edits:
            await store.commit((), each)
            state = dict(states[-1])
            for edit in each:
                state.pop(edit.key, None)
                if isinstance(edit, Put):
                    state[edit.key] = edit.value
            states.append(state)

    with_store(path, story)
    return states


def test_cut_at_any_byte_the_file_holds_the_commits_before_it(tmp_path: Path) -> None:
    path = tmp_path / "r"
    states = some_history(path)
    data = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == 0x0A]
    for size in range(len(data) + 1):
        whole = sum(1 for end in ends if end <= size)
        found = scan(data[:size])
        assert (len(found.entries), found.end, found.damaged) == (whole, [0, *ends][whole], 0)
        if size % 11 == 0 or {size - 1, size, size + 1} & set(ends):
            path.write_bytes(data[:size])
            assert content(path) == states[whole], size
    assert not (tmp_path / "r.broken").exists()


def test_after_a_cut_new_commits_follow_the_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "r"
    states = some_history(path)
    data = path.read_bytes()
    path.write_bytes(data[:-5] + b"\n0000")
    with_store(path, lambda store: put(store, "new"))
    assert content(path) == {**states[3], "new": b"{}"}
    assert path.read_bytes().startswith(data[: data.rindex(b"\n", 0, -1) + 1])


def test_a_line_that_rotted_costs_itself_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r"
    states = some_history(path)
    data = path.read_bytes()
    at = data.index(b"10.8.0.2")
    rotten = data[:at] + b"X" + data[at + 1 :]
    path.write_bytes(rotten)
    assert content(path) == states[4]
    assert "damaged in 1 places" in caplog.text
    assert (tmp_path / "r.broken").read_bytes() == rotten
    caplog.clear()
    assert content(path) == states[4]
    assert not caplog.records


@given(junk=st.binary(max_size=200), at=st.integers(0, 400), replaced=st.integers(0, 60))
def test_whatever_is_in_a_file_reading_it_ends(junk: bytes, at: int, replaced: int) -> None:
    entries = [Entry(one, {f"k{one}": b'{"x":"\\n"}'}, ("old",)) for one in range(1, 6)]
    data = b"".join(map(format_entry, entries))
    spoilt = data[:at] + junk + data[at + replaced :]
    found = scan(spoilt)
    assert all(one in entries for one in found.entries)
    assert found.end <= len(spoilt)
    if at >= len(data):
        assert found.entries == tuple(entries)


WRITER = """
import asyncio, sys
from nvpn.registry.file_store import FileStore
from nvpn.registry.store import Condition, Put

async def main():
    store = FileStore(sys.argv[1], compact_at=20_000)
    await store.load()
    for number in range(1_000_000):
        key = f"k{number % 20}"
        await store.commit((), [Put(key, b'{"n":%d}' % number)])
        print(number, flush=True)

asyncio.run(main())
"""


def test_what_a_killed_process_answered_is_there(tmp_path: Path) -> None:
    path = tmp_path / "r"
    script = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as writer:
        assert writer.stdout is not None
        answered = -1
        for line in writer.stdout:
            answered = int(line)
            if answered >= 700:  # it was written anew by then, more than once
                writer.send_signal(signal.SIGKILL)
                break
        for line in writer.stdout:
            answered = int(line)
    values = [int(value[5:-1]) for value in content(path).values()]
    assert len(values) == 20
    assert max(values) in (answered, answered + 1)
    assert sorted(values) == list(range(max(values) - 19, max(values) + 1))
    assert path.stat().st_size < 40_000


# --- a disk that does not want -----------------------------------------------------------------


def test_a_full_disk_gives_nothing_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r"
    write = os.pwrite

    def half(file: int, data: bytes, at: int) -> int:
        if at and at > start:
            raise OSError(errno.ENOSPC, "full")
        return write(file, bytes(data)[:7], at)

    start = 0

    async def story(store: FileStore) -> None:
        nonlocal start
        await put(store, "a")
        start = path.stat().st_size
        monkeypatch.setattr(os, "pwrite", half)
        told: list[Changes] = []
        store.watch(told.append)
        with pytest.raises(Unavailable, match="No space left on device"):
            await put(store, "b")
        assert told == []
        assert not (await store.commit([Condition("a", 9)], [Delete("a")])).done
        monkeypatch.undo()
        commit = await put(store, "c")
        assert commit.changes.revision == 2

    with_store(path, story)
    assert set(content(path)) == {"a", "c"}


def test_a_sync_that_fails_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, "broken")

    async def story(store: FileStore) -> None:
        await put(store, "a")
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", fail)
            with pytest.raises(Unavailable):
                await put(store, "b")
        assert (await put(store, "b", b'{"again":1}')).done

    with_store(tmp_path / "r", story)
    assert content(tmp_path / "r") == {"a": b"{}", "b": b'{"again":1}'}


def test_a_file_belongs_to_one_process(tmp_path: Path) -> None:
    path = tmp_path / "r"

    async def story(store: FileStore) -> None:
        await put(store, "a")
        with pytest.raises(PlatformError, match="is this tunnel up already"):
            await FileStore(str(path)).load()

    with_store(path, story)
    assert content(path) == {"a": b"{}"}


def test_it_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "r").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlatformError, match="symbolic link"):
        content(tmp_path / "r")
    assert not (tmp_path / "elsewhere").exists()


# --- history ----------------------------------------------------------------------------------


def test_history_is_left_behind_and_revisions_are_not(tmp_path: Path) -> None:
    path = tmp_path / "r"

    async def story(store: FileStore) -> None:
        revision = 0
        await put(store, "still", b'{"here":1}')
        for number in range(300):
            commit = await put(store, "k", b'{"n":%d}' % number, revision)
            assert commit.done
            revision = commit.changes.revision
        # Its lock moved with it.
        with pytest.raises(PlatformError):
            await FileStore(str(path)).load()
        await store.commit([Condition("k", revision)], [Delete("k")])

    with_store(path, story, compact_at=2000)
    assert path.stat().st_size < 4000
    assert not (tmp_path / "r.new").exists()

    async def again(store: FileStore) -> None:
        assert (await put(store, "still", b"{}", 1)).changes.revision == 303

    with_store(path, again)


def test_a_file_that_cannot_be_written_anew_goes_on_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r"

    def fail(*paths: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    async def story(store: FileStore) -> None:
        monkeypatch.setattr(os, "rename", fail)
        for number in range(100):
            await store.commit((), [Put("k", b'{"n":%d}' % number)])

    with_store(path, story, compact_at=1000)
    assert content(path) == {"k": b'{"n":99}'}
    assert 1 <= len(caplog.records) <= 4
    assert not (tmp_path / "r.new").exists()


# --- all together --------------------------------------------------------------------------


def test_five_hundred_clients_at_once_are_leased_with_few_syncs(tmp_path: Path) -> None:
    async def tell() -> None:
        disk = Disk()
        store = FileStore(str(tmp_path / "r"), in_thread=disk)
        registry = Registry(
            store,
            settings_of("10.8.0.0/22", "fd42::/64"),
            file_peers={},
            clocks=Clocks(),
            random=os.urandom,
            on_change=lambda change: None,
        )
        await registry.open()
        clients = [key_of(number) for number in range(500)]
        await admit_all(store, clients)
        before = disk.works
        leases = await asyncio.gather(*map(registry.lease, clients))
        assert len({one.addresses[0] for one in leases}) == 500
        assert disk.works - before <= 5
        await registry.close()

    asyncio.run(tell())
