"""Opens a registry whose store may not be there yet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from nvpn.errors import NvpnError, Unavailable
from nvpn.model.clock import SECOND
from nvpn.registry.registry import Registry
from nvpn.resilience.backoff import Backoff
from nvpn.resilience.policy import RetryPolicy
from nvpn.resilience.within import within

_log: Final = logging.getLogger(__name__)

OPENING_SECONDS: Final = 3.0
"""How long a start waits for a store that does not answer."""

_LONGEST_PAUSE: Final = 5 * SECOND
"""Between two attempts to open a store, whatever the patience of the rest: clients wait."""


async def open_at_once(registry: Registry, *, is_far: bool) -> str:
    """Why it is not open yet; empty: it is.

    Args:
        is_far: others have the store, and may not answer. A disk may be slow, but nothing else
            has the file then.

    Raises:
        PlatformError, Refused: there will be no registry.
    """
    try:
        await within(OPENING_SECONDS if is_far else None, registry.open())
    except (Unavailable, asyncio.TimeoutError) as error:
        return str(error) or "it does not answer"
    return ""


async def open_later(
    registry: Registry,
    where: str,
    retry: Callable[[], RetryPolicy],
    random: Callable[[int], bytes],
) -> bool:
    """Try until it is open; False: it never will be, as the log says.

    Args:
        retry: how patiently, as it is now.
    """
    backoff = Backoff(retry().without_limit(), random)
    while True:
        backoff.policy = retry().without_limit()
        delay = backoff.next_delay()
        assert delay is not None  # without a limit
        await asyncio.sleep(min(delay, _LONGEST_PAUSE) / SECOND)
        try:
            await registry.open()
        except Unavailable as error:
            _log.info("%s: %s", where, error)
        except NvpnError as error:
            _log.error("no client is served: %s", error)
            return False
        else:
            return True
