"""Runs what may block on a thread that nobody waits for at exit.

The pools of asyncio and uvloop are joined when the process ends: a resolver that hangs
would keep a stopped daemon alive for half a minute.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def run_in_thread(call: Callable[[], _T], *, name: str) -> _T:
    """The call's result, or its exception. Cancelling leaves the thread to itself."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def finish(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(finish, result, error)
        except RuntimeError:
            pass  # the loop has ended meanwhile

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
