"""Output that looks the same everywhere, and where `nvpn peer` is tried: no tunnel is up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.cli import clean_environment
from tests.support.peer_files import TEXTS, Place, make


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes how output looks is not of this process, either."""
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)


@pytest.fixture
def no_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path))


@pytest.fixture(params=TEXTS)
def place(tmp_path: Path, request: pytest.FixtureRequest, no_tunnel: None) -> Place:
    return make(tmp_path, request.param)


@pytest.fixture
def toml(tmp_path: Path, no_tunnel: None) -> Place:
    return make(tmp_path, "wg7.toml")
