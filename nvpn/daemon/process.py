"""The process around a tunnel: what it may leak, its loop, its place in front or behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from nvpn.daemon.background import FrontReporter, Reporter, run_in_background
from nvpn.daemon.secrecy import keep_memory_private
from nvpn.errors import NvpnError

if TYPE_CHECKING:
    from nvpn.config.model import TunnelConfig

_log: Final = logging.getLogger(__name__)


def run_tunnel(name: str, config: TunnelConfig | None, *, in_front: bool, level: int) -> int:
    """Run the tunnel in this process, or in one of its own until that is ready.

    Args:
        name: of the interface.
        config: what to set up; None for a bare device.
        level: of :mod:`logging`.

    Returns the exit status for the command line.

    Raises:
        NvpnError: it could not be started.
    """
    if in_front:
        return _work(name, config, FrontReporter(), level, in_front=True)
    run_in_background(lambda reporter: _work(name, config, reporter, level, in_front=False))
    return 0


def _work(
    name: str, config: TunnelConfig | None, reporter: Reporter, level: int, *, in_front: bool
) -> int:
    # Until the loop takes over: there is nothing to remove yet.
    signal.signal(signal.SIGTERM, _leave)
    _set_up_process(name)
    from nvpn.daemon import logs

    if in_front:
        logs.log_to_stderr(name, level)
    else:
        logs.log_to_system(name, level)
    loop = _new_loop()
    try:
        return loop.run_until_complete(_supervise(name, config, reporter))
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


async def _supervise(name: str, config: TunnelConfig | None, reporter: Reporter) -> int:
    # Imported this late because numpy may start threads, which a fork would lose.
    from nvpn.daemon.supervisor import Supervisor

    loop = asyncio.get_running_loop()
    return await Supervisor(name, config, loop=loop, reporter=reporter).run()


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
    sys.exit(0)
