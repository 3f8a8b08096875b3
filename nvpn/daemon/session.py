"""A tunnel on this host: made, configured from a file, changed by a changed file.

Steps leave their undoing on a stack, so that whatever fails unwinds what was done and
nothing else. Their order is the one in which nothing leaks: keys and peers, then sockets,
then the link, addresses, routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nvpn.config.model import BackendWish, HostPort, InterfaceConfig, TunnelConfig
from nvpn.config.plan import diff, full_plan
from nvpn.control.client import is_running
from nvpn.control.paths import leftovers_path, state_path
from nvpn.control.server import ControlServer, Operation
from nvpn.daemon.carrier import choose_backend
from nvpn.daemon.drops import report_drops
from nvpn.daemon.follower import LinkFollower
from nvpn.daemon.handed import Handed
from nvpn.daemon.host import HostSettings
from nvpn.daemon.keeper import StateKeeper
from nvpn.daemon.leftovers import Leftovers
from nvpn.daemon.memory import read_memory
from nvpn.daemon.name_service import NameService
from nvpn.daemon.network_watch import NetworkWatch
from nvpn.daemon.recall import recall
from nvpn.daemon.resolver import EndpointResolver, changes_for
from nvpn.daemon.tunnel import Tunnel, create_tunnel
from nvpn.datapath.choice import choose, explain_workers
from nvpn.errors import ControlError, NvpnError, PlatformError
from nvpn.model.changes import Plan, SetCandidates, SetEndpoint, SetListenPort
from nvpn.model.clock import SECOND, boot_ns, read_clocks
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.netconf.linux import LinuxNetconf

_log: Final = logging.getLogger(__name__)

RESOLVE_SECONDS: Final = 3.0
"""How long a start or reload waits for names; slower ones come in when they do."""

_DAY: Final = 86_400 * SECOND
_MIN_BURST: Final = 20
_RECALLS_PER_SECOND: Final = 2000
"""Handshakes that a start begins at most, with peers who believe in a session with us."""
_RECALL_TICK: Final = 0.01


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session needs from the process it runs in.

    ``spawn`` starts a background task whose failure ends the process; ``end`` ends it
    with an exit status and a reason; ``warn`` tells the person who started it, and
    ``show`` passes on a line that a hook wrote.
    """

    loop: asyncio.AbstractEventLoop
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    end: Callable[[int, str], None]
    warn: Callable[[str], None]
    show: Callable[[str], None]


class Session:
    """One interface, from its creation on. What was made is removed by closing ``undo``.

    Args:
        name: the interface's.
        config: what to set up; None for a bare device that others configure, whose peers
            are not remembered over a restart.
        handed: descriptors to use instead of opening our own.
        take_over: an interface of the kernel's that is there already.

    Raises:
        PlatformError: it runs already, the interface exists, no permission.
    """

    def __init__(
        self,
        name: str,
        config: TunnelConfig | None,
        around: Surroundings,
        undo: contextlib.AsyncExitStack,
        *,
        handed: Handed,
        take_over: bool,
    ) -> None:
        # A socket that we were handed answers already.
        if handed.control < 0 and is_running(name):
            raise PlatformError(
                f"start {name}", hint=f"it is running already; see: nvpn show {name}"
            )
        self._name = name
        self._around = around
        self._undo = undo
        self._config = config
        self._handed = handed
        self._take_over = take_over
        self._leftovers = Leftovers(leftovers_path(name))
        self._netconf = LinuxNetconf()
        undo.callback(self._netconf.close)
        path = state_path(name)
        self._memory, problem = read_memory(path)
        if problem:
            around.warn(f"cannot read {path}: {problem}; starting without what it remembers")
        self._keeper = StateKeeper(
            path,
            self._memory,
            loop=around.loop,
            spawn=around.spawn,
            is_known=self._is_known,
            remembers_peers=config is not None,
        )
        # First on the stack, last to go: the exact last timestamp is known then.
        undo.callback(self._keeper.close)
        self._tunnel = self._create_tunnel()
        undo.push_async_callback(self._tunnel.close)
        self._backend = self._tunnel.backend
        self._host = self._tunnel.host
        self._resolver = EndpointResolver(self._endpoint_found, spawn=around.spawn)
        undo.callback(self._resolver.close)
        # What the resolver knew when it was last told to the backend.
        self._placed: dict[PublicKey, tuple[Endpoint, ...]] = {}
        self._network_watch = NetworkWatch(
            self._network_changed, loop=around.loop, ignored=lambda: self._host.link.index
        )
        undo.callback(self._network_watch.close)
        self._follower = LinkFollower(
            self._tunnel, loop=around.loop, on_gone=self._interface_gone, spawn=around.spawn
        )
        undo.callback(self._follower.close)
        self._mtu = 0
        self._name_service: NameService | None = None
        self._backend.subscribe(self._notice)
        if _log.isEnabledFor(logging.DEBUG):
            around.spawn(report_drops(self._backend.drops))

    @property
    def config(self) -> TunnelConfig | None:
        """What it is to be, or was last configured by, keys wiped; None for a bare device."""
        return self._config

    def describe(self) -> str:
        """For the log: what moves the packets, and why that when there is something to say."""
        return self._backend.describe()

    # --- start --------------------------------------------------------------------------

    def _create_tunnel(self) -> Tunnel:
        config, around = self._config, self._around
        backend, reason = choose_backend(config)
        if backend is BackendWish.KERNEL:
            from nvpn.daemon.kernel_tunnel import create_kernel_tunnel

            return create_kernel_tunnel(
                self._name,
                self._netconf,
                self._leftovers,
                loop=around.loop,
                on_gone=self._interface_gone,
                on_failure=self._failed,
                take_over=self._take_over,
                reason=reason,
            )
        wanted = InterfaceConfig() if config is None else config.interface
        file = "" if config is None else str(config.path)
        choice = choose(wanted.datapath, file=file)
        tunnel = create_tunnel(
            self._name,
            self._netconf,
            choice=choice,
            workers=wanted.workers,
            queues=wanted.queues,
            loop=around.loop,
            timestamps=self._keeper.timestamps,
            on_gone=self._interface_gone,
            on_failure=self._failed,
            tun_fd=self._handed.tun,
        )
        if sentence := explain_workers(choice, wanted.workers, file=file):
            around.warn(sentence)
        return tunnel

    def open_control(self, operations: dict[str, Operation]) -> None:
        """Let others look and change, and follow what they do to the link.

        Raises:
            PlatformError: another daemon has the socket, or its directory is not writable.
        """
        self._follower.start(self._netconf)
        self._network_watch.start()
        server = ControlServer(
            self._name,
            self._backend,
            operations=operations,
            on_removed=lambda: self._around.end(0, "the control socket was removed"),
        )
        self._undo.push_async_callback(server.close)
        handed = self._handed.control
        server.open(socket.socket(fileno=handed) if handed >= 0 else None)

    async def configure(self) -> None:
        """Peers, keys and sockets: all that has to be there before the first route.

        Raises:
            ControlError: the port is taken, …
        """
        config = self._config
        assert config is not None
        for sentence in config.warnings:
            self._around.warn(sentence)
        self._resolver.want(_endpoints(config))
        for sentence in await self._wait_for_names(config):
            self._around.warn(sentence)
        now = read_clocks()
        known = dict(self._resolver.known)
        recalled = recall(config, _best(known), self._memory, wall=now.wall, boot=now.boot)
        self._check_clock(now.wall)
        self._keeper.timestamps.burst = max(_MIN_BURST, len(config.peers))
        elsewhere = tuple(
            SetEndpoint(peer.public_key, recalled.endpoints[peer.public_key])
            for peer in config.peers
            if peer.endpoint is None and peer.public_key in recalled.endpoints
        )
        try:
            await self._backend.apply(
                full_plan(config, recalled.endpoints) + elsewhere + self._candidates(known)
            )
        finally:
            _wipe_keys(config)
        self._placed = known
        await self._bind(config)
        if recalled.in_session:
            self._around.spawn(self._initiate(recalled.in_session))

    async def configure_host(self) -> None:
        """MTU, addresses, link, routes, name servers. Raises PlatformError."""
        config = self._config
        assert config is not None
        settings = HostSettings.of(config)
        self._adapt_mtu(config)
        self._host.raise_link()
        self._host.extend(settings)
        self._host.reduce(settings)
        self._name_service = NameService(
            self._host.link,
            self._leftovers,
            warn=self._around.warn,
            netns=config.interface.netns,
        )
        self._undo.push_async_callback(self._name_service.unset)
        await self._name_service.set(config.interface.dns)

    async def _bind(self, config: TunnelConfig) -> None:
        """Bind the configured port, or the one the kernel chose last time if it is free.

        So peers that only know our last address and port still reach us.
        """
        if config.interface.listen_port is None and self._memory.listen_port:
            await self._backend.apply((SetListenPort(self._memory.listen_port),))
            try:
                await self._follower.serve()
            except ControlError as error:
                _log.info("the port of the last run is not free: %s", error)
                await self._backend.apply((SetListenPort(0),))
        await self._follower.serve()
        self._remember_port(config)

    async def _wait_for_names(self, config: TunnelConfig) -> list[str]:
        missing = await self._resolver.wait(RESOLVE_SECONDS)
        return [
            f"{peer.label}: {' and '.join(place.host for place in peer.endpoints)}"
            " does not resolve yet"
            f" ({missing[peer.public_key]}); trying on in the background"
            for peer in config.peers
            if peer.public_key in missing
        ]

    def _check_clock(self, wall: int) -> None:
        lead = self._keeper.timestamps.lead_ns(wall)
        if lead > _DAY:
            self._around.warn(
                f"the clock is {lead // _DAY} days behind the handshakes of the last run;"
                " it was wrong then, or it is wrong now"
            )

    async def _initiate(self, peers: Sequence[PublicKey]) -> None:
        """Handshakes with those who believe in a session with us, spread over time."""
        step = max(1, int(_RECALLS_PER_SECOND * _RECALL_TICK))
        for start in range(0, len(peers), step):
            for peer in peers[start : start + step]:
                self._backend.initiate(peer)
            await asyncio.sleep(_RECALL_TICK)

    # --- change -------------------------------------------------------------------------

    async def change(self, new: TunnelConfig) -> list[str]:
        """Bring a configured tunnel to a new configuration, or leave it as it is.

        Returns sentences of warning.

        Raises:
            NvpnError: the host or the backend refused; all is as before.
        """
        assert self._config is not None
        old, old_mtu = self._config, self._mtu
        settings = HostSettings.of(new)
        self._resolver.want(_endpoints(new))
        try:
            unresolved = await self._wait_for_names(new)
            boot = boot_ns()
            known = dict(self._resolver.known)
            endpoints = {
                peer: endpoint._replace(learned_at=boot) for peer, endpoint in _best(known).items()
            }
            plan = diff(self._backend.snapshot(), new, endpoints, previous=old)
            plan += self._candidates(known)
            self._host.extend(settings)
            try:
                self._adapt_mtu(new)
                await self._backend.apply(plan)
            except BaseException:
                self._host.withdraw(settings)
                raise
        except NvpnError:
            self._resolver.want(_endpoints(old))
            await self._resolver.wait(0)
            self._set_mtu(old_mtu)
            raise
        finally:
            _wipe_keys(new)
        self._host.reduce(settings)
        self._config, self._placed = new, known
        if self._name_service is not None:
            await self._name_service.set(new.interface.dns)
        self._keeper.timestamps.burst = max(_MIN_BURST, len(new.peers))
        self._remember_port(new)
        _log.info("reloaded: %d changes", len(plan))
        return [*new.warnings, *unresolved, *_left_as_it_is(old, new)]

    def _candidates(self, known: Mapping[PublicKey, tuple[Endpoint, ...]]) -> Plan:
        """Where else the peers may be, as far as that is another place than before."""
        before = {peer: found[1:] for peer, found in self._placed.items() if found[1:]}
        after = {peer: found[1:] for peer, found in known.items() if found[1:]}
        return tuple(
            SetCandidates(peer, after.get(peer, ()))
            for peer in {**before, **after}
            if before.get(peer) != after.get(peer)
        )

    def _endpoint_found(self, peer: PublicKey, found: tuple[Endpoint, ...]) -> None:
        self._around.spawn(self._use_endpoints(peer, found))

    async def _use_endpoints(self, peer: PublicKey, found: tuple[Endpoint, ...]) -> None:
        """A name that resolved late, or was looked up again after its peer fell silent."""
        where = " ".join(map(str, found))
        _log.info("endpoint resolved", extra={"peer": peer.short, "endpoint": where})
        plan = changes_for(
            peer,
            found,
            before=self._placed.get(peer, ()),
            current=self._backend.endpoint_of(peer),
            boot=boot_ns(),
        )
        self._placed[peer] = found
        try:
            await self._backend.apply(plan)
            if self._config is not None and self._mtu:
                self._adapt_mtu(self._config)
        except NvpnError as error:
            _log.warning("%s", error, extra={"peer": peer.short})

    def _adapt_mtu(self, config: TunnelConfig) -> None:
        """Set the MTU where what it should be has changed; one that people set stays."""
        addresses = [
            endpoint.address for found in self._resolver.known.values() for endpoint in found
        ]
        self._set_mtu(self._host.mtu_for(HostSettings.of(config), addresses))

    def _set_mtu(self, mtu: int) -> None:
        if mtu != self._mtu:
            self._host.set_mtu(mtu)
            self._backend.set_mtu(mtu)
            self._mtu = mtu

    def _remember_port(self, config: TunnelConfig) -> None:
        is_chosen = config.interface.listen_port is None
        self._keeper.remember_port(self._backend.listen_port if is_chosen else 0)

    # --- what happens -------------------------------------------------------------------

    def _notice(self, notice: Notice) -> None:
        extra = {"peer": notice.peer.short}
        if notice.endpoint is not None:
            extra["endpoint"] = str(notice.endpoint)
        is_unanswered = notice.kind is NoticeKind.HANDSHAKE_UNANSWERED
        _log.log(logging.DEBUG if is_unanswered else logging.INFO, notice.kind.value, extra=extra)
        self._keeper.remember(notice)
        if is_unanswered or notice.kind is NoticeKind.HANDSHAKE_GIVEN_UP:
            self._resolver.look_again(notice.peer)

    def _network_changed(self, why: str) -> None:
        _log.info("%s", why)
        self._backend.network_changed()
        if self._config is None or not self._mtu:
            return
        try:
            self._adapt_mtu(self._config)
        except NvpnError as error:
            _log.warning("%s", error)

    def _interface_gone(self) -> None:
        self._around.end(0, "the interface was removed")

    def _failed(self, error: BaseException) -> None:
        self._around.end(1, "an internal error")

    def _is_known(self, peer: PublicKey) -> bool:
        return self._backend.has_peer(peer)

    # --- the end ------------------------------------------------------------------------

    async def prepare_stop(self) -> list[str]:
        """What is done while the tunnel still works; sentences of warning. Again: nothing."""
        return []

    async def save(self) -> list[str]:
        """Write the running state into the file; sentences of warning. Raises NvpnError."""
        return []


def _endpoints(config: TunnelConfig) -> dict[PublicKey, tuple[HostPort, ...]]:
    return {peer.public_key: peer.endpoints for peer in config.peers if peer.endpoints}


def _best(known: Mapping[PublicKey, tuple[Endpoint, ...]]) -> dict[PublicKey, Endpoint]:
    return {peer: found[0] for peer, found in known.items()}


def _left_as_it_is(old: TunnelConfig, new: TunnelConfig) -> list[str]:
    """What a reload cannot change."""
    was, wanted = old.interface, new.interface
    changes = {
        "datapath": (was.datapath, wanted.datapath, f'"{wanted.datapath.value}"'),
        "workers": (was.workers, wanted.workers, f"{wanted.workers}"),
        "queues": (was.queues, wanted.queues, f"{wanted.queues}"),
    }
    return [
        f"{new.path}: interface.{key}: {shown} is for the next start: nvpn down {new.name},"
        f" then nvpn up {new.name}"
        for key, (before, after, shown) in changes.items()
        if before != after
    ]


def _wipe_keys(config: TunnelConfig) -> None:
    """The device has copies of its own."""
    if config.interface.private_key is not None:
        config.interface.private_key.wipe()
    for peer in config.peers:
        if peer.preshared_key is not None:
            peer.preshared_key.wipe()
