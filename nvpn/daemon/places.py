"""The places where a peer may be, and what it means that a look-up found them."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence
from typing import Final

from nvpn.config.model import HostPort
from nvpn.model.changes import Plan, SetCandidates, SetEndpoint
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey

MAX_PLACES: Final = 8
"""Addresses of one peer that are used."""


def look_up(wanted: HostPort) -> tuple[Endpoint, ...]:
    """The addresses of a name, in the order of RFC 6724. Blocks. Raises OSError."""
    try:
        found = socket.getaddrinfo(
            wanted.host, wanted.port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
        )
    except UnicodeError:
        raise OSError("not a name that can be looked up") from None
    addresses = tuple(
        Endpoint.from_sockaddr(sockaddr)
        for family, _, _, _, sockaddr in found
        if family in (socket.AF_INET, socket.AF_INET6)
    )
    if not addresses:
        raise OSError("no address")
    return addresses


def changes_for(
    peer: PublicKey,
    found: tuple[Endpoint, ...],
    *,
    before: tuple[Endpoint, ...],
    current: Endpoint | None,
    boot: int,
) -> Plan:
    """What a new result of a look-up changes about a running peer.

    All that was found are places to look for it. Only a peer that is nowhere, or whose own
    address has gone from its name, is moved: one that roamed knows better than its name.

    Args:
        found: best first; never empty.
        before: the result that this one replaces; empty for none.
        current: where the peer is.
        boot: now, in nanoseconds; endpoints count as learned now.
    """
    candidates = SetCandidates(peer, found)
    if current is not None:
        was_there = any(place.remote == current.remote for place in before)
        is_there = any(place.remote == current.remote for place in found)
        if is_there or not was_there:
            return (candidates,)
    return (SetEndpoint(peer, found[0]._replace(learned_at=boot)), candidates)


def arrange(found: Sequence[tuple[Endpoint, ...]]) -> tuple[Endpoint, ...]:
    """The places to use, best first, of what was found for each endpoint of a peer.

    Endpoints stay in their order; among the addresses of one the families take turns, the
    better one first (RFC 8305, section 4). If they are too many, each endpoint gives its
    best ones.
    """
    taking_turns = [_alternate(addresses) for addresses in found]
    by_rank = itertools.chain.from_iterable(itertools.zip_longest(*taking_turns))
    ranked = dict.fromkeys(place.remote for place in by_rank if place is not None)
    chosen = set(itertools.islice(ranked, MAX_PLACES))
    places: dict[tuple[bytes, int, int, int], Endpoint] = {}
    for place in itertools.chain.from_iterable(taking_turns):
        if place.remote in chosen:
            places.setdefault(place.remote, place)
    return tuple(places.values())


def _alternate(addresses: tuple[Endpoint, ...]) -> list[Endpoint]:
    if not addresses:
        return []
    first = addresses[0].version
    halves = (
        [one for one in addresses if one.version == first],
        [one for one in addresses if one.version != first],
    )
    turns = itertools.chain.from_iterable(itertools.zip_longest(*halves))
    return [one for one in turns if one is not None]
