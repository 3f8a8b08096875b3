"""Applies a plan to the protocol's device: everything about peers, nothing about sockets.

Knows what the protocol does not care about, too: the names of peers, and who put them
there. Every change costs what it changes, however many peers there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from nvpn.backend.limits import MAX_PEERS, validate_plan
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Change,
    Owner,
    Plan,
    RemoveAllowedIp,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
    SetCandidates,
    SetEndpoint,
    SetFwmark,
    SetListenPort,
    SetName,
    SetPersistentKeepalive,
    SetPresharedKey,
    SetPrivateKey,
)
from nvpn.model.clock import Now
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.protocol.device import Device

_CHANGES_A_TURN: Final = 512


class PeerEntry:
    """What is known of a peer beside the protocol's own state."""

    __slots__ = ("_lent", "name", "owner")

    def __init__(self, owner: Owner) -> None:
        self.name = ""
        self.owner = owner
        # May name prefixes that another peer has by now.
        self._lent: set[Prefix] = set()

    def own(self, prefix: Prefix, owner: Owner) -> None:
        """The prefix is the peer's from now on, by the will of that owner."""
        if owner is not Owner.CONFIG:
            self._lent.add(prefix)
        elif self._lent:
            self._lent.discard(prefix)

    def disown(self, prefix: Prefix) -> None:
        """The prefix is not the peer's any more."""
        self._lent.discard(prefix)

    def leased(self, allowed_ips: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        """Those of the peer's prefixes that the configuration does not own."""
        if not self._lent:
            return ()
        return tuple(prefix for prefix in allowed_ips if prefix in self._lent)


class PlanApplier:
    """Turns changes into calls of the device, which do not fail."""

    def __init__(self, device: Device, *, max_peers: int = MAX_PEERS) -> None:
        self._device = device
        self._max_peers = max_peers
        self._entries: dict[PublicKey, PeerEntry] = {}

    def entries(self) -> Iterator[tuple[PublicKey, PeerEntry]]:
        """All peers, in the order in which they were added."""
        yield from self._entries.items()

    def entry(self, peer: PublicKey) -> PeerEntry | None:
        """What is known of one peer; None if it is none."""
        return self._entries.get(peer)

    def validate(self, plan: Plan) -> None:
        """Look at every change before the first is applied.

        Raises:
            ControlError: EINVAL, a number out of its range; ENOSPC, too many peers.
        """
        validate_plan(plan, self._entries, max_peers=self._max_peers)

    def apply(self, plan: Plan, now: Now) -> Iterator[None]:
        """Apply what :meth:`validate` has passed. The caller sees to ports and marks.

        Yields now and then, so that a plan of a hundred thousand changes does not keep
        packets waiting until it is through.
        """
        rest = _Rest(plan)
        for position, change in enumerate(plan):
            if position % _CHANGES_A_TURN == _CHANGES_A_TURN - 1:
                yield
            if isinstance(change, SetPrivateKey):
                self._set_private_key(change.key, now)
            elif isinstance(change, ReplacePeers):
                self._replace_peers(change.owner, rest, position, now)
            elif isinstance(change, AddPeer):
                self._add_peer(change.peer, change.owner)
            elif isinstance(change, SetListenPort | SetFwmark):
                continue
            elif change.peer in self._entries:
                self._change_peer(change, rest, position, now)

    def _change_peer(self, change: Change, rest: _Rest, position: int, now: Now) -> None:
        device = self._device
        if isinstance(change, AddAllowedIp):
            device.add_allowed_ip(change.peer, change.prefix)
            self._entries[change.peer].own(change.prefix, change.owner)
        elif isinstance(change, RemoveAllowedIp):
            device.remove_allowed_ip(change.peer, change.prefix)
            self._entries[change.peer].disown(change.prefix)
        elif isinstance(change, SetEndpoint):
            device.set_endpoint(change.peer, change.endpoint, now)
        elif isinstance(change, SetCandidates):
            device.set_candidates(change.peer, change.endpoints, now)
        elif isinstance(change, SetPresharedKey):
            device.set_preshared_key(change.peer, change.key)
        elif isinstance(change, SetPersistentKeepalive):
            device.set_persistent_keepalive(change.peer, change.seconds, now)
        elif isinstance(change, SetName):
            self._entries[change.peer].name = change.name
        elif isinstance(change, ReplaceAllowedIps):
            kept = rest.prefixes_added(change.peer, position)
            self._keep_allowed_ips(change.peer, kept, Owner.CONFIG)
        elif isinstance(change, RemovePeer):
            self._remove_peer(change.peer, now)

    def _set_private_key(self, key: PrivateKey | None, now: Now) -> None:
        if key == self._device.private_key:
            return  # sessions go on
        if key is not None:
            self._remove_peer(key.public(), now)  # it would be ourselves
        self._device.set_private_key(key, now)

    def _add_peer(self, peer: PublicKey, owner: Owner) -> None:
        if peer == self._device.public_key:
            return
        entry = self._entries.get(peer)
        if entry is None:
            self._entries[peer] = PeerEntry(owner)
            self._device.add_peer(peer)
        else:
            entry.owner = owner

    def _remove_peer(self, peer: PublicKey, now: Now) -> None:
        if self._entries.pop(peer, None) is not None:
            self._device.remove_peer(peer, now)

    def _replace_peers(self, owner: Owner, rest: _Rest, position: int, now: Now) -> None:
        for peer, entry in list(self._entries.items()):
            if entry.owner is not owner:
                continue
            later = rest.of(peer, position)
            if not any(isinstance(change, AddPeer) for change in later):
                self._remove_peer(peer, now)
                continue
            given = {type(change) for change in later}
            if SetName not in given:
                entry.name = ""
            if SetPresharedKey not in given:
                self._device.set_preshared_key(peer, None)
            if SetPersistentKeepalive not in given:
                self._device.set_persistent_keepalive(peer, 0, now)
            if SetCandidates not in given:
                self._device.set_candidates(peer, (), now)
            self._keep_allowed_ips(peer, rest.prefixes_added(peer, position), owner)

    def _keep_allowed_ips(self, peer: PublicKey, kept: set[Prefix], owner: Owner) -> None:
        """Of those that are the owner's only these stay."""
        allowed_ips = self._device.allowed_ips(peer)
        entry = self._entries[peer]
        leased = entry.leased(allowed_ips)
        for prefix in allowed_ips:
            if prefix not in kept and (prefix in leased) == (owner is not Owner.CONFIG):
                self._device.remove_allowed_ip(peer, prefix)
                entry.disown(prefix)


class _Rest:
    """What a plan still says about a peer after one of its changes.

    Sorted out by peer when it is first asked for, so that a plan which replaces
    nothing pays nothing, and one that replaces much is read once.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._by_peer: defaultdict[PublicKey, list[tuple[int, Change]]] | None = None

    def of(self, peer: PublicKey, position: int) -> Sequence[Change]:
        """The changes of this peer after the given position of the plan, in order."""
        if self._by_peer is None:
            self._by_peer = defaultdict(list)
            for index, change in enumerate(self._plan):
                if not isinstance(
                    change, SetPrivateKey | SetListenPort | SetFwmark | ReplacePeers
                ):
                    self._by_peer[change.peer].append((index, change))
        return [change for index, change in self._by_peer.get(peer, ()) if index > position]

    def prefixes_added(self, peer: PublicKey, position: int) -> set[Prefix]:
        """Those that the peer is given after the position."""
        return _added(self.of(peer, position))


def _added(changes: Iterable[Change]) -> set[Prefix]:
    return {change.prefix for change in changes if isinstance(change, AddAllowedIp)}
