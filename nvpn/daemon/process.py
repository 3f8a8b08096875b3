"""The process around a tunnel: what it may leak, its loop, its place in front or behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from nvpn.daemon.background import Reporter, run_in_background
from nvpn.daemon.handed import NOTHING_HANDED, Handed
from nvpn.daemon.notify import front_reporter
from nvpn.daemon.secrecy import keep_memory_private
from nvpn.errors import NvpnError

if TYPE_CHECKING:
    from nvpn.config.model import TunnelConfig

_log: Final = logging.getLogger(__name__)


def run_tunnel(
    name: str,
    config: TunnelConfig | None,
    *,
    in_front: bool,
    level: int,
    handed: Handed = NOTHING_HANDED,
    take_over: bool = False,
    keeps_output: bool = False,
) -> int:
    """Run the tunnel in this process, or in one of its own until that is ready.

    Args:
        name: of the interface.
        config: what to set up; None for a bare device.
        level: of :mod:`logging`.
        handed: descriptors to use instead of opening our own.
        take_over: an interface of the kernel's that is there already.
        keeps_output: log to standard error in the background, too.

    Returns the exit status for the command line.

    Raises:
        NvpnError: it could not be started.
    """

    def work(reporter: Reporter) -> int:
        return _work(
            name,
            level,
            in_front,
            keeps_output,
            lambda: _supervise(name, config, reporter, handed, take_over),
        )

    if in_front:
        return work(front_reporter())
    run_in_background(work, keep=handed.descriptors, keep_output=keeps_output)
    return 0


def _work(
    name: str,
    level: int,
    in_front: bool,
    keeps_output: bool,
    supervise: Callable[[], Coroutine[Any, Any, int]],
) -> int:
    # Until the loop takes over: there is nothing to remove yet.
    signal.signal(signal.SIGTERM, _leave)
    _set_up_process(name)
    from nvpn.daemon import logs

    if in_front:
        logs.log_to_stderr(name, level)
    else:
        logs.log_to_system(name, level, to_stderr=keeps_output)
    loop = _new_loop()
    try:
        return loop.run_until_complete(supervise())
    except NvpnError as error:
        if not in_front:
            _log.error("%s", error)
        raise
    except Exception as error:
        # A traceback shows lines of the program, no values: no key gets into the log.
        _log.critical("internal error", exc_info=error)
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is on its way out already
        loop.close()


async def _supervise(
    name: str,
    config: TunnelConfig | None,
    reporter: Reporter,
    handed: Handed,
    take_over: bool,
) -> int:
    # Imported this late because numpy may start threads, which a fork would lose.
    from nvpn.daemon.supervisor import Supervisor

    loop = asyncio.get_running_loop()
    supervisor = Supervisor(
        name, config, loop=loop, reporter=reporter, handed=handed, take_over=take_over
    )
    return await supervisor.run()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _set_up_process(name: str) -> None:
    os.umask(0o077)
    # A thread that reads a large file lets packets through every millisecond, not every five.
    sys.setswitchinterval(0.001)
    # A start makes no garbage worth a search: a tenth of its time. Supervisor turns it on.
    gc.disable()
    keep_memory_private()
    # One thread moves the packets; numpy's linear algebra would keep a pool for nothing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with open("/proc/self/comm", "w", encoding="utf-8") as comm:
            comm.write(f"nvpn-{name}"[:15])
    except OSError:
        pass  # for `top` only


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    # What a handler raises is lost where it interrupts a finalizer, in an import for instance.
    os._exit(0)
