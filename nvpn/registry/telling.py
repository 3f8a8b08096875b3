"""What differences of records mean to a server: admissions, invitations, leases, servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.registry.mirror import Difference
from nvpn.registry.model import (
    Client,
    ClientAdmitted,
    ClientRenamed,
    ClientRevoked,
    Ending,
    Invitation,
    InvitationGone,
    InvitationMade,
    LeaseEnded,
    LeaseGiven,
    Origin,
    RegistryChange,
    Server,
    ServerChanged,
)
from nvpn.registry.records import AddressLease, AnnouncedServer, Value


def is_welcome(client: Client | None) -> bool:
    """Whether it was admitted here and not revoked; a peer of the file is no client."""
    return client is not None and client.origin is not Origin.FILE and not client.revoked_at


def tell(
    differences: Iterable[Difference], why: Callable[[AddressLease], Ending]
) -> list[RegistryChange]:
    """What to say, in an order in which it can be acted on.

    Leases end before anything else, and before their clients go; clients come before their
    leases.
    """
    ended: dict[tuple[PublicKey, Ending], list[Prefix]] = {}
    given: dict[PublicKey, list[Prefix]] = {}
    others: list[RegistryChange] = []
    for one in differences:
        before, after = _lease(one.before), _lease(one.after)
        if before is not None and (after is None or after.client != before.client):
            ended.setdefault((before.client, why(before)), []).append(_prefix(before))
        if after is not None and (before is None or before.client != after.client):
            given.setdefault(after.client, []).append(_prefix(after))
        others += _tell_client(one)
        others += _tell_invitation(one)
        others += _tell_server(one)
    return [
        *(LeaseEnded(key, tuple(prefixes), reason) for (key, reason), prefixes in ended.items()),
        *others,
        *(LeaseGiven(key, tuple(prefixes)) for key, prefixes in given.items()),
    ]


def _tell_client(one: Difference) -> list[RegistryChange]:
    before = one.before if isinstance(one.before, Client) else None
    after = one.after if isinstance(one.after, Client) else None
    if after is not None and is_welcome(after):
        if not is_welcome(before):
            return [ClientAdmitted(after.public_key, after.name)]
        if before is not None and before.name != after.name:
            return [ClientRenamed(after.public_key, after.name)]
    elif before is not None and is_welcome(before):
        return [ClientRevoked(before.public_key)]
    return []


def _tell_invitation(one: Difference) -> list[RegistryChange]:
    if isinstance(one.after, Invitation) and one.before is None:
        return [InvitationMade(one.after.public_key, one.after.name)]
    if isinstance(one.before, Invitation) and one.after is None:
        return [InvitationGone(one.before.public_key)]
    return []


def _tell_server(one: Difference) -> list[RegistryChange]:
    before, after = _server(one.before), _server(one.after)
    if before == after:
        return []  # that it is there still is no news
    changed = after or before
    assert changed is not None
    return [ServerChanged(changed.public_key)]


def _server(value: Value | None) -> Server | None:
    return value.server if isinstance(value, AnnouncedServer) else None


def _lease(value: Value | None) -> AddressLease | None:
    return value if isinstance(value, AddressLease) else None


def _prefix(lease: AddressLease) -> Prefix:
    return Prefix.of(lease.address, len(lease.address) * 8)
