"""Control servers around a backend that only records."""

from __future__ import annotations

from nvpn.backend.api import Backend
from nvpn.control.requests import Limits
from nvpn.control.server import Operation
from nvpn.model.keys import PublicKey
from tests.support.control_socket import RecordingBackend, RunningServer

NAME = "u6test"
A = PublicKey(b"\xaa" * 32)
OK = "errno=0\n\n"
SHORT = Limits(
    connections=8,
    request_bytes=200_000,
    request_seconds=0.3,
    idle_seconds=0.5,
    answer_seconds=0.5,
)


def running(
    backend: RecordingBackend,
    operations: dict[str, Operation] | None = None,
    limits: Limits | None = None,
) -> RunningServer:
    async def make() -> Backend:
        return backend

    return RunningServer(NAME, make, operations=operations, limits=limits)
