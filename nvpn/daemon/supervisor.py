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
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from nvpn.config.load import load
from nvpn.config.model import TunnelConfig
from nvpn.daemon.background import Reporter
from nvpn.daemon.handed import Handed
from nvpn.daemon.session import Session, Surroundings
from nvpn.daemon.threads import run_in_thread
from nvpn.errors import ControlError, NvpnError

_log: Final = logging.getLogger(__name__)


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
        self._undo = contextlib.AsyncExitStack()
        self._session: Session | None = None
        self._reloading = asyncio.Lock()

    async def run(self) -> int:
        """Start, serve, stop; the exit status.

        Raises:
            NvpnError: it could not be started; everything is as it was.
        """
        self._loop.set_exception_handler(self._panic_about)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end, 0, signal.Signals(number).name)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        starting = self._loop.create_task(self._start())
        try:
            waiting: set[asyncio.Future[Any]] = {starting, self._ending}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await self._ending
        finally:
            starting.cancel()
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
        session.open_control({"nvpn_reload": self._reload})
        if self._config is not None:
            await session.configure_host()
        gc.collect()
        gc.freeze()  # what is there stays: no collection has to look at it again
        gc.enable()
        self._session = session
        _log.info("ready: %s", session.describe())
        self._reporter.ready()

    # --- reload -------------------------------------------------------------------------

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
        session = self._session
        if session is None:
            raise ControlError(errno.EAGAIN, f"{self._name} is still starting; try again")
        if session.config is None:
            raise ControlError(
                errno.EINVAL,
                f"{self._name} was not started from a file; change it with wg, or start it"
                " with: nvpn up FILE",
            )
        path = session.config.path
        async with self._reloading:
            self._reporter.reloading()
            try:
                config = await run_in_thread(lambda: load(path), name="reload")
                return await session.change(config)
            finally:
                if not self._ending.done():
                    self._reporter.ready()

    # --- the end ------------------------------------------------------------------------

    def _end(self, status: int, why: str) -> None:
        if not self._ending.done():
            _log.log(logging.CRITICAL if status else logging.INFO, "stopping: %s", why)
            self._ending.set_result(status)
            self._reporter.stopping()

    async def _stop(self) -> None:
        """Undo the start, in reverse. Nothing in here may wait for the network."""
        await self._cancel_tasks()
        try:
            await self._undo.aclose()
        finally:
            await self._cancel_tasks()  # the end may have begun some

    async def _cancel_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
