"""A tunnel on this host: made, configured from a file, changed by a changed file.

Steps leave their undoing on a stack, so that whatever fails unwinds what was done and
nothing else. Their order is the one in which nothing leaks: the kill switch, then keys and
peers, sockets, the link, addresses, routes. Hooks run with the loop going on, so that they
may ask the tunnel's own control socket.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Final

from nvpn.config.model import TunnelConfig
from nvpn.control.client import is_running
from nvpn.control.leased import spare_leased
from nvpn.control.paths import leftovers_path, state_path
from nvpn.control.server import ControlServer, Operation
from nvpn.daemon.alone import alone
from nvpn.daemon.cleaning import clean_up
from nvpn.daemon.configured import Configured
from nvpn.daemon.creation import make_tunnel
from nvpn.daemon.drops import report_drops
from nvpn.daemon.ending import Ending
from nvpn.daemon.follower import LinkFollower
from nvpn.daemon.handed import Handed
from nvpn.daemon.hook_moments import HookMoments
from nvpn.daemon.host_side import HostSide
from nvpn.daemon.keeper import StateKeeper
from nvpn.daemon.leftovers import NAMESPACE, Leftovers
from nvpn.daemon.memory import read_memory
from nvpn.daemon.namespaces import Namespaces
from nvpn.daemon.network_watch import NetworkWatch
from nvpn.daemon.peer_side import PeerSide
from nvpn.daemon.services import Services
from nvpn.daemon.surroundings import Surroundings
from nvpn.daemon.whereabouts import Whereabouts
from nvpn.errors import NvpnError, PlatformError
from nvpn.model.changes import Owner
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.netconf.linux import LinuxNetconf

_log: Final = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 3.0
"""How long a start waits for a daemon of the name that is about to end."""


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
        is_new = handed.control < 0
        if is_new and is_running(name):
            raise _running_already(name)
        # To the very end: there is nothing that comes after it.
        if not undo.enter_context(alone(name, seconds=_PATIENCE_SECONDS)):
            if is_new and is_running(name):
                raise _running_already(name)
            raise PlatformError(f"start {name}", hint="it is on its way up, or down, already")
        if is_new:
            for sentence in clean_up(name, keep=_made_anew(config)):
                around.warn(sentence)
        self._name = name
        self._around = around
        self._undo = undo
        self._handed = handed
        self._leftovers = Leftovers(leftovers_path(name))
        self._namespaces = Namespaces(config)
        undo.callback(self._namespaces.close)
        self._netconf = self._namespaces.at_home(LinuxNetconf)
        undo.callback(self._netconf.close)
        self._has_peers = False
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
        # Late to go: the exact last timestamp is known then.
        undo.callback(self._keeper.close)
        self._hooks = HookMoments(
            name,
            namespace=self._namespaces.home,
            hooks=lambda: self._configured.hooks(),
            show=around.show,
        )
        undo.push_async_callback(self._run_post_down)
        self._host_side = HostSide(
            name,
            netconf=self._netconf,
            namespaces=self._namespaces,
            leftovers=self._leftovers,
            undo=undo,
            warn=around.warn,
            on_mtu=lambda mtu: self._backend.set_mtu(mtu),
        )
        if config is not None:
            self._note_namespace(config)
            self._host_side.put_up_guard(config)
        self._tunnel = make_tunnel(
            name,
            config,
            netconf=self._netconf,
            namespaces=self._namespaces,
            leftovers=self._leftovers,
            loop=around.loop,
            timestamps=self._keeper.timestamps,
            warn=around.warn,
            on_gone=self._interface_gone,
            on_failure=self._failed,
            tun_fd=handed.tun,
            take_over=take_over,
        )
        undo.push_async_callback(self._tunnel.close)
        self._backend = self._tunnel.backend
        self._host = self._tunnel.host
        if self._namespaces.is_apart:
            outside = LinuxNetconf()
            undo.callback(outside.close)
            self._host.look_outside(outside)
        self._services = Services(
            name,
            config,
            self._backend,
            around=around,
            namespaces=self._namespaces,
            leftovers=self._leftovers,
            overlay=lambda wanted: self._configured.overlay(wanted),
            hooks=lambda: self._configured.hooks(),
        )
        undo.push_async_callback(self._services.close)
        self._peers = Whereabouts(
            self._backend,
            spawn=around.spawn,
            on_moved=self._follow_paths,
            breakers=self._services.breakers,
        )
        undo.callback(self._peers.close)
        self._peer_side = PeerSide(
            self._backend,
            peers=self._peers,
            keeper=self._keeper,
            memory=self._memory,
            around=around,
        )
        is_apart = self._namespaces.is_apart
        self._network_watch = NetworkWatch(
            self._network_changed,
            loop=around.loop,
            ignored=lambda: 0 if is_apart else self._host.link.index,
        )
        undo.callback(self._network_watch.close)
        self._configured = Configured(
            config,
            backend=self._backend,
            host_side=self._host_side,
            peers=self._peers,
            peer_side=self._peer_side,
            services=self._services,
            network_watch=self._network_watch,
        )
        self._follower = LinkFollower(
            self._tunnel,
            loop=around.loop,
            on_gone=self._interface_gone,
            spawn=around.spawn,
            at_home=self._namespaces.at_home,
            settle=self._host_side.settle,
        )
        undo.callback(self._follower.close)
        self._is_up = False
        self._ending = Ending(
            self._backend,
            self._host,
            netconf=self._netconf,
            hooks=self._hooks,
            config=lambda: self._configured.config,
            leased=self._services.leased_addresses,
            keepalives=self._services.leased_keepalives,
            finish=self._services.prepare_stop,
            settled=self._configured.settled,
        )
        self._backend.subscribe(self._notice)
        if _log.isEnabledFor(logging.DEBUG):
            around.spawn(report_drops(self._backend.drops))

    def _note_namespace(self, config: TunnelConfig) -> None:
        """Where all the rest will be, for whoever clears it away if we are killed."""
        if config.interface.netns:
            self._leftovers.note(NAMESPACE, config.interface.netns)
            self._undo.callback(self._leftovers.forget, NAMESPACE)

    @property
    def config(self) -> TunnelConfig | None:
        """What it is to be, or was last configured by, keys wiped; None for a bare device."""
        return self._configured.config

    def describe(self) -> str:
        """For the log: what moves the packets, and why that when there is something to say."""
        return self._backend.describe()

    # --- start --------------------------------------------------------------------------

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
            operations=operations | self._services.operations(),
            streams=self._services.streams(),
            on_removed=lambda: self._around.end(0, "the control socket was removed"),
            spare=lambda plan: spare_leased(plan, self._owner_of),
        )
        self._undo.push_async_callback(server.close)
        handed = self._handed.control
        server.open(socket.socket(fileno=handed) if handed >= 0 else None)

    async def configure(self) -> None:
        """PreUp hooks, then peers, keys and sockets: all that has to be there before a route.

        Raises:
            PlatformError: a hook failed, …
            ControlError: the port is taken, …
        """
        config = self._configured.config
        assert config is not None
        for sentence in config.warnings:
            self._around.warn(sentence)
        await self._hooks.pre_up()
        config = self._host_side.with_mark(config)
        self._configured.begin(config)
        await self._peer_side.fill(config)
        self._has_peers = True
        await self._peer_side.recall_more(await self._services.prepare(config))
        await self._peer_side.bind(config, self._follower)

    async def configure_host(self) -> None:
        """MTU, addresses, link, routes, name servers, PostUp hooks, services.

        Raises:
            NvpnError: the host refused, …
        """
        config = self._configured.config
        assert config is not None
        await self._host_side.set_up(self._host, config, self._peers.addresses)
        await self._hooks.post_up()
        self._is_up = True
        await self._services.start(config)

    # --- change -------------------------------------------------------------------------

    async def change(self, new: TunnelConfig) -> list[str]:
        """Bring a configured tunnel to a new configuration, or leave it as it is.

        Returns sentences of warning.

        Raises:
            NvpnError: the host or the backend refused; all is as before.
        """
        return await self._configured.change(new)

    def _follow_paths(self) -> None:
        """Peers may be reached another way now. Raises PlatformError."""
        self._configured.follow_paths()

    # --- what happens -------------------------------------------------------------------

    def _notice(self, notice: Notice) -> None:
        extra = {"peer": notice.peer.short}
        if notice.endpoint is not None:
            extra["endpoint"] = str(notice.endpoint)
        is_unanswered = notice.kind is NoticeKind.HANDSHAKE_UNANSWERED
        _log.log(logging.DEBUG if is_unanswered else logging.INFO, notice.kind.value, extra=extra)
        self._keeper.remember(notice)
        self._services.notice(notice)
        if is_unanswered or notice.kind is NoticeKind.HANDSHAKE_GIVEN_UP:
            self._peers.look_again(notice.peer)

    def _network_changed(self, why: str) -> None:
        _log.info("%s", why)
        # The way out first: the handshakes that begin now are to take it.
        self._host_side.follow_network()
        self._backend.network_changed()
        self._peers.network_changed()
        try:
            self._follow_paths()
        except NvpnError as error:
            _log.warning("%s", error)

    def _interface_gone(self) -> None:
        self._around.end(0, "the interface was removed")

    def _failed(self, error: BaseException) -> None:
        self._around.end(1, "an internal error")

    def _owner_of(self, peer: PublicKey) -> Owner | None:
        now = self._backend.peer(peer)
        return None if now is None else now.owner

    def _is_known(self, peer: PublicKey) -> bool:
        # A start that fails early knows of no peer, and must not forget all of them.
        return not self._has_peers or self._backend.has_peer(peer)

    # --- the end ------------------------------------------------------------------------

    async def prepare_stop(self) -> list[str]:
        """What is done while the tunnel still works: PreDown hooks, and saving.

        Returns sentences of warning. Again: waits for the first to be done, returns nothing.
        """
        return await self._ending.prepare() if self._is_up else []

    async def _run_post_down(self) -> None:
        """All the rest of us is gone."""
        for sentence in await self._hooks.post_down():
            self._around.warn(sentence)

    async def save(self) -> list[str]:
        """Write the running state into the file; sentences of warning. Raises NvpnError."""
        return await self._ending.save()


def _running_already(name: str) -> PlatformError:
    return PlatformError(f"start {name}", hint=f"it is running already; see: nvpn show {name}")


def _made_anew(config: TunnelConfig | None) -> frozenset[str]:
    """Of a dead daemon's leftovers those that the start replaces in one go.

    A kill switch that outlived its daemon must not be away for a moment.
    """
    has_guard = config is not None and config.interface.kill_switch
    return frozenset({"firewall"}) if has_guard else frozenset()
