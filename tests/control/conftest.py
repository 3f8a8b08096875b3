"""Servers on a socket directory of their own, which a test asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_socket import RecordingBackend, RunningServer
from tests.support.servers import SHORT, running


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "wireguard"
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def backend() -> RecordingBackend:
    return RecordingBackend()


@pytest.fixture
def server(backend: RecordingBackend) -> Iterator[RunningServer]:
    with running(backend) as started:
        yield started


@pytest.fixture
def strict_server(backend: RecordingBackend) -> Iterator[RunningServer]:
    with running(backend, limits=SHORT) as started:
        yield started
