"""What the kernel does not know of its peers, and what it is told only when it is needed."""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import replace

from nvpn.model.changes import Owner, Plan, SetCandidates
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot


class KeptOfPeers:
    """What peers are called, and whose they and their prefixes are, as of the last plan."""

    def __init__(self) -> None:
        self._names: dict[PublicKey, str] = {}
        self._owners: dict[PublicKey, Owner] = {}
        self._leased: dict[PublicKey, tuple[Prefix, ...]] = {}
        self._allowed_ips: dict[PublicKey, tuple[Prefix, ...]] = {}

    def keep(self, wanted: TunnelSnapshot) -> None:
        """Keep what a plan has come to."""
        peers = wanted.peers
        self._names = {peer.public_key: peer.name for peer in peers if peer.name}
        self._owners = {
            peer.public_key: peer.owner for peer in peers if peer.owner is not Owner.CONFIG
        }
        self._leased = {peer.public_key: peer.leased for peer in peers if peer.leased}
        self._allowed_ips = {peer.public_key: peer.allowed_ips for peer in peers}

    def complete(self, now: TunnelSnapshot) -> TunnelSnapshot:
        """What the kernel tells, with what it does not know."""
        if not self._names and not self._owners and not self._leased:
            return now
        return replace(now, peers=tuple(map(self._with_kept, now.peers)))

    def complete_brief(self, seen: PeerSnapshot) -> PeerSnapshot:
        """The same for a peer that the kernel was asked about without its allowed IPs."""
        return self._with_kept(
            replace(seen, allowed_ips=self._allowed_ips.get(seen.public_key, ()))
        )

    def _with_kept(self, peer: PeerSnapshot) -> PeerSnapshot:
        key = peer.public_key
        return replace(
            peer,
            name=self._names.get(key, ""),
            owner=self._owners.get(key, Owner.CONFIG),
            leased=_among(self._leased.get(key, ()), peer.allowed_ips),
        )


class Candidates:
    """Where else peers may be, in the order in which they are tried."""

    def __init__(self) -> None:
        self._places: dict[PublicKey, tuple[Endpoint, ...]] = {}

    def follow(self, plan: Plan, known: Container[PublicKey]) -> None:
        """A plan is in force; only peers that are known now have candidates."""
        for change in plan:
            if isinstance(change, SetCandidates):
                self._places[change.peer] = change.endpoints
        self._places = {
            peer: places for peer, places in self._places.items() if places and peer in known
        }

    def peers(self) -> list[PublicKey]:
        """Those that have any."""
        return list(self._places)

    def take_next(self, peer: PublicKey, current: Endpoint | None) -> Endpoint | None:
        """The place to go on to, None without one; the one that is left is the last."""
        places = [
            place
            for place in self._places.get(peer, ())
            if current is None or place.remote != current.remote
        ]
        if not places:
            return None
        following, *others = places
        self._places[peer] = tuple(others) if current is None else (*others, current)
        return following


def _among(leased: Collection[Prefix], allowed_ips: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
    return tuple(prefix for prefix in allowed_ips if prefix in leased) if leased else ()
