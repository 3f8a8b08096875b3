"""Where `nvpn peer` is tried: a file of either kind, and no tunnel that is up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.peer_files import TEXTS, Place, make


@pytest.fixture
def no_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path))


@pytest.fixture(params=TEXTS)
def place(tmp_path: Path, request: pytest.FixtureRequest, no_tunnel: None) -> Place:
    return make(tmp_path, request.param)


@pytest.fixture
def toml(tmp_path: Path, no_tunnel: None) -> Place:
    return make(tmp_path, "wg7.toml")
