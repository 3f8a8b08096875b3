"""Files are replaced whole, together, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

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


@pytest.mark.root
def test_a_file_keeps_its_owner_and_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    os.chown(path, 65534, 65533)
    path.chmod(0o640)
    replace_files({path: b"old"}, {path: b"new"})
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65533, 0o640)
