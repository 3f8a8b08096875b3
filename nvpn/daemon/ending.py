"""What is done for a tunnel's end while it works: PreDown hooks, saving, farewells."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from nvpn.backend.api import Backend
from nvpn.config.model import TunnelConfig
from nvpn.daemon.hook_moments import HookMoments
from nvpn.daemon.host import TunnelHost
from nvpn.daemon.threads import run_in_thread
from nvpn.errors import NvpnError
from nvpn.model.keys import PublicKey
from nvpn.netconf.api import Netconf


class Ending:
    """Prepared once, whoever asks for it and how often.

    Args:
        netconf: of the interface's namespace.
        config: as the tunnel is configured now; None for a bare device.
        leased: addresses of the interface that are not the file's to give.
        keepalives: of peers, likewise, in seconds.
        finish: the last thing: what the tunnel's services have to say.
        settled: returns when no change to the tunnel is under way.
    """

    def __init__(
        self,
        backend: Backend,
        host: TunnelHost,
        *,
        netconf: Netconf,
        hooks: HookMoments,
        config: Callable[[], TunnelConfig | None],
        leased: Callable[[], frozenset[bytes]],
        keepalives: Callable[[], Mapping[PublicKey, int]],
        finish: Callable[[], Awaitable[None]],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._host = host
        self._netconf = netconf
        self._hooks = hooks
        self._config = config
        self._leased = leased
        self._keepalives = keepalives
        self._finish = finish
        self._settled = settled
        self._preparing: asyncio.Task[list[str]] | None = None

    async def prepare(self) -> list[str]:
        """Sentences of warning. Again: waits for the first to be done, returns nothing."""
        if self._preparing is not None:
            await asyncio.wait((self._preparing,))
            return []
        self._preparing = asyncio.get_running_loop().create_task(self._prepare())
        try:
            return await asyncio.shield(self._preparing)
        except asyncio.CancelledError:
            # Somebody is in a hurry: hooks are ended, and seen to their end.
            self._preparing.cancel()
            await asyncio.wait((self._preparing,))
            raise

    async def save(self) -> list[str]:
        """Write the running state into the file; sentences of warning. Raises NvpnError."""
        from nvpn.config.save import Running, save_running

        # In the middle of a change the interface has what is not known for leased yet.
        await self._settled()
        config, link = self._config(), self._host.link
        assert config is not None
        running = Running(
            snapshot=self._backend.snapshot(),
            addresses=tuple(sorted(self._netconf.addresses(link))),
            mtu=link.mtu,
            dns=config.interface.dns,
            leased=self._leased(),
            keepalives=self._keepalives(),
        )
        return await run_in_thread(lambda: save_running(config, running), name="save")

    async def _prepare(self) -> list[str]:
        told = await self._hooks.pre_down()
        config = self._config()
        if config is not None and config.interface.save_config:
            try:
                told += await self.save()
            except NvpnError as error:
                told.append(str(error))
        if config is not None:
            await self._finish()
        return told
