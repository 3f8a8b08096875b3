"""Serves the numbers of a tunnel to whoever scrapes them.

Nobody who connects here may end the tunnel, or keep packets waiting: one answer is made at a
time, and each in pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from nvpn.config.model import HostPort, MetricsConfig
from nvpn.control.accepting import Acceptor
from nvpn.daemon.metrics.exposition import Format, Metric, expose
from nvpn.daemon.metrics.http import (
    BROKEN,
    END_OF_HEAD,
    MAX_HEAD,
    TOO_LONG,
    TOO_SLOW,
    Refusal,
    Scrape,
    format_head,
    format_refusal,
    parse_request,
)
from nvpn.errors import PlatformError
from nvpn.resilience.within import within

_log: Final = logging.getLogger(__name__)

CONNECTIONS: Final = 32
REQUEST_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
FRESH_SECONDS: Final = 1.0
"""For so long an answer is good for others, too."""

_CHUNK: Final = 1 << 16

Collect = Callable[[], Awaitable[Iterable[Metric]]]
"""All metrics as they are now, by turns with packets."""


class MetricsServer:
    """Serves from :meth:`start` to :meth:`close`, where the configuration says, if it does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, collect: Collect) -> None:
        self._loop = loop
        self._collect = collect
        self._config: MetricsConfig | None = None
        self._listener: socket.socket | None = None
        self._acceptor: Acceptor | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Those that have not sent a whole request yet, who came first first.
        self._asking: dict[socket.socket, asyncio.Task[None]] = {}
        self._rendering = asyncio.Lock()
        self._fresh: dict[Format, list[bytes]] = {}

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it serves; None while it does not."""
        return None if self._listener is None else self._listener.getsockname()[:2]

    def start(self, config: MetricsConfig | None) -> None:
        """Serve there; None: nowhere.

        Raises:
            PlatformError: the port is taken, the address is not ours, …
        """
        if config is not None:
            self._serve_on(_listen(config))
        self._config = config

    def change(self, config: MetricsConfig | None) -> list[str]:
        """Serve there from now on. Sentences of warning; then all is as before."""
        if config == self._config:
            return []
        before = self._config
        # One of ours, on 0.0.0.0 for instance, would be in the way of the other at its port.
        if before is not None and config is not None and before.port == config.port:
            self._stop_listening()
        try:
            listener = None if config is None else _listen(config)
        except PlatformError as error:
            if before is not None and self._listener is None:
                with contextlib.suppress(PlatformError):
                    self._serve_on(_listen(before))
            return [str(error)]
        self._stop_listening()
        if listener is not None:
            self._serve_on(listener)
        self._config = config
        return []

    async def close(self) -> None:
        """At once, whoever is being answered."""
        self._stop_listening()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- connections ------------------------------------------------------------------

    def _serve_on(self, listener: socket.socket) -> None:
        self._listener = listener
        self._acceptor = Acceptor(self._loop, listener, self._take, _note_failure)

    def _stop_listening(self) -> None:
        if self._acceptor is not None:
            self._acceptor.stop()
            self._acceptor = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _take(self, connection: socket.socket) -> None:
        if len(self._tasks) >= CONNECTIONS:
            if not self._asking:
                connection.close()
                return
            # Who connects and does not ask keeps nobody out.
            self._asking.pop(next(iter(self._asking))).cancel()
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        self._asking[connection] = task
        task.add_done_callback(functools.partial(self._ended, connection))

    def _ended(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        # Closed here and not in the task: one that is cancelled before its first step
        # never runs.
        connection.close()
        self._tasks.discard(task)
        self._asking.pop(connection, None)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            request = await self._read(connection)
            self._asking.pop(connection, None)
            pieces = (
                [format_refusal(request)]
                if isinstance(request, Refusal)
                else await self._answer(request)
            )
            await within(ANSWER_SECONDS, self._send(connection, pieces))
        except (OSError, asyncio.TimeoutError):
            pass  # it hung up, or reads too slowly
        except Exception:
            _log.exception("internal error in a scrape")

    async def _read(self, connection: socket.socket) -> Scrape | Refusal:
        try:
            return await within(REQUEST_SECONDS, self._read_head(connection))
        except asyncio.TimeoutError:
            return TOO_SLOW

    async def _read_head(self, connection: socket.socket) -> Scrape | Refusal:
        """Raises OSError: it hung up."""
        head = b""
        while END_OF_HEAD not in head:
            if len(head) > MAX_HEAD:
                return TOO_LONG
            chunk = await self._loop.sock_recv(connection, MAX_HEAD)
            if not chunk:
                raise ConnectionAbortedError
            head += chunk
        return parse_request(head.partition(END_OF_HEAD)[0])

    async def _answer(self, request: Scrape) -> list[bytes]:
        try:
            # One at a time, so that many who ask cost no more than one.
            async with self._rendering:
                body = self._fresh.get(request.form) or await self._render(request.form)
        except Exception:
            _log.exception("internal error in a scrape")
            return [format_refusal(BROKEN)]
        head = format_head("200 OK", request.form.value, sum(map(len, body)))
        return [head, *body] if request.has_body else [head]

    async def _render(self, form: Format) -> list[bytes]:
        body = []
        for piece in expose(await self._collect(), form):
            body.append(piece.encode(errors="replace"))
            await asyncio.sleep(0)  # let packets through meanwhile
        # Those who ask all the time, and do not read, share it.
        self._fresh[form] = body
        self._loop.call_later(FRESH_SECONDS, self._fresh.pop, form, None)
        return body

    async def _send(self, connection: socket.socket, pieces: list[bytes]) -> None:
        for piece in pieces:
            await self._loop.sock_sendall(connection, piece)
            await asyncio.sleep(0)
        connection.shutdown(socket.SHUT_WR)
        # What is unread when we close would take back what we sent.
        while await self._loop.sock_recv(connection, _CHUNK):
            pass


def _note_failure(error: OSError) -> None:
    _log.debug("cannot accept a scrape: %s", error.strerror)


def _listen(config: MetricsConfig) -> socket.socket:
    """Raises PlatformError."""
    where = HostPort(config.host, config.port)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    is_any = family == socket.AF_INET6 and ipaddress.ip_address(config.host).is_unspecified
    try:
        listener = socket.create_server(
            (config.host, config.port),
            family=family,
            backlog=CONNECTIONS,
            dualstack_ipv6=is_any and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise PlatformError(
            f"serve metrics on {where}",
            errno=error.errno or 0,
            hint="give [metrics] another listen",
        ) from None
    listener.setblocking(False)
    return listener
