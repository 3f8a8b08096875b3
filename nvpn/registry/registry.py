"""The registry: who is a client here, and which addresses each one holds.

Everything it knows is a mirror in memory of what its store has. An operation reads the
mirror, decides, and commits its edits under the condition that nothing it read has changed; if
something has, it looks again. So two servers on one store follow the same rules without
speaking to each other, and what happened is told from the mirror alone (``on_change``),
whoever did it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nvpn.model.clock import Now
from nvpn.model.keys import PublicKey
from nvpn.registry.model import (
    Client,
    Ending,
    FilePeer,
    Invitation,
    Lease,
    NewInvitation,
    RegistryChange,
    RegistrySettings,
)
from nvpn.registry.store import Store


class Registry:
    """All operations raise RegistryRefused (no, and why) or Unavailable (the store is away).

    Args:
        settings: what may be leased.
        file_peers: the peers of the configuration file.
        clocks: both clocks.
        random: so many random bytes; they become one-time keys.
        on_change: told on the loop what changed, in order, whoever did it, and before the
            operation that did it returns. What ``open`` finds is told as if it were new. It
            must not raise.
    """

    def __init__(
        self,
        store: Store,
        settings: RegistrySettings,
        *,
        file_peers: Mapping[PublicKey, FilePeer],
        clocks: Callable[[], Now],
        random: Callable[[int], bytes],
        on_change: Callable[[RegistryChange], None],
    ) -> None:
        raise NotImplementedError

    async def open(self) -> None:
        """Read what the store has, and follow it. Raises what Store.load does."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of the store. Leases stay as they are."""
        raise NotImplementedError

    async def reconfigure(
        self, settings: RegistrySettings, file_peers: Mapping[PublicKey, FilePeer]
    ) -> None:
        """Go by these from now on; leases that they do not allow end (``Ending.MOVED``)."""
        raise NotImplementedError

    # --- invitations ------------------------------------------------------------------------

    async def invite(self, name: str, *, expires_at: int, uses: int = 1) -> NewInvitation:
        """Let somebody come. ``expires_at`` is Unix nanoseconds."""
        raise NotImplementedError

    async def enrol(self, one_time: PublicKey, client: PublicKey, host: str = "") -> Client:
        """Admit who holds an invitation's key; the same client again is the same client."""
        raise NotImplementedError

    async def revoke_invitation(self, name_or_key: str) -> Invitation:
        """Nobody comes with it any more; those who came stay."""
        raise NotImplementedError

    # --- clients ----------------------------------------------------------------------------

    async def admit(self, client: PublicKey, name: str) -> Lease:
        """Admit a client that asks for nothing, and give it addresses for good."""
        raise NotImplementedError

    async def revoke(self, name_or_key: str) -> Client:
        """Throw a client out: its lease ends, and it gets no other."""
        raise NotImplementedError

    async def rename(self, old: str, new: str) -> Client:
        """Call a client something else. ``old`` may be its key."""
        raise NotImplementedError

    # --- leases -----------------------------------------------------------------------------

    async def lease(
        self, client: PublicKey, wanted: tuple[bytes, ...] = (), host: str = ""
    ) -> Lease:
        """Give a client its addresses, or renew them.

        ``wanted`` are 4 or 16 bytes each. ``host`` is what the client calls itself.
        """
        raise NotImplementedError

    async def release(self, client: PublicKey, why: Ending = Ending.RELEASED) -> None:
        """Take its addresses back; it gets the same ones next time if it can."""
        raise NotImplementedError

    async def return_leases(self) -> None:
        """Take back what this server gave or renewed last: it goes away."""
        raise NotImplementedError

    async def expire(self) -> None:
        """End what is over. Silent when the store is away: it is tried again later."""
        raise NotImplementedError

    def next_expiry(self) -> int | None:
        """When ``expire`` has something to do, boot-clock nanoseconds."""
        raise NotImplementedError

    # --- what there is ----------------------------------------------------------------------

    def remaining(self, lease: Lease) -> int | None:
        """Seconds that the lease is good for, None: for ever."""
        raise NotImplementedError

    def may_speak(self, key: PublicKey) -> bool:
        """Whether this is a client, a peer of the file, or neither."""
        raise NotImplementedError

    def clients(self) -> tuple[Client, ...]:
        """Who was admitted and not revoked, by name."""
        raise NotImplementedError

    def invitations(self) -> tuple[Invitation, ...]:
        """All that are remembered, by name; their state tells what they are good for."""
        raise NotImplementedError

    def leases(self) -> tuple[Lease, ...]:
        """What is given now, by client."""
        raise NotImplementedError

    def lease_of(self, client: PublicKey) -> Lease | None:
        """What this client holds."""
        raise NotImplementedError
