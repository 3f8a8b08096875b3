"""Which addresses a client gets: the rules, pure over what is known.

Of each family, the first of these that is free:

1. what is reserved for it (and where something is, nothing else);
2. what it holds, then what it had last;
3. what it wishes for, if nobody else had it last;
4. an address that nobody had, beginning at a place that follows from its key;
5. the address that its last holder has not asked for for longest.

A family without a free address is left out; so a client may get one of two.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator

from nvpn.model.keys import PublicKey
from nvpn.registry.mirror import Mirror
from nvpn.registry.pools import Pools
from nvpn.registry.records import lease_key


def choose(
    client: PublicKey,
    *,
    reserved: tuple[bytes, ...],
    wanted: Iterable[bytes],
    pools: Pools,
    mirror: Mirror,
    is_pending: Callable[[bytes], bool],
    full: Container[int] = (),
) -> tuple[bytes, ...]:
    """Addresses, at most one a family, IPv4 first; none: everything is taken.

    Args:
        wanted: the client's wishes, best first; anything may be among them.
        is_pending: whether an address is being given to another client right now.
        full: families of which nothing is free: to find that out takes long.
    """
    held = {lease.address for lease in mirror.held_by(client)}
    known = mirror.clients.get(client)
    before = known.addresses if known is not None else ()

    def is_free(address: bytes) -> bool:
        return address in held or (not mirror.has(lease_key(address)) and not is_pending(address))

    def is_unclaimed(address: bytes) -> bool:
        return mirror.last_holder(address) in (None, client)

    def candidates(version: int) -> Iterator[bytes]:
        if any(version_of(one) == version for one in reserved):
            yield from reserved
            return
        yield from (one for one in (*held, *before) if pools.is_leasable(one))
        if version in full:
            return
        yield from (one for one in wanted if pools.is_leasable(one) and is_unclaimed(one))
        yield from (one for one in pools.walk(version, client) if is_unclaimed(one))
        yield from _longest_unused(mirror, pools)

    families = {*pools.families, *map(version_of, reserved)}
    chosen = (
        next(
            (one for one in candidates(version) if version_of(one) == version and is_free(one)),
            None,
        )
        for version in sorted(families)
    )
    return tuple(one for one in chosen if one is not None)


def _longest_unused(mirror: Mirror, pools: Pools) -> Iterator[bytes]:
    """What others had last, whoever was not seen for longest first."""
    for other in sorted(mirror.clients.values(), key=lambda one: one.last_seen):
        for address in other.addresses:
            if pools.is_leasable(address):
                yield address


def version_of(address: bytes) -> int:
    """4 or 6."""
    return 4 if len(address) == 4 else 6
