"""All of a tunnel that its backend sees: keys, peers, where they are, the port.

The counterpart of :mod:`nvpn.daemon.host_side`. What a start remembers of the last run comes
in here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from nvpn.backend.api import TunnelBackend
from nvpn.config.model import TunnelConfig
from nvpn.config.plan import diff
from nvpn.daemon.follower import LinkFollower
from nvpn.daemon.keeper import StateKeeper
from nvpn.daemon.memory import TunnelMemory
from nvpn.daemon.recall import recall
from nvpn.daemon.surroundings import Surroundings
from nvpn.daemon.whereabouts import Whereabouts
from nvpn.errors import ControlError
from nvpn.model.changes import Plan, SetEndpoint, SetListenPort
from nvpn.model.clock import SECOND, boot_ns, read_clocks
from nvpn.model.keys import PublicKey

_log: Final = logging.getLogger(__name__)

_DAY: Final = 86_400 * SECOND
_MIN_BURST: Final = 20
_RECALLS_PER_SECOND: Final = 2000
"""Handshakes that a start begins at most, with peers who believe in a session with us."""
_RECALL_TICK: Final = 0.01


class PeerSide:
    """Args:
    memory: what the last run left.
    """

    def __init__(
        self,
        backend: TunnelBackend,
        *,
        peers: Whereabouts,
        keeper: StateKeeper,
        memory: TunnelMemory,
        around: Surroundings,
    ) -> None:
        self._backend = backend
        self._peers = peers
        self._keeper = keeper
        self._memory = memory
        self._around = around
        self._in_session: list[PublicKey] = []

    async def fill(self, config: TunnelConfig) -> None:
        """A start: the configured peers, where they are or were. Wipes the keys.

        Raises:
            ControlError: the backend refused.
        """
        for sentence in await self._peers.want(config):
            self._around.warn(sentence)
        now = read_clocks()
        keys = [peer.public_key for peer in config.peers]
        recalled = recall(keys, self._peers.best, self._memory, wall=now.wall, boot=now.boot)
        self._check_clock(now.wall)
        self._expect(len(keys))
        # Nothing, or an interface of the kernel's that is taken over, sessions and all.
        running = self._backend.snapshot()
        placed = {peer.public_key for peer in running.peers if peer.endpoint is not None}
        elsewhere = tuple(
            SetEndpoint(peer.public_key, recalled.endpoints[peer.public_key])
            for peer in config.peers
            if peer.endpoint is None
            and peer.public_key in recalled.endpoints
            and peer.public_key not in placed
        )
        try:
            await self._backend.apply(
                diff(running, config, recalled.endpoints, previous=config)
                + elsewhere
                + self._peers.plan()
            )
        finally:
            wipe_keys(config)
        self._peers.told()
        self._in_session += recalled.in_session

    async def recall_more(self, keys: Sequence[PublicKey]) -> None:
        """Peers that are in no file: they are where they were. Raises ControlError."""
        now = read_clocks()
        recalled = recall(keys, {}, self._memory, wall=now.wall, boot=now.boot)
        await self._backend.apply(
            tuple(SetEndpoint(key, endpoint) for key, endpoint in recalled.endpoints.items())
        )
        self._in_session += recalled.in_session
        self._expect(len(self._backend.peers()))

    async def bind(self, config: TunnelConfig, follower: LinkFollower) -> None:
        """Bind the configured port, or the one the kernel chose last time if it is free.

        So peers that only know our last address and port still reach us. Then those who
        believe in a session with us are called.

        Raises:
            ControlError: the port is taken.
        """
        is_free = config.interface.listen_port is None and not self._backend.listen_port
        if is_free and self._memory.listen_port:
            await self._backend.apply((SetListenPort(self._memory.listen_port),))
            try:
                await follower.serve()
            except ControlError as error:
                _log.info("the port of the last run is not free: %s", error)
                await self._backend.apply((SetListenPort(0),))
        await follower.serve()
        self._remember_port(config)
        if self._in_session:
            self._around.spawn(self._initiate(tuple(self._in_session)))

    def plan(self, new: TunnelConfig, old: TunnelConfig) -> Plan:
        """The changes that lead from one configuration of the file to another."""
        boot = boot_ns()
        endpoints = {
            peer: endpoint._replace(learned_at=boot) for peer, endpoint in self._peers.best.items()
        }
        changes = diff(self._backend.snapshot(), new, endpoints, previous=old)
        return changes + self._peers.plan()

    def settle(self, new: TunnelConfig) -> None:
        """That plan is in force."""
        self._peers.told()
        self._expect(len(self._backend.peers()))
        self._remember_port(new)

    def _expect(self, peers: int) -> None:
        self._keeper.timestamps.burst = max(_MIN_BURST, peers)

    def _remember_port(self, config: TunnelConfig) -> None:
        is_chosen = config.interface.listen_port is None
        self._keeper.remember_port(self._backend.listen_port if is_chosen else 0)

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


def wipe_keys(config: TunnelConfig) -> None:
    """The device has copies of its own."""
    if config.interface.private_key is not None:
        config.interface.private_key.wipe()
    for peer in config.peers:
        if peer.preshared_key is not None:
            peer.preshared_key.wipe()
