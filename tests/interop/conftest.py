"""Every test here has a world of namespaces of its own, and runs with each datapath."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.datapath.choice import VARIABLE, find_missing
from tests.support.world import World, new_world


@pytest.fixture(autouse=True, params=["native", "python"])
def datapath(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The datapath of every nvpn that the test starts."""
    wish = str(request.param)
    if wish == "native" and (missing := find_missing()):
        pytest.skip(f"the native datapath is not there: {missing}")
    monkeypatch.setenv(VARIABLE, wish)
    return wish


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with new_world(tmp_path) as world:
        yield world
