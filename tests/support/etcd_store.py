"""Our store in a real etcd, which gives up soon, so that tests need not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from nvpn.config.model import StoreConfig, StoreKind
from nvpn.model.clock import MILLISECOND, read_clocks
from nvpn.registry.etcd_gateway import EtcdGateway
from nvpn.registry.etcd_store import EtcdStore
from nvpn.resilience.policy import BreakerPolicy, Policies, RetryPolicy
from nvpn.resilience.registry import Breakers

HASTY: Final = Policies(
    RetryPolicy(max_attempts=3, initial=20 * MILLISECOND, maximum=100 * MILLISECOND),
    BreakerPolicy(failure_threshold=20, reset_timeout=200 * MILLISECOND),
)


def store_at(
    *urls: str, prefix: str = "/nvpn/wg0", breakers: Breakers | None = None, **more: object
) -> EtcdStore:
    """A store at these URLs. ``more`` are fields of StoreConfig."""
    config = StoreConfig(StoreKind.ETCD, urls, prefix, **more)  # type: ignore[arg-type]
    known = breakers or Breakers(HASTY)
    return EtcdStore(
        EtcdGateway(config),
        config.prefix,
        breaker=lambda: known.get("etcd"),
        retry=lambda: known.policies.retry,
        clocks=read_clocks,
    )


async def until(true: Callable[[], object]) -> None:
    """Wait until it is so."""

    async def look() -> None:
        while not true():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(look(), 60)
