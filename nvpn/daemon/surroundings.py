"""What the parts of a running tunnel need from the process they run in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``spawn`` starts a background task whose failure ends the process; ``end`` ends it
    with an exit status and a reason; ``warn`` tells the person who started it, and
    ``show`` passes on a line that a hook wrote.
    """

    loop: asyncio.AbstractEventLoop
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    end: Callable[[int, str], None]
    warn: Callable[[str], None]
    show: Callable[[str], None]
