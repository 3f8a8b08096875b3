"""A control server on a thread of its own, and a client that sends any bytes it likes."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

import uvloop

from nvpn.backend.api import Backend
from nvpn.control.server import ControlServer
from nvpn.model.changes import Plan
from nvpn.model.notices import Notice
from nvpn.model.snapshot import TunnelSnapshot

T = TypeVar("T")


class RecordingBackend:
    """Takes every plan, and shows what it was told to show."""

    def __init__(self, snapshot: TunnelSnapshot | None = None) -> None:
        self.plans: list[Plan] = []
        self.shown = snapshot or TunnelSnapshot("recorded")
        self.failure: Exception | None = None

    async def apply(self, plan: Plan) -> None:
        if self.failure is not None:
            raise self.failure
        self.plans.append(plan)

    def snapshot(self) -> TunnelSnapshot:
        return self.shown

    def subscribe(self, listener: Callable[[Notice], None]) -> None:
        raise NotImplementedError("nobody listens here")

    async def close(self) -> None:
        pass


class RunningServer:
    """Runs from ``with`` to its end. ``make_backend`` is awaited on the server's loop."""

    def __init__(
        self,
        name: str,
        make_backend: Callable[[], Awaitable[Backend]],
        **server_options: Any,
    ) -> None:
        self.removed = threading.Event()
        self._name = name
        self._make_backend = make_backend
        self._options = server_options
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> RunningServer:
        self._thread.start()
        try:
            self.run(self._open())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.run(self._close())
        self._stop()

    @property
    def path(self) -> str:
        return self.server.path

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def settle(self) -> None:
        """Let the server take notice of all that was sent by now."""

        async def turns() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.run(turns())

    def connect(self, timeout: float = 10) -> Client:
        return Client(self.path, timeout)

    def ask(self, request: str | bytes) -> str:
        """One request on a connection of its own: everything that is answered."""
        with self.connect() as client:
            return client.ask(request)

    async def _open(self) -> None:
        self.backend = await self._make_backend()
        self.server = ControlServer(
            self._name, self.backend, on_removed=self.removed.set, **self._options
        )
        self.server.open()

    async def _close(self) -> None:
        await self.server.close()
        await self.backend.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


class Client:
    """A blocking connection that knows nothing of the language."""

    def __init__(self, path: str, timeout: float = 10) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: str | bytes) -> None:
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def finish(self) -> None:
        """No more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def read_answer(self) -> str:
        """Up to the blank line, or to the end of the stream: ``""`` for no answer at all."""
        answer = b""
        while not answer.endswith(b"\n\n"):
            try:
                chunk = self.socket.recv(65536)
            except ConnectionResetError:
                break
            if not chunk:
                break
            answer += chunk
        return answer.decode()

    def is_closed(self) -> bool:
        """Whether the server hangs up, waiting for it."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def ask(self, request: str | bytes) -> str:
        self.send(request)
        return self.read_answer()
