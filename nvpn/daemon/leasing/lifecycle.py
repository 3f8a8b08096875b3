"""When to ask which server, and how long what it told is good: pure over ``now``.

The state is who leased us what we have, whom we ask, and when something is due. What is to be
done comes out of :meth:`Lifecycle.next_step`, what came of it goes back in:

=================  ====================================================================
what happens       what follows
=================  ====================================================================
start              ask the servers in their order
answered           keep it; ask the same one again when it is to be renewed
silence            ask the next one; after a round of all wait, longer each time
refused            likewise, but after a round wait as long as we ever do; what the one
                   who refuses had leased us is taken away
goodbye            the server goes: ask the next one at once, and keep what we have.
                   The lease ended, or is to be another: ask the same one at once.
                   We are revoked: as refused
no handshake       the server may be dead: if there is another, ask it at once, and keep
                   what we have
expiry             take it away, and ask at once
handshake          a server that we wait to ask again is there: ask it at once
=================  ====================================================================

All instants are boot-clock nanoseconds: a lease goes on ending while the machine sleeps.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, NamedTuple, Union

from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.resilience.backoff import Backoff
from nvpn.resilience.policy import RetryPolicy

_SHORTEST_PAUSE: Final = SECOND
"""Between two questions, however often a server says goodbye."""

_EARLIEST: Final = 10
"""A tenth of the time until the renewal is left to chance: clients that began together are
not to come back together."""


class Ask(NamedTuple):
    """Ask this server for a lease. ``is_anew``: begin a handshake with it first."""

    server: PublicKey
    is_anew: bool


class TakeAway(NamedTuple):
    """What was told is good no longer, for this reason."""

    why: str


class Wait(NamedTuple):
    """Nothing to do until then; None: until something happens."""

    until: int | None


Step = Union[Ask, TakeAway, Wait]  # noqa: UP007 - a runtime value on Python 3.10


class Farewell(enum.Enum):
    """What a server's goodbye means for us."""

    IT_GOES = enum.auto()
    ASK_AGAIN = enum.auto()
    WE_ARE_REVOKED = enum.auto()


class Lifecycle:
    """Args:
    servers: whom to ask, the first choice first.
    policy: of the waits after a round in which nobody answered.
    random: gives that many random bytes.
    """

    def __init__(
        self,
        servers: tuple[PublicKey, ...],
        policy: RetryPolicy,
        random: Callable[[int], bytes],
        now: int,
    ) -> None:
        self._servers = servers
        self._policy = policy
        self._backoff = Backoff(policy.without_limit(), random)
        self._random: Final = random
        self._holder: PublicKey | None = None
        self._expires_at: int | None = None
        self._asked: PublicKey | None = None
        self._asked_at = now - _SHORTEST_PAUSE
        self._ask_at = now
        self._turn = 0
        self._tried = 0
        self._were_refused = True
        self._is_anew = False
        self._to_take_away = ""

    @property
    def holder(self) -> PublicKey | None:
        """Whose lease we have."""
        return self._holder

    @property
    def asked(self) -> PublicKey | None:
        """Whom we are waiting for."""
        return self._asked

    @property
    def expires_at(self) -> int | None:
        """When what we have is over; None for never, or for having nothing."""
        return self._expires_at

    @property
    def ask_at(self) -> int:
        """When somebody is asked next, unless somebody is being asked."""
        return self._ask_at

    def next_step(self, now: int) -> Step:
        """What is to be done now. After Ask and TakeAway ask again what is."""
        if self._expires_at is not None and now >= self._expires_at:
            self._drop("it has expired")
            self._ask_now(now)
        if self._to_take_away:
            why, self._to_take_away = self._to_take_away, ""
            return TakeAway(why)
        if self._asked is not None or not self._servers:
            return Wait(self._expires_at)
        if now >= self._ask_at:
            self._asked, self._asked_at = self._servers[self._turn], now
            return Ask(self._asked, self._is_anew)
        if self._expires_at is None:
            return Wait(self._ask_at)
        return Wait(min(self._ask_at, self._expires_at))

    # --- what came of it ----------------------------------------------------------------

    def leased(self, server: PublicKey, lease: int, renew: int, now: int) -> None:
        """The server told us our settings, and they are in force.

        Args:
            lease: seconds; 0: for good.
            renew: seconds until we are to ask again.
        """
        self._asked = None
        self._backoff.reset()
        self._begin_round()
        self._is_anew = False
        if server not in self._servers:
            self._drop("the file names its server no more")
            return
        self._holder = server
        self._expires_at = now + lease * SECOND if lease else None
        self._ask_at = now + self._early(renew * SECOND)
        self._turn = self._servers.index(server)

    def failed(self, server: PublicKey, now: int) -> None:
        """No answer, or one of which nothing could be made."""
        if self._asked != server:
            return
        self._were_refused = False
        self._is_anew = True
        self._pass_on(now)

    def refused(self, server: PublicKey, now: int) -> None:
        """It does not want us."""
        if self._asked != server:
            return
        if self._holder == server:
            self._drop("the server refuses to renew it")
        self._pass_on(now)

    def parted(self, server: PublicKey, farewell: Farewell, now: int) -> None:
        """The server said goodbye. Of whom we neither have nor want anything: nothing."""
        if server not in (self._holder, self._asked):
            return
        if farewell is Farewell.WE_ARE_REVOKED:
            if self._holder == server:
                self._drop("the server has revoked us")
            if self._asked is None:
                # As if it had been asked, and had refused.
                self._asked = server
            self.refused(server, now)
            return
        if self._asked not in (None, server):
            return  # another one is asked already
        self._asked = None
        self._begin_round()
        if server in self._servers:
            self._turn = self._servers.index(server)
        if farewell is Farewell.IT_GOES:
            self._is_anew = True
            self._turn = (self._turn + 1) % max(1, len(self._servers))
        self._ask_now(now)

    def unheard(self, server: PublicKey, now: int) -> None:
        """It answers no handshake. Of interest once, of whom we have our lease."""
        is_known = self._asked is not None or self._is_anew
        if server == self._holder and len(self._servers) > 1 and not is_known:
            self.parted(server, Farewell.IT_GOES, now)

    def heard(self, server: PublicKey, now: int) -> None:
        """There is a new session with this peer."""
        if self._is_anew and self._asked is None and server in self._servers:
            self._begin_round()
            self._turn = self._servers.index(server)
            self._ask_now(now)

    def change_policy(self, policy: RetryPolicy) -> None:
        """Of waits to come."""
        if policy != self._policy:
            self._policy = policy
            self._backoff = Backoff(policy.without_limit(), self._random)

    def change_servers(self, servers: tuple[PublicKey, ...], now: int) -> None:
        """The file names others now."""
        if servers == self._servers:
            return
        self._servers = servers
        if self._asked not in servers:
            self._asked = None
        if self._holder is not None and self._holder not in servers:
            self._drop("the file names its server no more")
        self._begin_round()
        self._backoff.reset()
        if self._holder is None:
            self._turn = 0
            self._ask_now(now)
        else:
            self._turn = servers.index(self._holder)

    # --- details ------------------------------------------------------------------------

    def _pass_on(self, now: int) -> None:
        """To the next server, or into a pause once all were tried."""
        self._asked = None
        self._tried += 1
        self._turn = (self._turn + 1) % len(self._servers)
        if self._tried < len(self._servers):
            self._ask_at = now
            return
        delay = self._backoff.next_delay()
        assert delay is not None  # without a limit
        self._ask_at = now + (self._policy.maximum if self._were_refused else delay)
        self._begin_round()

    def _begin_round(self) -> None:
        self._tried = 0
        self._were_refused = True

    def _ask_now(self, now: int) -> None:
        self._ask_at = max(now, self._asked_at + _SHORTEST_PAUSE)

    def _drop(self, why: str) -> None:
        self._holder, self._expires_at = None, None
        self._to_take_away = why

    def _early(self, wait: int) -> int:
        drawn = int.from_bytes(self._random(4), "little")
        return wait - (drawn * (wait // _EARLIEST) >> 32)
