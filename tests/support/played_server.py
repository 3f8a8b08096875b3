"""A running server as the command line sees it: its operations, with answers from a test."""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from nvpn.daemon.server.operations import OPERATIONS
from nvpn.errors import ControlError, NvpnError
from nvpn.model.snapshot import TunnelSnapshot
from tests.support.control_socket import RecordingBackend, RunningServer


class PlayedServer:
    """``answers`` by operation: a value for JSON, or what is raised. ``asked`` is what came."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers: dict[str, dict[str, Any] | NvpnError] = {
            "nvpn_invitations": {"invitations": []}
        }
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []

    def operations(self) -> dict[str, Callable[[Sequence[str]], Awaitable[Sequence[str]]]]:
        return {name: self._operation(name) for name in OPERATIONS}

    def asked_for(self, operation: str) -> list[tuple[str, str]]:
        """What came with the only such request."""
        (lines,) = (lines for name, lines in self.asked if name == operation)
        return lines

    def _operation(self, name: str) -> Callable[[Sequence[str]], Awaitable[Sequence[str]]]:
        async def operate(lines: Sequence[str]) -> Sequence[str]:
            split = [line.partition("=") for line in lines]
            self.asked.append((name, [(key, unquote(value)) for key, _, value in split]))
            answer = self.answers.get(
                name, ControlError(errno.EOPNOTSUPP, f"{self.name} is no server")
            )
            if isinstance(answer, NvpnError):
                raise answer
            return [json.dumps(answer)]

        return operate


@contextmanager
def played_server(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str = "srv"
) -> Iterator[PlayedServer]:
    """Runs until the end of the ``with``, beside others in the same directory."""
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(directory))
    server = PlayedServer(name)

    async def backend() -> RecordingBackend:
        return RecordingBackend(TunnelSnapshot(name, listen_port=51820))

    with RunningServer(name, backend, operations=server.operations()):
        yield server
