"""Serves a tunnel's clients: admits them, leases them their addresses, takes leave of them.

What is true lies in the registry, and through it in its store; what is in force lies in the
tunnel's peers and allowed IPs, which the :class:`~nvpn.daemon.server.roster.Roster` makes
follow. In here is the time between: who asks, what falls due, and the end. Nothing waits for
a client, and a client that asks much is held back by the channel before it comes here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from typing import Any, Final

from nvpn.backend.alarm import Alarm, open_alarm
from nvpn.backend.api import TunnelBackend
from nvpn.channel.messages import GoodbyeReason
from nvpn.config.model import ServerConfig, StoreKind, TunnelConfig
from nvpn.control.server import Operation
from nvpn.daemon import events
from nvpn.daemon.channel_port import ChannelPort
from nvpn.daemon.server.answers import Answers
from nvpn.daemon.server.expiry import Expiry
from nvpn.daemon.server.farewells import Farewells
from nvpn.daemon.server.guests import Guests
from nvpn.daemon.server.idle import IdleReleaser
from nvpn.daemon.server.news import News
from nvpn.daemon.server.opening import open_at_once, open_later
from nvpn.daemon.server.operations import ServerOperations
from nvpn.daemon.server.roster import Roster, everybody, hand_back
from nvpn.daemon.server.stores import ETCD
from nvpn.daemon.server.terms import file_peers, registry_settings, tells_otherwise
from nvpn.daemon.surroundings import Surroundings
from nvpn.errors import ControlError, NvpnError, Unavailable
from nvpn.model.changes import Change, Plan, RemoveAllowedIp, RemovePeer
from nvpn.model.clock import Now, read_clocks
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import format_address
from nvpn.registry.model import (
    Client,
    ClientAdmitted,
    ClientRenamed,
    ClientRevoked,
    Ending,
    InvitationMade,
    LeaseEnded,
    LeaseGiven,
    RegistryChange,
    Server,
    ServerChanged,
)
from nvpn.registry.registry import Registry
from nvpn.registry.store import Store
from nvpn.resilience.breaker import BreakerState
from nvpn.resilience.policy import RetryPolicy
from nvpn.resilience.registry import Breakers

_log: Final = logging.getLogger(__name__)

RETURN_SECONDS: Final = 0.5
_CLOSING_SECONDS: Final = 0.5
_GATHERING_SECONDS: Final = 1.0
"""Servers that come together are told of together."""

_TOLD_OF: Final = frozenset({Ending.EXPIRED, Ending.IDLE, Ending.MOVED})
"""Ends that a client does not know of by itself."""


class ServerService:
    """One tunnel's server, from :meth:`prepare` to :meth:`close`.

    Args:
        config: with a server's section.
        publish: told what happens.
        on_left: called with a client that says that it goes.
        clocks, random, make_alarm: as everywhere.
    """

    def __init__(
        self,
        config: TunnelConfig,
        *,
        backend: TunnelBackend,
        port: ChannelPort,
        store: Store,
        breakers: Breakers,
        around: Surroundings,
        publish: Callable[[events.Event], None],
        on_left: Callable[[PublicKey], None],
        clocks: Callable[[], Now] = read_clocks,
        random: Callable[[int], bytes] = os.urandom,
        make_alarm: Callable[[asyncio.AbstractEventLoop, Callable[[], None]], Alarm] = open_alarm,
    ) -> None:
        self._config = config
        self._backend = backend
        self._port = port
        self._breakers = breakers
        self._around = around
        self._public_key = _public_key(backend)
        self._publish = publish
        self._clocks = clocks
        self._random = random
        self._where = store.describe()
        self._file_keys = frozenset(peer.public_key for peer in config.peers)
        self.registry: Final = Registry(
            store,
            registry_settings(config, self._public_key),
            file_peers=file_peers(config),
            clocks=clocks,
            random=random,
            on_change=self._changed,
        )
        self._roster = Roster(
            backend,
            loop=around.loop,
            is_of_file=lambda key: key in self._file_keys,
            farewell=lambda keys: self._farewells.say_to_all(keys, GoodbyeReason.REVOKED),
        )
        self._farewells = Farewells(backend, port, loop=around.loop, lacks_lease=self._lacks_lease)
        self._news = News(self._say_to_ask_again, holders=self.registry.holders, spawn=self._spawn)
        # The others, as clients were told of them.
        self._others: tuple[Server, ...] = ()
        self._answers = Answers(
            registry=self._opened,
            in_force=self._settled,
            terms=lambda: self._terms,
            is_ours=lambda key: key == self._public_key,
            name_of=self._name_of,
            publish=publish,
            on_left=on_left,
            on_enrolled=lambda key: self._guests.enrolled(key),
        )
        self._guests = Guests(
            self.registry,
            backend,
            loop=around.loop,
            is_of_file=lambda key: key in self._file_keys,
            spawn=self._spawn,
            clocks=clocks,
        )
        self._operations = ServerOperations(
            backend,
            registry=self._opened,
            terms=lambda: self._terms,
            public_key=self._our_key,
            in_force=self._settled,
            clocks=clocks,
        )
        self._is_open = False
        self._is_stopping = False
        self._is_closed = False
        self._names: dict[PublicKey, str] = {}
        self._idle = IdleReleaser(self.registry, backend, clocks)
        self._expiry = Expiry(
            self.registry,
            loop=around.loop,
            is_serving=lambda: self._is_open and not self._is_stopping,
            spawn=self._spawn,
            make_alarm=make_alarm,
        )
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def _terms(self) -> ServerConfig:
        terms = self._config.server
        assert terms is not None
        return terms

    # --- the beginning ----------------------------------------------------------------------

    async def prepare(self) -> tuple[PublicKey, ...]:
        """Open the registry, so that its clients are peers before the first packet comes.

        A store that does not answer yet costs a warning, and is tried again.

        Raises:
            PlatformError, Refused: there will be no registry.
        """
        is_far = self._terms.store.kind is not StoreKind.FILE
        why = await open_at_once(self.registry, is_far=is_far)
        if why:
            self._around.warn(
                f"{self._config.name} cannot serve clients yet: {self._where}: {why};"
                " trying on in the background"
            )
            self._spawn(self._open_later())
            return ()
        await self._begin()
        return tuple(one.public_key for one in self.registry.clients())

    def start(self) -> None:
        """The interface is up: answer clients."""
        self._answers.serve_on(self._port)
        self._spawn(self._guests.run())
        self._spawn(self._idle.run(lambda: self._terms.idle_timeout if self._is_open else 0))

    def spare(self, plan: Plan) -> Plan:
        """A reload's plan without what would throw clients out: they are the registry's."""
        names = {one.public_key: one.name for one in self.registry.clients()}
        return hand_back(plan, names.get)

    async def change(self, config: TunnelConfig) -> list[str]:
        """The file says something else now, and that is in force. Never raises."""
        before, self._config = self._terms, config
        self._public_key = _public_key(self._backend)
        self._file_keys = frozenset(peer.public_key for peer in config.peers)
        told = []
        try:
            await self.registry.reconfigure(
                registry_settings(config, self._public_key), file_peers(config)
            )
        except NvpnError as error:
            told.append(str(error))
        # Whom the file named, and names no more, may be a client still.
        self._roster.add(everybody(self.registry, lambda key: key in self._file_keys))
        await self._roster.in_force()
        self._expiry.look()
        if self._is_open and tells_otherwise(before, self._terms):
            self._news.tell()
        return [*told, *map(_tell_stranded, self.registry.stranded())]

    async def _open_later(self) -> None:
        def retry() -> RetryPolicy:
            return self._breakers.policies.retry

        if await open_later(self.registry, self._where, retry, self._random):
            await self._begin()
            _log.info("clients are served now: %s", self._where)

    async def _begin(self) -> None:
        self._is_open = True
        for client in self.registry.stranded():
            self._around.warn(_tell_stranded(client))
        self._others = self.registry.other_servers()
        await self._roster.in_force()
        self._expiry.look()

    def _our_key(self) -> PublicKey:
        """Also if somebody has just given us another. Raises ControlError."""
        self._public_key = _public_key(self._backend)
        if self._public_key is None:
            raise ControlError(
                errno.EINVAL, f"{self._config.name} has no private key, so that nobody can join it"
            )
        return self._public_key

    async def _settled(self) -> None:
        """Until all that the registry has told is in force."""
        self._expiry.look()
        await self._roster.in_force()

    def _opened(self) -> Registry:
        """Raises Unavailable."""
        if self._is_stopping:
            raise Unavailable("the server is going down")
        if not self._is_open:
            raise Unavailable(f"the registry is not reachable yet: {self._where}")
        return self.registry

    # --- what happens -----------------------------------------------------------------------

    def _changed(self, change: RegistryChange) -> None:
        if self._is_stopping:
            return  # what ends now ends with us
        if isinstance(change, ServerChanged):
            self._look_at_others()
            return
        key = change.key
        if isinstance(change, InvitationMade) and not self.registry.is_answered(key):
            return  # one that a start finds
        self._roster.tell(self._routed(change) if isinstance(change, LeaseGiven) else change)
        if isinstance(change, ClientAdmitted | ClientRenamed):
            self._names[key] = change.name
        if isinstance(change, ClientAdmitted) and (lease := self.registry.lease_of(key)):
            # Another server's file has named it before, so that it holds something already.
            self._roster.tell(self._routed(LeaseGiven(key, lease.prefixes)))
        if self._is_open:
            self._tell(change)
            self._expiry.look()
        if isinstance(change, ClientRevoked):
            self._names.pop(key, None)
        if isinstance(change, LeaseEnded) and change.why in _TOLD_OF:
            self._farewells.say(key, GoodbyeReason.LEASE_ENDED)

    def _look_at_others(self) -> None:
        others = self.registry.other_servers()
        if self._is_open and others != self._others:
            self._others = others
            self._news.tell(after=_GATHERING_SECONDS)

    def _say_to_ask_again(self, key: PublicKey) -> bool:
        reason = GoodbyeReason.SETTINGS_CHANGED
        return not self._is_stopping and self._farewells.say(key, reason)

    def _routed(self, given: LeaseGiven) -> LeaseGiven:
        """Of a lease, what is not somebody else's by our own file."""
        routed = self.registry.routed(given.key, given.prefixes)
        for prefix in given.prefixes:
            if prefix not in routed:
                _log.warning(
                    "another server has leased %s, which is not to be leased by this file: it"
                    " is not routed here",
                    prefix,
                    extra={"peer": given.key.short},
                )
        return LeaseGiven(given.key, routed)

    def _tell(self, change: RegistryChange) -> None:
        """Only what is news: not what a start finds."""
        key, name = change.key, self._name_of(change.key)
        if isinstance(change, LeaseGiven):
            self._publish(events.Leased(key, name, change.prefixes))
        elif isinstance(change, LeaseEnded):
            self._publish(events.LeaseEnded(key, name, change.prefixes, change.why.value))
        elif isinstance(change, ClientAdmitted):
            self._publish(events.Admitted(key, name))
        elif isinstance(change, ClientRevoked):
            self._publish(events.Revoked(key, name))

    def notice(self, notice: Notice) -> None:
        """A client that begins a session, and does not ask, is told if it has no lease."""
        if notice.kind is NoticeKind.HANDSHAKE_COMPLETED:
            self._farewells.remind(notice.peer)

    def _lacks_lease(self, key: PublicKey) -> bool:
        return (
            self._is_open
            and not self._is_stopping
            and key in self._names
            and not self._answers.is_asking(key)
            and self.registry.lease_of(key) is None
        )

    def _name_of(self, key: PublicKey) -> str:
        if key in self._names:
            return self._names[key]
        now = self._backend.peer(key)
        return "" if now is None else now.name

    # --- for people -------------------------------------------------------------------------

    def operations(self) -> dict[str, Operation]:
        """What the control socket offers."""
        return self._operations.by_name()

    def describe(self) -> dict[str, Any]:
        """For people and programs."""
        registry, now = self.registry, self._clocks()
        states = [one.state(now.wall).value for one in registry.invitations()]
        breakers = {one.name: one.state for one in self._breakers.snapshots(now.boot)}
        is_answering = breakers.get(ETCD, BreakerState.CLOSED) is BreakerState.CLOSED
        return {
            "store": self._where,
            "is_reachable": self._is_open and is_answering,
            "pools": [str(pool) for pool in self._terms.pools],
            "clients": len(registry.clients()),
            "leases": len(registry.holders()),
            "open_invitations": states.count("open"),
            "other_servers": [one.name for one in registry.other_servers()],
        }

    # --- the end ----------------------------------------------------------------------------

    async def prepare_stop(self) -> None:
        """Take leave of clients, so that they look for another server at once.

        Nobody is let in any more; what was leased here goes back. Bounded; never raises.
        """
        if not self._is_stopping:
            self._backend.stop_admitting()
            await self._take_leave()

    async def withdraw(self) -> None:
        """The file has no server any more: clients go, and peers of the file lose what they
        leased. Never raises.
        """
        keys = [one.public_key for one in self.registry.clients()]
        keys += [one.public_key for one in self.registry.invitations()]
        gone: list[Change] = [
            RemoveAllowedIp(lease.client, prefix)
            for lease in self.registry.leases()
            for prefix in lease.prefixes
        ]
        gone += [RemovePeer(key) for key in keys if key not in self._file_keys]
        await self._take_leave()
        self._roster.add(gone)
        await self._roster.in_force()
        await self.close()

    async def _take_leave(self) -> None:
        self._is_stopping = True
        holders = self.registry.holders() if self._is_open else ()
        await self._farewells.say_to_all(holders, GoodbyeReason.STOPPING)
        if self._is_open:
            try:
                await asyncio.wait_for(self.registry.return_leases(), RETURN_SECONDS)
            except (NvpnError, asyncio.TimeoutError) as error:
                _log.warning("not all leases are given back: %s", error or "the store is silent")

    async def close(self) -> None:
        """Let go of everything. Never raises; again: nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._is_stopping, self._is_open = True, False
        self._expiry.close()
        self._farewells.close()
        self._guests.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._roster.close()
        try:
            await asyncio.wait_for(self.registry.close(), _CLOSING_SECONDS)
        except (NvpnError, asyncio.TimeoutError) as error:
            _log.warning("%s: %s", self._where, error or "it does not let go")

    def _spawn(self, work: Any) -> None:
        task = self._around.spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _public_key(backend: TunnelBackend) -> PublicKey | None:
    key = backend.snapshot().private_key
    return None if key is None else key.public()


def _tell_stranded(client: Client) -> str:
    addresses = ", ".join(map(format_address, client.addresses))
    return (
        f"{client.name} has {addresses} for good, which this file does not lease: it is cut off"
        " until a pool of the file holds it again, or it is revoked and added anew"
    )
