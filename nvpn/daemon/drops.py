"""Tells in a debug log what was dropped, and why: once in a while, never per packet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from nvpn.errors import DropReason

_log: Final = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 10.0


async def report_drops(read: Callable[[], Mapping[DropReason, int]]) -> None:
    """Log how many packets were dropped since the last time, by reason. Runs for ever."""
    before: Mapping[DropReason, int] = {}
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        now = read()
        for reason, count in now.items():
            if new := count - before.get(reason, 0):
                _log.debug("%d packets dropped", new, extra={"reason": reason.value})
        before = now
