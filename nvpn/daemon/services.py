"""All that a tunnel offers beside moving packets, begun and ended in one place.

Each service has a moment for everything: ``prepare`` while keys and peers are there and no
socket is; ``start`` when the interface is up; ``adopt`` and ``change`` after a reload;
``prepare_stop`` while all still works; ``close``. The session calls these, and knows no
service by name. A bare device, which has no file, has only what tells of it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from nvpn import __version__
from nvpn.backend.api import TunnelBackend
from nvpn.channel.messages import CAPABILITY_ENROL, CAPABILITY_LEASE, MAX_NAME, Goodbye, Hello
from nvpn.channel.packets import channel_address
from nvpn.config.model import Hooks, StoreConfig, TunnelConfig
from nvpn.control.server import Operation
from nvpn.control.streams import Stream
from nvpn.daemon.channel_port import ChannelPort
from nvpn.daemon.connection_hooks import ConnectionHooks
from nvpn.daemon.connections import Connections
from nvpn.daemon.event_lines import EventStream
from nvpn.daemon.events import BreakerChanged, EventBus
from nvpn.daemon.forwarding import Forwarding
from nvpn.daemon.leasing.client import LeaseClient, Wanted
from nvpn.daemon.leasing.overlay import servers_of
from nvpn.daemon.leasing.setup import make_lease_client
from nvpn.daemon.leftovers import Leftovers
from nvpn.daemon.metrics.collection import Collection
from nvpn.daemon.metrics.server import MetricsServer
from nvpn.daemon.namespaces import Namespaces
from nvpn.daemon.server.offered import OPERATIONS
from nvpn.daemon.status import StatusParts
from nvpn.daemon.surroundings import Surroundings
from nvpn.errors import ControlError, NvpnError
from nvpn.model.changes import Plan
from nvpn.model.clock import boot_ns
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice
from nvpn.resilience.breaker import BreakerSnapshot
from nvpn.resilience.registry import Breakers, describe

if TYPE_CHECKING:
    from nvpn.daemon.server.service import ServerService
    from nvpn.registry.registry import Registry

_log: Final = logging.getLogger(__name__)

Overlay = Callable[[Wanted], Awaitable["TunnelConfig | None"]]
"""Bring the host to a configuration that is not (only) the file's, and the peers by a plan.

What is wanted is asked for when no other change is under way. Returns that configuration, None
if nothing was to be done. All or nothing: it raises NvpnError, and all is as before."""

LAST_HOOKS_SECONDS: Final = 1.0


class Services:
    """Of one tunnel.

    Args:
        config: None for a bare device.
        overlay: for what somebody else tells us to be.
        hooks: as configured now.
    """

    def __init__(
        self,
        name: str,
        config: TunnelConfig | None,
        backend: TunnelBackend,
        *,
        around: Surroundings,
        namespaces: Namespaces,
        leftovers: Leftovers,
        overlay: Overlay,
        hooks: Callable[[], Hooks],
    ) -> None:
        self._name = name
        self._backend = backend
        self._around = around
        self._at_home = namespaces.at_home
        self._overlay = overlay
        self._bus = EventBus()
        self.breakers: Final = Breakers(
            None if config is None else config.resilience, on_change=self._breaker_changed
        )
        """Of whatever may fail: names, stores, servers."""
        self._connections = Connections(backend, self._bus, around.loop)
        self._hooks = ConnectionHooks(
            name, loop=around.loop, hooks=hooks, show=around.show, namespace=namespaces.home
        )
        self._bus.listen(self._hooks.hear)
        self._port = ChannelPort(
            backend, loop=around.loop, introduce=self._introduce, breakers=self.breakers
        )
        self._port.on_notice(Goodbye, self._connections.hear_goodbye)
        self._forwarding = Forwarding(name, leftovers, run=namespaces.at_home, warn=around.warn)
        collection = Collection(
            name,
            backend,
            self._connections,
            self._bus,
            self.breakers,
            registry=self._registry,
            channel=self._channel_statistics,
        )
        self._metrics = MetricsServer(around.loop, collection)
        self._server: ServerService | None = None
        self._lease: LeaseClient | None = None
        self._status = StatusParts()
        self._status.add("breakers", lambda: describe(self.breakers.snapshots(boot_ns())))

    # --- what others see ----------------------------------------------------------------

    def operations(self) -> dict[str, Operation]:
        """What the control socket offers for them."""
        operations: dict[str, Operation] = {"nvpn_status": self._status.answer}
        for name in OPERATIONS:
            operations[name] = self._of_server(name)
        return operations

    def streams(self) -> dict[str, Stream]:
        """What the control socket goes on telling."""
        return {"nvpn_events": EventStream(self._name, self._bus)}

    def effective(self, config: TunnelConfig) -> TunnelConfig:
        """What a configuration of the file comes to, with what others tell us."""
        return config if self._lease is None else self._lease.effective(config)

    def complete(self, plan: Plan, old: TunnelConfig, new: TunnelConfig) -> Plan:
        """A plan from one configuration of the file to another, with what it means for those
        peers and prefixes that are not the file's.
        """
        if self._server is not None and new.server is not None:
            plan = self._server.spare(plan)
        return plan if self._lease is None else plan + self._lease.changes(old, new)

    def leased_addresses(self) -> frozenset[bytes]:
        """Those of the interface that its file does not give, for none to be saved there."""
        leased = () if self._lease is None else self._lease.addresses()
        own = self._backend.snapshot().private_key
        # With the kernel's backend the channel's is on the interface, for all to see.
        channel = () if own is None else (channel_address(own.public()),)
        return frozenset((*(address.address for address in leased), *channel))

    def leased_keepalives(self) -> Mapping[PublicKey, int]:
        """Those of peers whose file does not give them, in seconds, likewise."""
        return {} if self._lease is None else self._lease.keepalives()

    # --- moments ------------------------------------------------------------------------

    def guard(self, config: TunnelConfig) -> None:
        """What peers may begin, before a plan that brings them. Raises PlatformError."""
        self._backend.set_port_policies(
            config.interface.ports, {peer.public_key: peer.ports for peer in config.peers}
        )

    async def prepare(self, config: TunnelConfig) -> tuple[PublicKey, ...]:
        """Before the sockets. The peers that are there now and in no file.

        Raises:
            NvpnError: the tunnel cannot be what its file says.
        """
        self.guard(config)
        self._lease = make_lease_client(
            config,
            self._backend,
            self._port,
            around=self._around,
            overlay=self._be_told,
            at_home=self._at_home,
        )
        self._status.add("lease", self._lease.describe)
        self._status.add("channel", self._describe_channel)
        return await self._prepare_server(config)

    async def start(self, config: TunnelConfig) -> None:
        """The interface is up. Raises NvpnError."""
        self._open_channel(config)
        self._forwarding.set(config.server)
        self._start_server()
        self._metrics.start(config.metrics)
        assert self._lease is not None
        await self._lease.start()

    def adopt(self, new: TunnelConfig) -> None:
        """The file has changed, and what it says is in force. At once; never raises."""
        self.breakers.change(new.resilience)
        if self._lease is not None:
            self._lease.change(new)

    async def change(self, new: TunnelConfig) -> list[str]:
        """After :meth:`adopt`, what takes its time. Sentences of warning; never raises."""
        told = self._metrics.change(new.metrics)
        for step in (self._change_forwarding, self._change_channel, self._change_server):
            try:
                told += await step(new)
            except NvpnError as error:
                told.append(str(error))
        return told

    def notice(self, notice: Notice) -> None:
        """Something happened to a peer."""
        if self._server is not None:
            self._server.notice(notice)
        if self._lease is not None:
            self._lease.notice(notice)

    async def prepare_stop(self) -> None:
        """Say goodbye, give back what is others'. Bounded; never raises."""
        ending: list[Coroutine[Any, Any, None]] = [self._finish_hooks()]
        if self._server is not None:
            ending.append(self._server.prepare_stop())
        if self._lease is not None:
            ending.append(self._lease.release())
        for ended in await asyncio.gather(*ending, return_exceptions=True):
            if isinstance(ended, Exception):
                _log.error("internal error at the end", exc_info=ended)

    async def close(self) -> None:
        """At once. Never raises."""
        if self._lease is not None:
            self._lease.close()
        if self._server is not None:
            await self._server.close()
        self._forwarding.close()
        self._port.close()
        self._connections.close()
        await self._hooks.close()
        await self._metrics.close()
        self._bus.close()

    # --- details ------------------------------------------------------------------------

    async def _be_told(self, wanted: Wanted) -> None:
        effective = await self._overlay(wanted)
        if effective is not None:
            self._open_channel(effective)  # also to servers that the file does not name

    async def _finish_hooks(self) -> None:
        self._connections.end()
        await self._hooks.finish(LAST_HOOKS_SECONDS)

    async def _prepare_server(self, config: TunnelConfig) -> tuple[PublicKey, ...]:
        return (
            () if config.server is None else await self._begin_server(config, config.server.store)
        )

    def _start_server(self) -> None:
        if self._server is not None:
            self._server.start()

    async def _begin_server(
        self, config: TunnelConfig, store: StoreConfig
    ) -> tuple[PublicKey, ...]:
        # Most tunnels are none, and all would pay for the imports.
        from nvpn.daemon.server.service import ServerService
        from nvpn.daemon.server.stores import make_store

        server = ServerService(
            config,
            backend=self._backend,
            port=self._port,
            store=make_store(self._name, store, self.breakers),
            breakers=self.breakers,
            around=self._around,
            publish=self._bus.publish,
            on_left=self._connections.goodbye,
        )
        try:
            clients = await server.prepare()
        except BaseException:
            await server.close()
            raise
        self._server = server
        self._status.add("server", server.describe)
        return clients

    async def _change_forwarding(self, new: TunnelConfig) -> list[str]:
        self._forwarding.set(new.server)
        return []

    async def _change_channel(self, new: TunnelConfig) -> list[str]:
        self._open_channel(self.effective(new))
        return []

    async def _change_server(self, new: TunnelConfig) -> list[str]:
        server = self._server
        if server is not None and new.server is not None:
            return await server.change(new)
        if server is not None:
            self._server = None
            self._status.remove("server")
            await server.withdraw()
        elif new.server is not None:
            await self._begin_server(new, new.server.store)
            self._start_server()
        return []

    def _of_server(self, name: str) -> Operation:
        async def operate(lines: Sequence[str]) -> Sequence[str]:
            if self._server is None:
                raise ControlError(
                    errno.EOPNOTSUPP, f"{self._name} is no server: its file has no [server]"
                )
            return await self._server.operations()[name](lines)

        return operate

    def _open_channel(self, config: TunnelConfig) -> None:
        """Raises PlatformError."""
        servers = servers_of(config)
        if config.server is not None or config.interface.channel:
            self._port.open()
        elif servers:
            self._port.open(frozenset(servers))
        else:
            self._port.close()

    def _introduce(self) -> Hello:
        capabilities = (CAPABILITY_LEASE, CAPABILITY_ENROL) if self._server is not None else ()
        name = socket.gethostname()[:MAX_NAME]
        return Hello(name if name.isprintable() else "", __version__[:32], capabilities)

    def _registry(self) -> Registry | None:
        return None if self._server is None else self._server.registry

    def _describe_channel(self) -> dict[str, Any] | None:
        """None while it is closed."""
        if not self._port.is_open:
            return None
        known = ((peer, self._port.acquaintance(peer)) for peer in self._backend.peers())
        peers = {
            peer.base64: {
                "name": hello.name or None,
                "version": hello.version,
                "capabilities": list(hello.capabilities),
            }
            for peer, hello in known
            if hello is not None
        }
        return {**self._port.statistics(), "peers": peers}

    def _channel_statistics(self) -> Mapping[str, int] | None:
        return self._port.statistics() if self._port.is_open else None

    def _breaker_changed(self, snapshot: BreakerSnapshot) -> None:
        self._bus.publish(BreakerChanged(snapshot.name, snapshot.state.value))
