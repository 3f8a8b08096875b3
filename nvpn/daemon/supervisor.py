"""One tunnel's life in this process: start, signals, reloads, the end.

Whatever ends it (a signal in the middle of the start, a failure, a bug) takes the same
way out: background tasks are cancelled, and what was made is undone in reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from nvpn.config.load import load
from nvpn.config.model import TunnelConfig
from nvpn.control.server import Operation
from nvpn.daemon.background import Reporter
from nvpn.daemon.handed import Handed
from nvpn.daemon.session import Session
from nvpn.daemon.surroundings import Surroundings
from nvpn.daemon.threads import run_in_thread
from nvpn.errors import ControlError, NvpnError

_log: Final = logging.getLogger(__name__)

CANCEL_AGAIN_SECONDS: Final = 5.0
"""After which a task that was cancelled and goes on is cancelled again. Before Python 3.12
asyncio.wait_for loses a cancellation that comes together with what it waits for."""


class Supervisor:
    """Runs one tunnel until it is told to stop, or its interface or socket is removed.

    Args:
        name: the interface's.
        config: what to set up; None for a bare device that others configure.
        reporter: told of warnings, and when the tunnel is ready.
        handed: descriptors to use instead of opening our own.
        take_over: an interface of the kernel's that is there already.
    """

    def __init__(
        self,
        name: str,
        config: TunnelConfig | None,
        *,
        loop: asyncio.AbstractEventLoop,
        reporter: Reporter,
        handed: Handed,
        take_over: bool,
    ) -> None:
        self._name = name
        self._config = config
        self._loop = loop
        self._reporter = reporter
        self._handed = handed
        self._take_over = take_over
        self._ending: asyncio.Future[int] = loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        # Others' tasks, in the middle of what they were asked for.
        self._asked: set[asyncio.Task[Any]] = set()
        self._undo = contextlib.AsyncExitStack()
        self._session: Session | None = None
        self._is_stopping = False
        # One change at a time: a reload, a save, the way to the end.
        self._changing = asyncio.Lock()

    async def run(self) -> int:
        """Start, serve, stop; the exit status.

        Raises:
            NvpnError: it could not be started; everything is as it was.
        """
        self._loop.set_exception_handler(self._panic_about)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(
                number, self._stop_by_signal, signal.Signals(number).name
            )
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        starting = self._loop.create_task(self._start())
        try:
            waiting: set[asyncio.Future[Any]] = {starting, self._ending}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await self._ending
        finally:
            await _cancel(lambda: {starting})
            await asyncio.gather(starting, return_exceptions=True)
            await self._stop()
        return self._ending.result()

    async def _start(self) -> None:
        around = Surroundings(self._loop, self._spawn, self._end, self._warn, self._show)
        session = Session(
            self._name,
            self._config,
            around,
            self._undo,
            handed=self._handed,
            take_over=self._take_over,
        )
        if self._config is not None:
            await session.configure()
        session.open_control(
            {
                "nvpn_reload": self._while_asked(self._reload),
                "nvpn_save": self._while_asked(self._save),
                "nvpn_stop": self._while_asked(self._stop_when_asked),
            }
        )
        if self._config is not None:
            await session.configure_host()
        gc.collect()
        gc.freeze()  # what is there stays: no collection has to look at it again
        gc.enable()
        self._session = session
        _log.info("ready: %s", session.describe())
        self._reporter.ready()

    # --- reload and save ----------------------------------------------------------------

    def _hang_up(self) -> None:
        if self._session is not None and self._session.config is not None:
            self._spawn(self._reload_and_log())

    async def _reload_and_log(self) -> None:
        try:
            for sentence in await self._reload(()):
                _log.warning("%s", sentence)
        except NvpnError as error:
            for line in str(error).splitlines():
                _log.error("not reloaded: %s", line)

    async def _reload(self, lines: Sequence[str]) -> list[str]:
        """Read the file again and apply what changed, or nothing. Returns warnings.

        Raises:
            NvpnError: the file has mistakes, or the host refused; all is as before.
        """
        self._expect_going_on()
        async with self._changing:
            self._expect_going_on()
            session, config = self._of_file("change it with: nvpn set")
            path = config.path
            self._reporter.reloading()
            try:
                new = await run_in_thread(lambda: load(path), name="reload")
                return await session.change(new)
            finally:
                if not self._is_stopping and not self._ending.done():
                    self._reporter.ready()

    async def _save(self, lines: Sequence[str]) -> list[str]:
        """Write the running state into the file. Returns warnings. Raises NvpnError."""
        session, _ = self._of_file("print its settings with: nvpn showconf")
        if self._is_stopping:
            # A PreDown hook may ask for it: the way to the end waits for the hook then.
            return await session.save()
        async with self._changing:
            return await session.save()

    def _expect_going_on(self) -> None:
        if self._is_stopping:
            raise ControlError(errno.EAGAIN, f"{self._name} is going down")

    def _of_file(self, instead: str) -> tuple[Session, TunnelConfig]:
        """The session and its configuration, now that it is to be changed.

        Raises:
            ControlError: it is not ready yet, or was not started from a file.
        """
        session = self._session
        if session is None:
            raise ControlError(errno.EAGAIN, f"{self._name} is still starting; try again")
        if session.config is None:
            raise ControlError(
                errno.EINVAL,
                f"{self._name} was not started from a file; {instead} {self._name}, or start"
                " it with: nvpn up FILE",
            )
        return session, session.config

    # --- the end ------------------------------------------------------------------------

    def _stop_by_signal(self, name: str) -> None:
        """The first signal lets the tunnel prepare for its end; the second does not."""
        if self._session is None or self._is_stopping:
            self._end(0, name)
        else:
            self._spawn(self._prepare_and_end(name))

    async def _prepare_and_end(self, why: str) -> None:
        for sentence in await self._prepare_stop():
            _log.warning("%s", sentence)
        self._end(0, why)

    async def _stop_when_asked(self, lines: Sequence[str]) -> list[str]:
        """Prepare the end, then end, in that order. Returns warnings.

        The answer still leaves: whoever closes the control socket waits for it.
        """
        sentences = await self._prepare_stop()
        self._end(0, "asked to")
        return sentences

    async def _prepare_stop(self) -> list[str]:
        self._note_stopping()
        async with self._changing:
            if self._session is None:
                return []
            try:
                return await self._session.prepare_stop()
            except NvpnError as error:
                return [str(error)]

    def _note_stopping(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._reporter.stopping()

    def _end(self, status: int, why: str) -> None:
        if not self._ending.done():
            _log.log(logging.CRITICAL if status else logging.INFO, "stopping: %s", why)
            self._ending.set_result(status)
            self._note_stopping()

    async def _stop(self) -> None:
        """Undo the start, in reverse. Nothing in here may wait for the network."""
        await self._cancel_tasks()
        try:
            await self._undo.aclose()
        finally:
            await self._cancel_tasks()  # the end may have begun some

    async def _cancel_tasks(self) -> None:
        # Nobody else's either may go on with what is about to be taken away.
        await _cancel(lambda: self._tasks | self._asked)

    def _while_asked(self, operation: Operation) -> Operation:
        async def operate(lines: Sequence[str]) -> Sequence[str]:
            task = asyncio.current_task()
            assert task is not None
            self._asked.add(task)
            try:
                return await operation(lines)
            finally:
                self._asked.discard(task)

        return operate

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._panic(error)

    def _panic_about(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._panic(context.get("exception") or RuntimeError(context.get("message", "")))

    def _panic(self, error: BaseException) -> None:
        # A traceback shows lines of the program, no values: no key gets into the log.
        _log.critical("internal error", exc_info=error)
        self._end(1, "an internal error")

    def _warn(self, sentence: str) -> None:
        _log.warning("%s", sentence)
        self._reporter.warn(sentence)

    def _show(self, line: str) -> None:
        if self._session is None:
            self._reporter.show(line)
        else:
            _log.info("%s", line)


async def _cancel(tasks: Callable[[], set[asyncio.Task[Any]]]) -> None:
    """Cancel these, and those that they begin meanwhile, and see all of them to their end."""
    while left := {task for task in tasks() if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)
