"""Has a server lease us addresses for as long as the tunnel runs.

The thin part around :class:`Lifecycle`: it asks over the control channel, has what is told put
into force, and follows the clock and the server's goodbyes. Nothing here holds up the tunnel:
without any server's answer it goes on as its file says.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from nvpn import __version__
from nvpn.backend.alarm import Alarm, open_alarm
from nvpn.channel.messages import Goodbye, GoodbyeReason, LeaseRequest, Release
from nvpn.config.model import TunnelConfig
from nvpn.daemon.leasing.lifecycle import Ask, Farewell, Lifecycle, TakeAway
from nvpn.daemon.leasing.memory import LeaseMemory, write_lease
from nvpn.daemon.leasing.overlay import (
    lease_plan,
    leased_addresses,
    leased_keepalives,
    overlay,
    servers_of,
    with_knowledge,
    with_servers,
)
from nvpn.daemon.leasing.port import Port, our_name
from nvpn.daemon.leasing.told import Surrounding, Told, take_settings
from nvpn.daemon.threads import run_in_thread
from nvpn.errors import NvpnError, Refused, Unavailable
from nvpn.model.changes import Plan
from nvpn.model.clock import MILLISECOND, SECOND, boot_ns
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import Interface
from nvpn.resilience.policy import RetryPolicy

_log: Final = logging.getLogger(__name__)

FIRST_LEASE_SECONDS: Final = 10.0
"""How long a start waits for the first lease."""

ASK_RETRY: Final = RetryPolicy(
    max_attempts=6, initial=400 * MILLISECOND, maximum=SECOND, multiplier=1.5, jitter=0.5
)
"""Some four seconds until the next server's turn, and never long after one is back."""

RELEASE_SECONDS: Final = 0.2
"""How long the end waits until the server knows that it has its addresses back."""

MAX_COMPLAINTS: Final = 10
"""About one answer of a server, in the log."""

_SILENCE: Final = (NoticeKind.HANDSHAKE_UNANSWERED, NoticeKind.HANDSHAKE_GIVEN_UP)

_REVOKED: Final = "the server has revoked this client"

_FAREWELLS: Final = {
    GoodbyeReason.STOPPING.value: Farewell.IT_GOES,
    GoodbyeReason.LEASE_ENDED.value: Farewell.ASK_AGAIN,
    GoodbyeReason.SETTINGS_CHANGED.value: Farewell.ASK_AGAIN,
    GoodbyeReason.REVOKED.value: Farewell.WE_ARE_REVOKED,
}


Wanted = Callable[[], "tuple[TunnelConfig, Plan] | None"]
"""The effective configuration, and the changes to the peers that lead there; None: it is as it
is to be. An answer is good for as long as no reload comes in between."""


class LeaseClient:
    """One tunnel's lease, from :meth:`start` to :meth:`close`.

    Args:
        config: what the file says.
        memory: of the last run.
        memory_path: where to remember for the next.
        initiate: begins a handshake with a peer.
        apply: asks, when its turn has come, what is wanted, and brings the host and the peers
            there; raises NvpnError when one refuses, and all is as before then.
        surrounding: what a lease must not get into the way of, with what the file says.
        spawn: starts a background task of the daemon.
        warn: tells whoever started the tunnel.
    """

    def __init__(
        self,
        config: TunnelConfig,
        memory: LeaseMemory | None,
        *,
        memory_path: str,
        port: Port,
        initiate: Callable[[PublicKey], None],
        apply: Callable[[Wanted], Awaitable[None]],
        surrounding: Callable[[TunnelConfig], Surrounding],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        warn: Callable[[str], None],
        random: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], int] = boot_ns,
        make_alarm: Callable[[asyncio.AbstractEventLoop, Callable[[], None]], Alarm] = open_alarm,
    ) -> None:
        self._config = config
        self._memory = memory
        self._memory_path = memory_path
        self._port = port
        self._initiate = initiate
        self._apply = apply
        self._surrounding = surrounding
        self._spawn = spawn
        self._warn = warn
        self._clock = clock
        self._make_alarm = make_alarm
        retry = config.resilience.retry
        self._lifecycle = Lifecycle(servers_of(config), retry, random, clock())
        self._told: Told | None = None
        # Upon the file: a lease, or no more than where a server may be.
        self._in_force: Told | None = None
        self._woken = asyncio.Event()
        self._has_come_or_was_refused = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        # One change to the host at a time.
        self._bringing = asyncio.Lock()
        self._has_started = False
        self._trouble = ""
        self._complaints: tuple[str, ...] = ()
        self._alarm: Alarm | None = None

    @property
    def told(self) -> Told | None:
        """The lease that is in force; None without one."""
        return self._told

    def effective(self, config: TunnelConfig) -> TunnelConfig:
        """What a configuration of the file comes to, with what was told."""
        return overlay(config, self._in_force)

    def changes(self, old: TunnelConfig, new: TunnelConfig) -> Plan:
        """From one configuration of the file to another: what becomes of the lease's routes."""
        return lease_plan((old, self._in_force), (new, self._in_force))

    def addresses(self) -> tuple[Interface, ...]:
        """What the interface has and the file does not say."""
        return leased_addresses(self._config, self._in_force)

    def keepalives(self) -> dict[PublicKey, int]:
        """What peers have and the file does not say, in seconds."""
        return leased_keepalives(self._config, self._in_force)

    async def start(self, seconds: float = FIRST_LEASE_SECONDS) -> None:
        """Begin, and wait a while for the first lease; a warning says that it did not come."""
        self._has_started = True
        if not servers_of(self._config):
            return
        await self._look_where_it_was()
        self._begin()
        try:
            await asyncio.wait_for(self._has_come_or_was_refused.wait(), seconds)
        except asyncio.TimeoutError:
            pass
        if self._told is None:
            why = f" ({self._trouble})" if self._trouble else ""
            self._warn(f"no lease yet{why}; {self._config.name} goes on asking")

    def change(self, config: TunnelConfig) -> None:
        """The file says something else by now, and that is in force.

        What was told stays upon it, if its server does.
        """
        self._config = config
        told = self._in_force
        if told is not None and told.server not in servers_of(config, told):
            self._told = self._in_force = None
        servers = servers_of(config, self._in_force)
        self._lifecycle.change_policy(config.resilience.retry)
        self._lifecycle.change_servers(servers, self._clock())
        self._stop_asking_in_vain()
        self._woken.set()
        if servers and self._has_started and self._running is None:
            self._begin()

    def notice(self, notice: Notice) -> None:
        """Something happened to a peer."""
        if notice.kind is NoticeKind.HANDSHAKE_COMPLETED:
            self._lifecycle.heard(notice.peer, self._clock())
        elif notice.kind in _SILENCE:
            self._lifecycle.unheard(notice.peer, self._clock())
        else:
            return
        self._woken.set()

    async def release(self) -> None:
        """The tunnel goes down: ask no more, and give back what we have. Never raises."""
        self.close()
        holder = self._lifecycle.holder
        if holder is None:
            return
        try:
            await asyncio.wait_for(self._port.ask(holder, Release()), RELEASE_SECONDS)
        except (NvpnError, asyncio.TimeoutError):
            _log.debug("the server did not hear that we go", extra={"peer": holder.short})
        # It is an answer, too: without any the server would look for us for a while.
        self._port.tell(holder, Goodbye(GoodbyeReason.STOPPING.value))

    def close(self) -> None:
        """Ask no more. What is in force stays. Again: nothing."""
        self._has_started = False
        for task in (self._running, self._asking):
            if task is not None:
                task.cancel()
        self._running = self._asking = None
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None

    def describe(self) -> dict[str, Any] | None:
        """For people and programs; None where the file names no server."""
        servers = servers_of(self._config)
        if not servers:
            return None
        life, now, told = self._lifecycle, self._clock(), self._told
        expires_at = life.expires_at
        return {
            "state": "leased" if told else "asking" if life.asked else "waiting",
            "server": None if told is None else told.server.base64,
            "name": "" if told is None else told.name,
            "addresses": [] if told is None else [str(one) for one in told.addresses],
            "expires_in_seconds": None if expires_at is None else (expires_at - now) // SECOND,
            "asks_again_in_seconds": 0 if life.asked else max(0, life.ask_at - now) // SECOND,
            "trouble": self._trouble,
        }

    def _begin(self) -> None:
        self._port.on_notice(Goodbye, self._parted)
        self._alarm = self._make_alarm(asyncio.get_running_loop(), self._woken.set)
        self._running = self._spawn(self._run())

    # --- what is due ----------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            step = self._lifecycle.next_step(self._clock())
            if isinstance(step, Ask):
                if self._asking is not None:
                    await asyncio.wait((self._asking,))  # two answers are not to mix
                self._asking = self._spawn(self._ask(step))
            elif isinstance(step, TakeAway):
                await self._take_away(step.why)
            else:
                if self._alarm is not None:
                    self._alarm.set(step.until)
                await self._woken.wait()

    async def _ask(self, step: Ask) -> None:
        server, begun = step.server, self._clock()
        if step.is_anew:
            self._initiate(server)
        try:
            told = await self._request(server)
            await self._put_into_force(told)
        except Unavailable as error:
            if self._trouble != _REVOKED:  # which is why nobody answers
                self._fail(server, str(error))
            self._lifecycle.failed(server, self._clock())
        except Refused as error:
            self._fail(server, str(error))
            self._lifecycle.refused(server, self._clock())
            self._has_come_or_was_refused.set()
        except NvpnError as error:
            # The host's fault, so another server would not help: no sooner than later.
            self._fail(server, str(error))
            self._lifecycle.refused(server, self._clock())
            self._has_come_or_was_refused.set()
        else:
            self._trouble = ""
            # From when we asked: the server cannot have counted from an earlier moment.
            self._lifecycle.leased(server, told.lease, told.renew, begun)
            self._has_come_or_was_refused.set()
            self._remember(told)
        finally:
            self._woken.set()

    async def _request(self, server: PublicKey) -> Told:
        """Raises Unavailable, Refused."""
        request = LeaseRequest(our_name(), __version__, self._wanted())
        settings = await self._port.ask(server, request, ASK_RETRY)
        told, complaints = take_settings(settings, server, self._config, self._around())
        if complaints != self._complaints:
            self._complaints = complaints
            for sentence in complaints[:MAX_COMPLAINTS]:
                _log.warning("%s", sentence)
            if len(complaints) > MAX_COMPLAINTS:
                _log.warning("and %d things more", len(complaints) - MAX_COMPLAINTS)
        return with_knowledge(told, self._in_force, self._config)

    def _wanted(self) -> tuple[Interface, ...]:
        if self._told is not None:
            return self._told.addresses
        return () if self._memory is None else self._memory.addresses

    def _around(self) -> Surrounding:
        """Our own leased addresses are ours by right."""
        around = self._surrounding(with_servers(self._config, self._in_force))
        leased = {one.address for one in self._told.addresses} if self._told else set()
        is_ours = around.is_ours
        return replace(around, is_ours=lambda packed: packed not in leased and is_ours(packed))

    async def _put_into_force(self, told: Told) -> None:
        if self._told is not None and _settings_of(told) == _settings_of(self._told):
            self._told = told
            return
        async with self._bringing:
            await self._bring(told)
            self._told = told
        _log.info(
            "leased %s%s",
            ", ".join(map(str, told.addresses)),
            f" for {told.lease} seconds" if told.lease else "",
            extra={"peer": told.server.short},
        )

    async def _take_away(self, why: str) -> None:
        async with self._bringing:
            if self._told is None or self._lifecycle.holder is not None:
                return  # a new lease has come meanwhile
            told, self._told = self._told, None
            await self._bring_less(told, why)

    async def _bring_less(self, told: Told, why: str) -> None:
        _log.warning(
            "without the lease of %s: %s",
            ", ".join(map(str, told.addresses)),
            why,
            extra={"peer": told.server.short},
        )
        try:
            # Where it may be found is as good as before.
            await self._bring(LeaseMemory.of(told).as_told())
        except NvpnError as error:
            _log.warning("%s", error)

    async def _look_where_it_was(self) -> None:
        """A server may be found at a place that only it has told us."""
        memory = self._memory
        told = None if memory is None else memory.as_told()
        if told is None or told.server not in servers_of(self._config, told):
            return
        async with self._bringing:
            try:
                await self._bring(told)
            except NvpnError as error:
                _log.warning("%s", error)

    async def _bring(self, told: Told) -> None:
        """Raises NvpnError: all is as before."""

        def wanted() -> tuple[TunnelConfig, Plan] | None:
            # Not before it is our turn: the reload that we waited for has changed the file.
            config, before = self._config, self._in_force
            effective = overlay(config, told)
            plan = lease_plan((config, before), (config, told))
            return (effective, plan) if plan or effective != overlay(config, before) else None

        await self._apply(wanted)
        self._in_force = told
        self._lifecycle.change_servers(servers_of(self._config, told), self._clock())

    def _remember(self, told: Told) -> None:
        memory = LeaseMemory.of(told)
        if memory != self._memory:
            self._memory = memory
            if self._writing is None:
                self._writing = self._spawn(self._write())

    async def _write(self) -> None:
        """One at a time, so that nothing older is ever written over something newer."""
        written = None
        while (memory := self._memory) is not None and memory is not written:
            write = functools.partial(write_lease, self._memory_path, memory)
            try:
                await run_in_thread(write, name="lease")
            except OSError as error:
                _log.warning("cannot write %s: %s", self._memory_path, error.strerror)
            written = memory
        self._writing = None

    # --- what happens ---------------------------------------------------------------------

    def _parted(self, peer: PublicKey, goodbye: Goodbye) -> None:
        farewell = _FAREWELLS.get(goodbye.reason, Farewell.IT_GOES)
        if peer in (self._lifecycle.holder, self._lifecycle.asked):
            _log.info("the server says goodbye: %s", goodbye.reason, extra={"peer": peer.short})
            if farewell is Farewell.WE_ARE_REVOKED:
                self._fail(peer, _REVOKED)
        self._lifecycle.parted(peer, farewell, self._clock())
        self._stop_asking_in_vain()
        self._woken.set()

    def _stop_asking_in_vain(self) -> None:
        """Whoever is asked may not be the one to ask any more. What is told already counts."""
        is_needless = self._lifecycle.asked is None and not self._bringing.locked()
        if self._asking is not None and is_needless:
            self._asking.cancel()

    def _fail(self, server: PublicKey, why: str) -> None:
        if why != self._trouble:
            _log.warning("no lease: %s", why, extra={"peer": server.short})
        self._trouble = why


def _settings_of(told: Told) -> Told:
    return replace(told, lease=0, renew=0)
