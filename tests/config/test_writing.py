"""Files are replaced whole, together, or not at all."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from nvpn.config.writing import replace_files
from nvpn.errors import PlatformError


def test_when_one_file_cannot_be_written_none_is(tmp_path: Path) -> None:
    good, bad = tmp_path / "a", tmp_path / "missing" / "b"
    good.write_bytes(b"old")
    with pytest.raises(PlatformError, match=f"cannot write {bad}: No such file or directory"):
        replace_files({good: b"old", bad: None}, {good: b"new", bad: b"new"})
    assert good.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_stays_the_same_is_not_even_looked_at(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "a"
    replace_files({missing: b"x"}, {missing: b"x"})


def test_a_new_file_goes_when_it_is_put_back_and_an_old_one_comes(tmp_path: Path) -> None:
    new, gone = tmp_path / "new", tmp_path / "gone"
    gone.write_bytes(b"old")
    put_back = replace_files({new: None, gone: b"old"}, {new: b"\xff\0", gone: None})
    assert (new.read_bytes(), gone.exists()) == (b"\xff\0", False)
    put_back()
    assert (new.exists(), gone.read_bytes()) == (False, b"old")


def test_of_two_who_write_at_once_the_second_hears_that_it_is_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    refusals: list[PlatformError] = []

    def second() -> None:
        try:
            replace_files({path: b"old"}, {path: b"second"})
        except PlatformError as error:
            refusals.append(error)

    competitor = threading.Thread(target=second)
    make_temporary = tempfile.mkstemp

    def while_the_first_has_looked(*args: Any, **names: Any) -> Any:
        if threading.current_thread() is not competitor and not competitor.ident:
            competitor.start()
            competitor.join(0.2)  # as far as it gets
        return make_temporary(*args, **names)

    monkeypatch.setattr(tempfile, "mkstemp", while_the_first_has_looked)
    replace_files({path: b"old"}, {path: b"first"})
    competitor.join(30)

    assert path.read_bytes() == b"first"
    assert [str(error) for error in refusals] == [
        f"cannot write {path}; somebody else has changed it meanwhile; try again"
    ]


def test_whoever_keeps_a_directory_locked_keeps_nobody_from_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvpn.config.writing._LOCK_SECONDS", 0.01)
    path = tmp_path / "a"
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        replace_files({path: None}, {path: b"new"})
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"new"


def test_what_somebody_else_has_written_since_is_not_put_back(tmp_path: Path) -> None:
    changed, same = tmp_path / "changed", tmp_path / "same"
    for path in (changed, same):
        path.write_bytes(b"old")
    put_back = replace_files({changed: b"old", same: b"old"}, {changed: b"new", same: b"new"})
    changed.write_bytes(b"theirs")
    with pytest.raises(PlatformError, match=f"put {changed} back; somebody else has changed it"):
        put_back()
    assert (changed.read_bytes(), same.read_bytes()) == (b"theirs", b"old")


@pytest.mark.root
def test_a_file_keeps_its_owner_and_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    os.chown(path, 65534, 65533)
    path.chmod(0o640)
    replace_files({path: b"old"}, {path: b"new"})
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65533, 0o640)
