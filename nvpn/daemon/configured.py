"""What a tunnel is: as its file says, and with what others tell it upon that.

Each change comes whole or not at all, to the host and to the peers, and one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from nvpn.backend.api import TunnelBackend
from nvpn.config.model import Hooks, TunnelConfig
from nvpn.daemon.host_side import HostSide
from nvpn.daemon.leasing.client import Wanted
from nvpn.daemon.network_watch import NetworkWatch
from nvpn.daemon.next_start import left_for_next_start
from nvpn.daemon.peer_side import PeerSide, wipe_keys
from nvpn.daemon.services import Services
from nvpn.daemon.whereabouts import Whereabouts
from nvpn.errors import NvpnError
from nvpn.model.changes import AddPeer, Owner, Plan, SetFwmark

_log: Final = logging.getLogger(__name__)


class Configured:
    """Args:
    config: of the file; None for a bare device, which others configure.
    """

    def __init__(
        self,
        config: TunnelConfig | None,
        *,
        backend: TunnelBackend,
        host_side: HostSide,
        peers: Whereabouts,
        peer_side: PeerSide,
        services: Services,
        network_watch: NetworkWatch,
    ) -> None:
        self.config = config
        """What it is to be, or was last configured by, keys wiped; None for a bare device."""
        # With what others tell us: as the host is.
        self._effective = config
        self._backend = backend
        self._host_side = host_side
        self._peers = peers
        self._peer_side = peer_side
        self._services = services
        self._network_watch = network_watch
        self._changing = asyncio.Lock()
        self._is_to_follow = False

    def begin(self, config: TunnelConfig) -> None:
        """Its mark is known now."""
        self.config = self._effective = config

    def hooks(self) -> Hooks:
        """Those of the file."""
        return Hooks() if self.config is None else self.config.interface.hooks

    async def settled(self) -> None:
        """Return when no change is under way. Until whoever awaits this waits again, none is."""
        async with self._changing:
            pass

    async def change(self, new: TunnelConfig) -> list[str]:
        """Follow the file, or leave all as it is. Sentences of warning.

        Raises:
            NvpnError: the host or the backend refused; all is as before.
        """
        async with self._alone():
            old = self.config
            assert old is not None
            effective = self._host_side.with_mark(self._services.effective(new))
            new = _with_mark_of(effective, new)
            try:
                self._services.guard(new)
                unresolved = await self._bring(
                    effective,
                    lambda: self._with_places(
                        self._services.complete(
                            self._peer_side.plan(_with_keepalives_of(effective, new), old),
                            old,
                            new,
                        )
                    ),
                )
            except NvpnError:
                self._services.guard(old)
                raise
            finally:
                wipe_keys(new)
            self.config = new
            self._peer_side.settle(new)
            self._services.adopt(new)
            await self._host_side.change_name_servers(effective)
        # Without the lock: a service may have to be told something by others first.
        told = await self._services.change(new)
        _log.info("reloaded")
        return [*new.warnings, *unresolved, *told, *left_for_next_start(old, new)]

    async def overlay(self, wanted: Wanted) -> TunnelConfig | None:
        """Be what others tell us, beside what the file says, or leave all as it is.

        Args:
            wanted: asked when no other change is under way, so that its answer stays true.

        Returns what the tunnel is then; None if nothing was to be done.

        Raises:
            NvpnError: the host or the backend refused; all is as before.
        """
        async with self._alone():
            assert self.config is not None
            if (answer := wanted()) is None:
                return None
            effective, leased = self._host_side.with_mark(answer[0]), answer[1]
            mark = effective.interface.fwmark
            if mark != self.config.interface.fwmark:
                leased = (SetFwmark(mark), *leased)
            for sentence in await self._bring(
                effective, lambda: self._with_places(leased) + self._peers.plan()
            ):
                _log.warning("%s", sentence)
            self.config = _with_mark_of(effective, self.config)
            self._peers.told()
            await self._host_side.change_name_servers(effective)
            return effective

    def follow_paths(self) -> None:
        """Peers may be reached another way now. Raises PlatformError."""
        if self._changing.locked():
            self._is_to_follow = True  # as what is in force when that is over wants it
        elif self._effective is not None:
            self._host_side.follow_paths(self._effective, self._peers.addresses)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """For one change."""
        async with self._changing:
            try:
                yield
            finally:
                if self._is_to_follow and self._effective is not None:
                    self._is_to_follow = False
                    try:
                        self._host_side.follow_paths(self._effective, self._peers.addresses)
                    except NvpnError as error:
                        _log.warning("%s", error)

    def _with_places(self, plan: Plan) -> Plan:
        """A plan that may add servers of which others tell us, with where they are."""
        added = (change for change in plan if isinstance(change, AddPeer))
        return plan + self._peers.place(one.peer for one in added if one.owner is Owner.LEASE)

    async def _bring(self, effective: TunnelConfig, plan: Callable[[], Plan]) -> list[str]:
        """Host and peers, or none of both. Sentences of warning. Raises NvpnError."""
        before = self._effective
        assert before is not None
        try:
            unresolved = await self._peers.want(effective)
            changes = plan()
            with contextlib.ExitStack() as undo:
                finish = self._host_side.extend(effective, self._peers.addresses, undo)
                await self._backend.apply(changes)
                undo.pop_all()
        except NvpnError:
            await self._peers.want_again(before)
            raise
        finish()
        self._network_watch.pass_over()
        self._effective = effective
        _log.info("%d changes to keys and peers", len(changes))
        return unresolved


def _with_keepalives_of(effective: TunnelConfig, config: TunnelConfig) -> TunnelConfig:
    """They have no owner: so those that are told are not to be taken for the file's old ones."""
    seconds = {peer.public_key: peer.persistent_keepalive for peer in effective.peers}
    peers = (replace(peer, persistent_keepalive=seconds[peer.public_key]) for peer in config.peers)
    return replace(config, peers=tuple(peers))


def _with_mark_of(effective: TunnelConfig, config: TunnelConfig) -> TunnelConfig:
    mark = effective.interface.fwmark
    return replace(config, interface=replace(config.interface, fwmark=mark))
