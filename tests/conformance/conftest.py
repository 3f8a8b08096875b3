"""Every test here that asks for a rig gets one of each setup, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.datapaths import SETUPS, Rig


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig(request.param) as made:
        yield made
