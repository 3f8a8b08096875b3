"""Clients with addresses for good whose pool has gone: they cannot ask, and wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nvpn.model.keys import PublicKey
from nvpn.registry.ledger import Ledger
from nvpn.registry.model import Client, Origin
from nvpn.registry.records import AddressLease, client_key, lease_key, put_lease
from nvpn.registry.telling import is_welcome


class Stranded:
    """See Registry for what each operation is.

    Args:
        may_hold: whether the configuration of this server allows a lease.
    """

    def __init__(self, ledger: Ledger, *, may_hold: Callable[[AddressLease], bool]) -> None:
        self._ledger: Final = ledger
        self._may_hold: Final = may_hold

    def clients(self) -> tuple[Client, ...]:
        """See Registry.stranded."""
        return tuple(
            one
            for one in self._ledger.mirror.clients.values()
            if one.origin is Origin.STATIC
            and is_welcome(one)
            and not all(self._holds(one.public_key, address) for address in one.addresses)
        )

    async def restore(self) -> None:
        """Give them back what nobody has and this server may lease again. Raises Unavailable."""
        mirror = self._ledger.mirror
        for client in self.clients():
            free = [one for one in client.addresses if not mirror.has(lease_key(one))]
            given = [self._lease(client.public_key, address) for address in free]
            back = list(filter(self._may_hold, given))
            if back:
                keys = [client_key(client.public_key), *(lease_key(one.address) for one in back)]
                # What somebody else took in between is gone.
                await self._ledger.commit(map(mirror.unchanged, keys), list(map(put_lease, back)))

    def _holds(self, client: PublicKey, address: bytes) -> bool:
        lease = self._ledger.mirror.leases.get(address)
        return lease is not None and lease.client == client and self._may_hold(lease)

    def _lease(self, client: PublicKey, address: bytes) -> AddressLease:
        """Without an end."""
        now, server = self._ledger.clocks().wall, self._ledger.server
        return AddressLease(address, client, now, 0, 0, server)
