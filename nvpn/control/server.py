"""The control socket of a running tunnel, as `wg` and every other tool expect it.

One task a connection. ``get`` and ``set`` go to the backend; further operations of the
daemon's own (``nvpn_reload=1``) come from a registry, and so do streams, whose answers go on
until somebody ends them. The sign of ``errno`` is what `wg`
makes sense of: positive after ``get``, negative after everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

from nvpn.backend.api import Backend
from nvpn.control.accepting import Acceptor
from nvpn.control.claim import BACKLOG, listen
from nvpn.control.paths import socket_path
from nvpn.control.removal import RemovalWatch
from nvpn.control.requests import BadRequest, Limits, Request, RequestReader, UnknownOperation
from nvpn.control.streams import Stream, send_stream
from nvpn.control.uapi import SetParser, iter_get
from nvpn.errors import ControlError, NvpnError, PlatformError
from nvpn.model.changes import Plan, SetPresharedKey, SetPrivateKey

Operation = Callable[[Sequence[str]], Awaitable[Sequence[str]]]
"""One of the daemon's own: lines of the request in, messages for people out.

Raises NvpnError to refuse; its sentences reach the client as messages.
"""

_log: Final = logging.getLogger(__name__)
_CREDENTIALS: Final = struct.Struct("3i")
_LINES_A_TURN: Final = 512
_TRIES: Final = 3
_LAST_WORDS_SECONDS: Final = 1.0
_OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class ControlServer:
    """Serves one interface's socket from :meth:`open` to :meth:`close`.

    Args:
        name: the interface's; the socket is at :func:`nvpn.control.paths.socket_path`.
        operations: the daemon's own, by name, without ``=1``.
        streams: those whose answer goes on; the last ones of their connection.
        on_removed: called once when somebody removed the socket: other daemons end then.
        spare: what of a ``set`` is to be done; all of it unless told otherwise.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        operations: Mapping[str, Operation] | None = None,
        streams: Mapping[str, Stream] | None = None,
        on_removed: Callable[[], None] | None = None,
        spare: Callable[[Plan], Plan] = lambda plan: plan,
        limits: Limits | None = None,
    ) -> None:
        self._name = name
        self._path = socket_path(name)
        self._backend = backend
        self._operations = dict(operations or {})
        self._streams = dict(streams or {})
        self._names = frozenset(("get", "set", *self._operations, *self._streams))
        self._on_removed = on_removed
        self._spare = spare
        self._limits = limits or Limits()
        self._listener: socket.socket | None = None
        self._watch: RemovalWatch | None = None
        self._acceptor: Acceptor | None = None
        # Oldest first: who is to go when there is no room.
        self._tasks: dict[asyncio.Task[None], RequestReader] = {}
        # Those that have done what they were asked, and are telling so.
        self._telling: set[asyncio.Task[None]] = set()
        self._streaming = 0
        self._is_closing = False

    @property
    def path(self) -> str:
        """Where the socket is."""
        return self._path

    def open(self, listener: socket.socket | None = None) -> None:
        """Take the path and listen. Call it on the event loop.

        Args:
            listener: listens already, at a path of its own choice; ours to close.

        Raises:
            PlatformError: the interface is running already, or the path cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        if listener is None:
            self._listener, self._watch = self._listen()
        else:
            listener.setblocking(False)
            # Once more, so that clients see who answers them, not who opened it for us.
            listener.listen(BACKLOG)
            self._listener, self._path = listener, listener.getsockname()
            self._watch = self._watch_over(listener)
        self._acceptor = Acceptor(self._loop, self._listener, self._take, _note_failure)

    def _listen(self) -> tuple[socket.socket, RemovalWatch]:
        # `wg` removes every socket that refuses, one too that is about to listen.
        for _ in range(_TRIES - 1):
            listener = listen(self._name, self._path)
            if os.path.lexists(self._path):
                return listener, self._watch_over(listener)
            listener.close()
        listener = listen(self._name, self._path)
        return listener, self._watch_over(listener)

    def _watch_over(self, listener: socket.socket) -> RemovalWatch:
        """Raises PlatformError, and closes the listener then."""
        try:
            return RemovalWatch(self._loop, self._path, self._removed)
        except OSError as error:
            listener.close()
            raise PlatformError(f"watch {self._path}", errno=error.errno or 0) from None

    async def close(self) -> None:
        """Remove the socket, if it is still ours, and end every connection.

        Whoever is being answered gets a moment for the rest: an operation may be what
        ends us, and its client waits to hear that it worked.
        """
        self._is_closing = True
        if self._listener is not None:
            if self._acceptor is not None:
                self._acceptor.stop()
            if self._watch is not None and self._watch.is_intact:
                try:
                    os.unlink(self._path)
                except OSError as error:
                    _log.warning("cannot remove %s: %s", self._path, error.strerror)
            if self._watch is not None:
                self._watch.close()
            self._listener.close()
            self._listener = None
        # An operation may be what closes us: it ends by itself.
        tasks = self._tasks.keys() - {asyncio.current_task()}
        telling = tasks & self._telling
        for task in tasks - telling:
            task.cancel()
        if telling:
            await asyncio.wait(telling, timeout=_LAST_WORDS_SECONDS)
        for task in telling:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _removed(self) -> None:
        _log.info("%s was removed", self._path)
        if self._on_removed is not None:
            self._on_removed()

    # --- connections ------------------------------------------------------------------

    def _take(self, connection: socket.socket) -> None:
        if not _is_allowed(connection) or not self._make_room():
            connection.close()
            return
        reader = RequestReader(connection, self._names, self._limits)
        task = self._loop.create_task(self._serve(connection, reader))
        self._tasks[task] = reader
        task.add_done_callback(functools.partial(self._ended, connection))

    def _make_room(self) -> bool:
        """Whether one more connection may be served: one that asks nothing has to go for it."""
        if len(self._tasks) < self._limits.connections:
            return True
        for task, reader in self._tasks.items():
            if reader.is_idle:
                del self._tasks[task]
                task.cancel()
                return True
        return False

    def _ended(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        # Closed here and not in the task: one that is cancelled before its first step
        # never runs.
        connection.close()
        self._tasks.pop(task, None)

    async def _serve(self, connection: socket.socket, reader: RequestReader) -> None:
        try:
            while (request := await reader.next()) is not None:
                try:
                    await self._answer(connection, request)
                finally:
                    request.wipe()
                if self._is_closing or request.operation in self._streams:
                    return
        except BadRequest as refusal:
            await self._refuse(connection, refusal)
        except (UnknownOperation, OSError, TimeoutError):
            pass  # it gets no answer
        finally:
            reader.wipe()

    async def _answer(self, connection: socket.socket, request: Request) -> None:
        answer = _Answer(connection, self._limits.answer_seconds)
        number = 0
        try:
            if request.operation == "get":
                await self._get(answer)
            elif request.operation == "set":
                await self._set(request)
            elif request.operation in self._streams:
                if not await self._stream(connection, request):
                    return
            else:
                await self._operate(request, answer)
        except NvpnError as error:
            number = getattr(error, "errno", 0) or errno.EINVAL
            _log.info("refused %s: %s", request.operation, error)
            if request.operation not in ("get", "set"):
                await answer.say(str(error).splitlines())
        except (OSError, TimeoutError):
            raise  # the client went away, or reads too slowly
        except Exception:
            _log.exception("internal error in %s", request.operation)
            number = errno.EIO
        with self._while_telling():
            await answer.finish(request.operation, number)

    async def _get(self, answer: _Answer) -> None:
        for piece in iter_get(self._backend.snapshot()):
            await answer.send(piece)

    async def _set(self, request: Request) -> None:
        parser = SetParser()
        for count, line in enumerate(request.lines(), 1):
            parser.feed(line)
            if count % _LINES_A_TURN == 0:
                await asyncio.sleep(0)  # let packets through meanwhile
        plan = parser.plan()
        try:
            await self._backend.apply(self._spare(plan))
        finally:
            _wipe(plan)

    async def _operate(self, request: Request, answer: _Answer) -> None:
        messages = await self._operations[request.operation](list(request.lines()))
        with self._while_telling():
            await answer.say(messages)

    async def _stream(self, connection: socket.socket, request: Request) -> bool:
        """Whether it came to its end, and the client is still there to hear of it."""
        # Streams may last for ever: others are to find room beside them.
        if self._streaming >= self._limits.streams:
            sentence = f"{self._streaming} others follow {self._name} already"
            raise ControlError(errno.EBUSY, sentence)
        telling = self._streams[request.operation](list(request.lines()))
        self._streaming += 1
        try:
            return await send_stream(connection, telling)
        finally:
            self._streaming -= 1

    @contextlib.contextmanager
    def _while_telling(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._telling.add(task)
        try:
            yield
        finally:
            self._telling.discard(task)

    async def _refuse(self, connection: socket.socket, refusal: BadRequest) -> None:
        answer = _Answer(connection, self._limits.answer_seconds)
        try:
            await answer.finish(refusal.operation, refusal.errno)
        except (OSError, TimeoutError):
            pass  # it did not wait for the answer


class _Answer:
    """The outgoing half of one exchange: bounded in time, and never ahead of the client."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._seconds = seconds
        self._deadline: float | None = None

    async def send(self, piece: bytearray | memoryview) -> None:
        """Send a piece, then zero it. Raises TimeoutError, OSError."""
        # The time begins with the answer, not with the work that it took.
        now = self._loop.time()
        self._deadline = self._deadline or now + self._seconds
        if now >= self._deadline:
            raise TimeoutError
        try:
            await asyncio.wait_for(
                self._loop.sock_sendall(self._connection, piece), self._deadline - now
            )
        except asyncio.TimeoutError:
            raise TimeoutError from None
        finally:
            piece[:] = bytes(len(piece))
        await asyncio.sleep(0)  # let packets through meanwhile

    async def say(self, messages: Sequence[str]) -> None:
        """Send messages for people, one a line."""
        lines = (line for message in messages for line in message.splitlines())
        text = "".join(f"nvpn_message={line}\n" for line in lines)
        if text:
            await self.send(bytearray(text.encode()))

    async def finish(self, operation: str, number: int) -> None:
        """Send the result: 0 or a positive errno."""
        signed = number if operation == "get" else -number
        await self.send(bytearray(f"errno={signed}\n\n".encode()))


def _wipe(plan: Plan) -> None:
    """Zero the keys of a plan that was ours; a backend keeps copies of what it took."""
    for change in plan:
        if isinstance(change, SetPrivateKey | SetPresharedKey) and change.key is not None:
            change.key.wipe()


def _note_failure(error: OSError) -> None:
    if error.errno not in _OUT_OF_RESOURCES:
        _log.error("cannot accept control connections: %s", error.strerror)


def _is_allowed(connection: socket.socket) -> bool:
    """Whether the client is root or our own user; the socket's mode says the same."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return uid in (0, os.geteuid())
