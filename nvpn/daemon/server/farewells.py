"""What a server says by itself: that it goes, that a lease has ended, that somebody is revoked.

It is said once, to who has a session, and may get lost: a client finds out by itself, later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final, Protocol

from nvpn.channel.messages import Goodbye, GoodbyeReason
from nvpn.channel.schema import Message
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.snapshot import PeerSnapshot

_ALIVE: Final = 180 * SECOND
_PEERS_A_TURN: Final = 256

SENDING_SECONDS: Final = 0.1
"""What farewells get to leave the host before whoever they are for is cut off."""

REMINDER_SECONDS: Final = 2.0
"""After a handshake: a client that wants a lease has asked for it by then."""


class Peers(Protocol):
    """What of a backend is used."""

    def peer(self, peer: PublicKey) -> PeerSnapshot | None:
        """One peer now, None for an unknown one."""


class Port(Protocol):
    """What of a channel port is used."""

    def tell(self, peer: PublicKey, notice: Message) -> None:
        """Say something once."""


class Farewells:
    """Args:
    lacks_lease: whether this is a client that has none, and is not about to get one.
    """

    def __init__(
        self,
        peers: Peers,
        port: Port,
        *,
        loop: asyncio.AbstractEventLoop,
        lacks_lease: Callable[[PublicKey], bool],
    ) -> None:
        self._peers = peers
        self._port = port
        self._loop = loop
        self._lacks_lease = lacks_lease
        self._reminders: dict[PublicKey, asyncio.TimerHandle] = {}

    def say(self, key: PublicKey, reason: GoodbyeReason) -> bool:
        """Whether there was a session to say it in."""
        now = self._peers.peer(key)
        if now is None or now.session_age is None or now.session_age >= _ALIVE:
            return False
        self._port.tell(key, Goodbye(reason.value))
        return True

    async def say_to_all(self, keys: Collection[PublicKey], reason: GoodbyeReason) -> None:
        """And wait a moment, so that it leaves the host."""
        told = 0
        for place, key in enumerate(keys, 1):
            told += self.say(key, reason)
            if place % _PEERS_A_TURN == 0:
                await asyncio.sleep(0)
        if told:
            await asyncio.sleep(SENDING_SECONDS)

    def remind(self, key: PublicKey) -> None:
        """A session has begun: if it is a client without a lease, which does not know that it
        has none (we were started anew), it is told soon, and asks.
        """
        if key not in self._reminders and self._lacks_lease(key):
            self._reminders[key] = self._loop.call_later(REMINDER_SECONDS, self._remind, key)

    def close(self) -> None:
        """Remind nobody any more."""
        for reminder in self._reminders.values():
            reminder.cancel()
        self._reminders.clear()

    def _remind(self, key: PublicKey) -> None:
        del self._reminders[key]
        if self._lacks_lease(key):
            self.say(key, GoodbyeReason.LEASE_ENDED)
