"""Bounds how long something may take, and never forgets that it was cancelled itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

_T = TypeVar("_T")


async def within(seconds: float | None, work: Awaitable[_T]) -> _T:
    """What the work returns. When it takes longer, it is cancelled; what it returns then counts.

    Unlike this, ``asyncio.wait_for`` forgets before Python 3.12 that it was cancelled, if that
    comes together with the result: then a task that loops is never ended.

    Args:
        seconds: None: as long as it takes.

    Raises:
        asyncio.TimeoutError: it took longer.
        Exception: any of the work's.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_look_at)
    is_late = False
    try:
        await asyncio.wait((task,), timeout=seconds)
        is_late = not task.done()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
    if is_late and task.cancelled():
        raise asyncio.TimeoutError
    return task.result()


def _look_at(task: asyncio.Future[Any]) -> None:
    """What it raised when nobody waited for it any more is nobody's concern."""
    if not task.cancelled():
        task.exception()
