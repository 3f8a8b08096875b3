"""Every test here gets a world of namespaces of its own, and most run with both datapaths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.datapath.choice import VARIABLE, Wish, find_missing
from tests.support.world import World, new_world

MISSING = find_missing()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked ``datapaths`` with each of them, the rest with the one for users."""
    if "datapath" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("datapaths")
    usual = Wish.PYTHON if MISSING else Wish.NATIVE
    wishes = [usual] if marker is None else [Wish.NATIVE, Wish.PYTHON]
    metafunc.parametrize("datapath", wishes, ids=[wish.value for wish in wishes], indirect=True)


@pytest.fixture(autouse=True)
def datapath(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Wish:
    """The datapath of every nvpn that the test starts."""
    wish: Wish = request.param
    if wish is Wish.NATIVE and MISSING:
        pytest.skip(f"the native datapath is not there: {MISSING}")
    monkeypatch.setenv(VARIABLE, wish.value)
    return wish


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with new_world(tmp_path) as world:
        yield world
