"""From a plan to what the kernel's WireGuard is told, all or nothing.

The kernel knows no owners and cannot take back half of a change. So a plan is played on what
the interface looks like now, and the kernel is told the difference; if it refuses, the
difference between what it is by then and what it was leads back. Peers that come out as they
were are not mentioned, and keep their sessions.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from nvpn.backend.limits import validate_plan
from nvpn.errors import ControlError, PlatformError
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
from nvpn.model.endpoint import UDP_PATH, Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from nvpn.netconf.kernel_changes import KEPT, KernelChanges, PeerChange

_ANY_KEEPALIVE: Final = 1


class Wireguard(Protocol):
    """The kernel's interfaces: see :class:`nvpn.netconf.linux_wireguard.KernelWireguard`."""

    def get(self, target: int | str, *, brief: bool = False) -> TunnelSnapshot:
        """All about an interface, or all but keys and allowed IPs. Raises PlatformError."""

    def set(self, target: int | str, changes: KernelChanges) -> None:
        """Change it. Raises PlatformError, with what was made before the refusal in force."""

    def close(self) -> None:
        """Let go of the descriptor."""


def apply_plan(
    wireguard: Wireguard, target: int | str, plan: Plan, now: TunnelSnapshot
) -> TunnelSnapshot:
    """Bring an interface that is as ``now`` says to what the plan wants. Blocks.

    Returns what it is then, names and owners of peers included, traffic not.

    Raises:
        ControlError: an impossible plan, or the kernel's refusal; all is as before.
    """
    changes, wanted = plan_changes(plan, now)
    try:
        wireguard.set(target, changes)
    except PlatformError as error:
        try:
            wireguard.set(target, difference(wireguard.get(target), now))
        except PlatformError:
            pass  # it is gone, or the kernel takes nothing any more: the first error tells
        raise refused(error, now.name) from None
    return wanted


def refused(error: PlatformError, name: str) -> ControlError:
    """What those are told who wanted something of the interface."""
    number, hint = error.errno or errno.EIO, error.hint
    if number == errno.EADDRINUSE:
        hint = "choose another listen port, or stop what uses this one"
    told = PlatformError(f"configure interface {name}", errno=number, hint=hint)
    return ControlError(number, str(told))


def plan_nudge(keepalives: Mapping[PublicKey, int]) -> Iterator[tuple[PeerChange, ...]]:
    """What to tell the kernel, one after the other, so that it sends something to peers.

    No message asks for it. But a persistent keepalive that is turned on is sent at once.

    Args:
        keepalives: each peer's now, in seconds, 0 for off; it is the same again at the end.
    """

    def set_keepalive(peer: PublicKey, seconds: int) -> PeerChange:
        return PeerChange(peer, update_only=True, persistent_keepalive=seconds)

    yield tuple(set_keepalive(peer, 0) for peer in keepalives)
    yield tuple(
        set_keepalive(peer, seconds or _ANY_KEEPALIVE) for peer, seconds in keepalives.items()
    )
    yield tuple(set_keepalive(peer, 0) for peer, seconds in keepalives.items() if not seconds)


def wipe(snapshot: TunnelSnapshot) -> None:
    """Zero the secret keys in it."""
    if snapshot.private_key is not None:
        snapshot.private_key.wipe()
    for peer in snapshot.peers:
        if peer.preshared_key is not None:
            peer.preshared_key.wipe()


def plan_changes(plan: Plan, now: TunnelSnapshot) -> tuple[KernelChanges, TunnelSnapshot]:
    """What to tell the kernel about an interface that is as ``now`` says, and what comes out.

    Raises:
        ControlError: EINVAL, ENOSPC, see :func:`~nvpn.backend.limits.validate_plan`;
            EAFNOSUPPORT, an endpoint that is not reached by UDP.
    """
    validate_plan(plan, {peer.public_key for peer in now.peers})
    for change in plan:
        if isinstance(change, SetEndpoint | SetCandidates):
            endpoints = (change.endpoint,) if isinstance(change, SetEndpoint) else change.endpoints
            if any(endpoint is not None and endpoint.path != UDP_PATH for endpoint in endpoints):
                raise ControlError(errno.EAFNOSUPPORT, "the kernel reaches peers by UDP only")
    device = _Device(now)
    device.play(plan)
    wanted = device.finish(now)
    changes = difference(now, wanted, place_again=device.placed, anew=device.removed)
    if device.moves_port:
        changes = replace(changes, listen_port=device.listen_port)
    return changes, wanted


def difference(
    now: TunnelSnapshot,
    wanted: TunnelSnapshot,
    *,
    place_again: Collection[PublicKey] = (),
    anew: Collection[PublicKey] = (),
) -> KernelChanges:
    """The changes that lead from one to the other.

    Args:
        place_again: peers whose endpoint is set even if it is the same, so that the kernel
            forgets from which of our addresses it is reached.
        anew: peers that are removed, and begin anew if they are wanted.
    """
    after = {peer.public_key for peer in wanted.peers}
    gone = [
        peer.public_key
        for peer in now.peers
        if peer.public_key not in after or peer.public_key in anew
    ]
    before = {peer.public_key: peer for peer in now.peers if peer.public_key not in anew}
    routed = {prefix for peer in wanted.peers for prefix in peer.allowed_ips}
    peers = [PeerChange(key, remove=True) for key in gone]
    for peer in wanted.peers:
        if peer.public_key not in before:
            peers.append(_new_peer(peer))
            continue
        change = _changed_peer(
            before[peer.public_key], peer, routed, place_again=peer.public_key in place_again
        )
        if change is not None:
            peers.append(change)
    return KernelChanges(
        private_key=KEPT if now.private_key == wanted.private_key else wanted.private_key,
        listen_port=None if now.listen_port == wanted.listen_port else wanted.listen_port,
        fwmark=None if now.fwmark == wanted.fwmark else wanted.fwmark,
        peers=tuple(peers),
    )


def _new_peer(peer: PeerSnapshot) -> PeerChange:
    return PeerChange(
        peer.public_key,
        preshared_key=KEPT if peer.preshared_key is None else peer.preshared_key,
        endpoint=peer.endpoint,
        persistent_keepalive=peer.persistent_keepalive or None,
        replace_allowed_ips=True,
        allowed_ips=peer.allowed_ips,
    )


def _changed_peer(
    now: PeerSnapshot, wanted: PeerSnapshot, routed: Set[Prefix], *, place_again: bool
) -> PeerChange | None:
    moved = wanted.endpoint is not None and (
        place_again or now.endpoint is None or now.endpoint.remote != wanted.endpoint.remote
    )
    had = set(now.allowed_ips)
    # What another peer gets is taken away by that. What nobody gets has to be dropped, which
    # kernels before 6.16 do only by a new list.
    replaced = not had.issubset(routed)
    change = PeerChange(
        now.public_key,
        update_only=True,
        preshared_key=(
            KEPT if now.preshared_key == wanted.preshared_key else wanted.preshared_key
        ),
        endpoint=wanted.endpoint if moved else None,
        persistent_keepalive=(
            None
            if now.persistent_keepalive == wanted.persistent_keepalive
            else wanted.persistent_keepalive
        ),
        replace_allowed_ips=replaced,
        allowed_ips=(
            wanted.allowed_ips
            if replaced
            else tuple(prefix for prefix in wanted.allowed_ips if prefix not in had)
        ),
    )
    return None if change == PeerChange(now.public_key, update_only=True) else change


@dataclass(slots=True)
class _Peer:
    """A peer while a plan is played; allowed IPs are the keys, in order, with their owners."""

    owner: Owner
    name: str = ""
    preshared_key: PresharedKey | None = None
    endpoint: Endpoint | None = None
    keepalive: int = 0
    allowed_ips: dict[Prefix, Owner] = field(default_factory=dict)


class _Device:
    """An interface while a plan is played on it."""

    def __init__(self, now: TunnelSnapshot) -> None:
        self.private_key = now.private_key
        self.listen_port = now.listen_port
        self.fwmark = now.fwmark
        self.moves_port = False
        self.placed: set[PublicKey] = set()
        self.removed: set[PublicKey] = set()
        self.peers = {
            peer.public_key: _Peer(
                peer.owner,
                peer.name,
                peer.preshared_key,
                peer.endpoint,
                peer.persistent_keepalive,
                dict.fromkeys(peer.allowed_ips, Owner.CONFIG)
                | dict.fromkeys(peer.leased, Owner.LEASE),
            )
            for peer in now.peers
        }
        self._holders = {
            prefix: peer for peer in self.peers.values() for prefix in peer.allowed_ips
        }
        self._own_key = None if now.private_key is None else now.private_key.public()

    def finish(self, now: TunnelSnapshot) -> TunnelSnapshot:
        """What it is to be."""
        return TunnelSnapshot(
            name=now.name,
            private_key=self.private_key,
            listen_port=self.listen_port,
            fwmark=self.fwmark,
            peers=tuple(
                PeerSnapshot(
                    key,
                    peer.name,
                    peer.owner,
                    peer.preshared_key,
                    peer.endpoint,
                    persistent_keepalive=peer.keepalive,
                    allowed_ips=tuple(peer.allowed_ips),
                    leased=tuple(
                        prefix
                        for prefix, owner in peer.allowed_ips.items()
                        if owner is not Owner.CONFIG
                    ),
                )
                for key, peer in self.peers.items()
            ),
        )

    def play(self, plan: Sequence[Change]) -> None:
        """Change it as the plan says."""
        for position, change in enumerate(plan):
            if isinstance(change, SetPrivateKey):
                self._set_private_key(change.key)
            elif isinstance(change, SetListenPort):
                # 0 asks for another one, whatever it is.
                self.moves_port = change.port == 0 or change.port != self.listen_port
                self.listen_port = change.port
            elif isinstance(change, SetFwmark):
                self.fwmark = change.mark
            elif isinstance(change, ReplacePeers):
                self._replace_peers(change.owner, plan[position + 1 :])
            elif isinstance(change, AddPeer):
                self._add_peer(change.peer, change.owner)
            elif (peer := self.peers.get(change.peer)) is not None:
                self._change_peer(change, peer)

    def _set_private_key(self, key: PrivateKey | None) -> None:
        if key == self.private_key:
            return
        self.private_key = key
        self._own_key = None if key is None else key.public()
        if self._own_key is not None:
            self._remove_peer(self._own_key)  # it would be ourselves

    def _add_peer(self, key: PublicKey, owner: Owner) -> None:
        if key == self._own_key:
            return
        peer = self.peers.get(key)
        if peer is None:
            self.peers[key] = _Peer(owner)
        else:
            peer.owner = owner

    def _remove_peer(self, key: PublicKey) -> None:
        peer = self.peers.pop(key, None)
        if peer is not None:
            self.removed.add(key)
            for prefix in peer.allowed_ips:
                del self._holders[prefix]

    def _replace_peers(self, owner: Owner, rest: Sequence[Change]) -> None:
        added = {change.peer for change in rest if isinstance(change, AddPeer)}
        for key, peer in list(self.peers.items()):
            if peer.owner is not owner:
                continue
            if key not in added:
                self._remove_peer(key)
                continue
            self._clear_allowed_ips(peer, owner)
            peer.name, peer.preshared_key, peer.keepalive = "", None, 0

    def _change_peer(self, change: Change, peer: _Peer) -> None:
        if isinstance(change, AddAllowedIp):
            holder = self._holders.get(change.prefix)
            if holder is not None and holder is not peer:
                del holder.allowed_ips[change.prefix]
            self._holders[change.prefix] = peer
            peer.allowed_ips[change.prefix] = change.owner
        elif isinstance(change, RemoveAllowedIp):
            if change.prefix in peer.allowed_ips:
                del peer.allowed_ips[change.prefix], self._holders[change.prefix]
        elif isinstance(change, SetEndpoint):
            if change.endpoint is not None:
                peer.endpoint = change.endpoint
                self.placed.add(change.peer)
        elif isinstance(change, SetPresharedKey):
            key = change.key
            peer.preshared_key = None if key is None or key.is_zero else key
        elif isinstance(change, SetPersistentKeepalive):
            peer.keepalive = change.seconds
        elif isinstance(change, SetName):
            peer.name = change.name
        elif isinstance(change, ReplaceAllowedIps):
            self._clear_allowed_ips(peer, Owner.CONFIG)
        elif isinstance(change, RemovePeer):
            self._remove_peer(change.peer)

    def _clear_allowed_ips(self, peer: _Peer, owner: Owner) -> None:
        """Take away those that are the owner's."""
        gone = [
            prefix
            for prefix, by in peer.allowed_ips.items()
            if (by is Owner.CONFIG) == (owner is Owner.CONFIG)
        ]
        for prefix in gone:
            del self._holders[prefix], peer.allowed_ips[prefix]
