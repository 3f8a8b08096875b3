"""What a store has, as clients, invitations and leases, and what each change of it means.

The same change may come twice (from a commit and from the watch), and the two may overtake
each other: of what is said about a key the greatest revision counts, also of its absence.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from nvpn.model.keys import PublicKey
from nvpn.registry.model import Client, Invitation
from nvpn.registry.records import (
    AddressLease,
    AnnouncedServer,
    NameHolder,
    ServerAddress,
    Value,
    lease_key,
    name_key,
    read,
)
from nvpn.registry.store import Changes, Condition

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Difference:
    """One record became another; None: there was or is none that we can read."""

    before: Value | None
    after: Value | None


class Mirror:
    """A copy of the store in memory, indexed by everything that is asked for."""

    def __init__(self) -> None:
        self.clients: Final[dict[PublicKey, Client]] = {}
        self.invitations: Final[dict[PublicKey, Invitation]] = {}
        self.leases: Final[dict[bytes, AddressLease]] = {}
        self.servers: Final[dict[PublicKey, AnnouncedServer]] = {}
        self.removals = 0
        """How many records went: as long as it is the same, no address has become free."""
        # Addresses of one client, and whose an address was last (they may differ).
        self._held: dict[PublicKey, set[bytes]] = {}
        self._last_holders: dict[bytes, PublicKey] = {}
        self._values: dict[str, Value | None] = {}
        self._revisions: dict[str, int] = {}
        # Everything up to this revision was told by the watch, or found at the start.
        self._watched = 0
        # What was removed since then, and when: older news of it may follow.
        self._removed: dict[str, int] = {}

    # --- asking -------------------------------------------------------------------------

    def unchanged(self, key: str) -> Condition:
        """That nobody changes this record before us."""
        return Condition(key, self._revisions.get(key, 0))

    def has(self, key: str) -> bool:
        """Whether there is such a record, be it one that we cannot read."""
        return key in self._revisions

    def client_named(self, name: str) -> Client | None:
        """Who is called that."""
        holder = self._values.get(name_key(name))
        return self.clients.get(holder.client) if isinstance(holder, NameHolder) else None

    def held_by(self, client: PublicKey) -> tuple[AddressLease, ...]:
        """The client's leases, IPv4 first."""
        held = list(self._held.get(client, ()))
        if len(held) > 1:
            held.sort(key=lambda one: (len(one), one))
        return tuple(self.leases[one] for one in held)

    def last_holder(self, address: bytes) -> PublicKey | None:
        """Who had the address last and may want it again."""
        return self._last_holders.get(address)

    def server_address(self, address: bytes) -> ServerAddress | None:
        """Whether it is a server's own."""
        value = self._values.get(lease_key(address))
        return value if isinstance(value, ServerAddress) else None

    def server_addresses(self) -> tuple[ServerAddress, ...]:
        """All that servers keep for themselves."""
        return tuple(one for one in self._values.values() if isinstance(one, ServerAddress))

    # --- following ----------------------------------------------------------------------

    def apply(self, changes: Changes, *, watched: bool = False) -> list[Difference]:
        """Learn what the store says, and tell what is new in it.

        Args:
            watched: it comes from the watch, or is all there is: nothing older follows.
        """
        if not watched and changes.revision <= self._watched:
            # The answer to a commit, overtaken by the watch: what it says is known, and may be
            # over already.
            return []
        if changes.is_anew:
            self._revisions = dict.fromkeys(self._revisions, 0)
            self._removed, self._watched = {}, 0
        differences = []
        for record in changes.records:
            if record.revision <= self._known(record.key):
                continue
            self._removed.pop(record.key, None)
            self._revisions[record.key] = record.revision
            value = read(record.key, record.value)
            if value is None:
                _log.warning("%s in the registry cannot be read and is left alone", record.key)
            differences.append(self._replace(record.key, value))
        missing = changes.missing
        if changes.whole:
            present = {record.key for record in changes.records}
            missing = tuple(key for key in self._revisions if key not in present)
        for key in missing:
            if changes.revision <= self._known(key):
                continue
            self._removed[key] = changes.revision
            if self._revisions.pop(key, None) is not None:
                self.removals += 1
                differences.append(self._replace(key, None))
        if watched:
            self._watched = max(self._watched, changes.revision)
            self._removed = {
                key: revision
                for key, revision in self._removed.items()
                if revision > changes.revision
            }
        return [one for one in differences if one.before != one.after]

    def _known(self, key: str) -> int:
        return self._revisions.get(key) or self._removed.get(key, 0)

    def _replace(self, key: str, after: Value | None) -> Difference:
        before = self._values.pop(key, None)
        if before is not None:
            self._forget(before)
        if key in self._revisions:
            self._values[key] = after
        if after is not None:
            self._remember(after)
        return Difference(before, after)

    def _forget(self, value: Value) -> None:
        if isinstance(value, Client):
            del self.clients[value.public_key]
            for address in value.addresses:
                if self._last_holders.get(address) == value.public_key:
                    del self._last_holders[address]
        elif isinstance(value, Invitation):
            del self.invitations[value.public_key]
        elif isinstance(value, AnnouncedServer):
            del self.servers[value.server.public_key]
        elif isinstance(value, AddressLease):
            del self.leases[value.address]
            held = self._held[value.client]
            held.discard(value.address)
            if not held:
                del self._held[value.client]

    def _remember(self, value: Value) -> None:
        if isinstance(value, Client):
            self.clients[value.public_key] = value
            for address in value.addresses:
                self._last_holders.setdefault(address, value.public_key)
        elif isinstance(value, Invitation):
            self.invitations[value.public_key] = value
        elif isinstance(value, AnnouncedServer):
            self.servers[value.server.public_key] = value
        elif isinstance(value, AddressLease):
            self.leases[value.address] = value
            self._held.setdefault(value.client, set()).add(value.address)
