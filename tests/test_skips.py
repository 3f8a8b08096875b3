"""What the root's ``conftest.py`` makes of tests that skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.skip(reason="needs a tool")
def test_marked(): ...

@pytest.fixture
def a_peer(): pytest.skip("the peer is not there")

def test_in_a_fixture(a_peer): ...

def test_inside(): pytest.skip("not today")

def test_by_nature(): pytest.skip("no user namespaces here")

@pytest.mark.xfail
def test_known(): assert False
"""
MODULE = """
import pytest
pytest.skip("not on Sundays", allow_module_level=True)
"""


def run(directory: Path, **variables: str) -> str:
    for name, text in (("test_some.py", TESTS), ("test_module.py", MODULE)):
        (directory / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "--continue-on-collection-errors",
         *("-p", "conftest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", directory),
         directory],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    return done.stdout


def test_where_nothing_may_skip_only_the_nature_of_the_machine_is_a_reason(
    tmp_path: Path,
) -> None:
    said = run(tmp_path, NVPN_TESTS_MAY_NOT_SKIP="1")
    for place, reason in (
        ("test_some.py::test_marked", "needs a tool"),
        ("test_some.py::test_in_a_fixture", "the peer is not there"),
        ("test_some.py::test_inside", "not today"),
        ("test_module.py", "not on Sundays"),
    ):
        assert f"{place} may not skip here: {reason}\n" in said
    assert said.splitlines()[-1].startswith("1 failed, 1 skipped, 1 xfailed, 3 errors in ")


def test_elsewhere_every_reason_is_good(tmp_path: Path) -> None:
    assert run(tmp_path).splitlines()[-1].startswith("5 skipped, 1 xfailed in ")
