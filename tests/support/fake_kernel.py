"""The kernel's WireGuard in memory: it takes the bytes that the kernel would, and answers so."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace

from nvpn.errors import PlatformError
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from nvpn.netconf.kernel_changes import KEPT, KernelChanges, PeerChange


@dataclass
class FakePeer:
    preshared_key: PresharedKey | None = None
    endpoint: Endpoint | None = None
    keepalive: int = 0
    allowed_ips: dict[Prefix, None] = field(default_factory=dict)
    last_handshake: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    keepalives_sent: int = 0
    # Each time an endpoint was set, the kernel has forgotten its own address.
    placed: int = 0


class FakeKernel:
    """One interface. Keys are copied, as the kernel does it: who gave them may wipe them.

    ``refuses`` are peers that it answers with ENOMEM about, after all those before them.
    """

    def __init__(self) -> None:
        self.private_key: bytes | None = None
        self.listen_port = 0
        self.fwmark = 0
        self.peers: dict[PublicKey, FakePeer] = {}
        self.refuses: set[PublicKey] = set()
        self.changes: list[KernelChanges] = []
        self.is_up = False
        self.is_gone = False
        self.closed = False

    def get(self, target: int | str, *, brief: bool = False) -> TunnelSnapshot:
        self._expect_there()
        return TunnelSnapshot(
            name="wg0",
            private_key=PrivateKey(self.private_key) if self.private_key and not brief else None,
            listen_port=self.listen_port,
            fwmark=self.fwmark,
            peers=tuple(
                PeerSnapshot(
                    key,
                    preshared_key=(
                        PresharedKey(peer.preshared_key.reveal())
                        if peer.preshared_key and not brief
                        else None
                    ),
                    endpoint=peer.endpoint,
                    last_handshake=peer.last_handshake,
                    rx_bytes=peer.rx_bytes,
                    tx_bytes=peer.tx_bytes,
                    persistent_keepalive=peer.keepalive,
                    allowed_ips=() if brief else tuple(peer.allowed_ips),
                    session_age=1 if peer.last_handshake else None,
                )
                for key, peer in self.peers.items()
            ),
            datapath="kernel",
        )

    def set(self, target: int | str, changes: KernelChanges) -> None:
        self._expect_there()
        self.changes.append(replace(changes, private_key=KEPT))
        if changes.private_key is not KEPT:
            key = changes.private_key
            self.private_key = None if key is None else key.reveal()
            if key is not None:
                self.peers.pop(key.public(), None)
        if changes.listen_port is not None:
            self.listen_port = changes.listen_port or (40000 if self.is_up else 0)
        if changes.fwmark is not None:
            self.fwmark = changes.fwmark
        for change in changes.peers:
            self._change_peer(change)

    def close(self) -> None:
        self.closed = True

    def raise_link(self) -> None:
        self.is_up = True
        self.listen_port = self.listen_port or 40000

    def _expect_there(self) -> None:
        if self.is_gone:
            raise PlatformError("talk to interface number 7", errno=errno.ENODEV)

    def _change_peer(self, change: PeerChange) -> None:
        if change.public_key in self.refuses:
            raise PlatformError("configure interface number 7", errno=errno.ENOMEM)
        if change.remove:
            self.peers.pop(change.public_key, None)
            return
        if change.public_key not in self.peers:
            if change.update_only:
                return
            self.peers[change.public_key] = FakePeer()
        peer = self.peers[change.public_key]
        if change.preshared_key is not KEPT:
            key = change.preshared_key
            peer.preshared_key = None if key is None else PresharedKey(key.reveal())
        if change.endpoint is not None:
            peer.endpoint = change.endpoint
            peer.placed += 1
        if change.replace_allowed_ips:
            peer.allowed_ips.clear()
        for prefix in change.allowed_ips:
            for other in self.peers.values():
                other.allowed_ips.pop(prefix, None)
            peer.allowed_ips[prefix] = None
        if change.persistent_keepalive is not None:
            if change.persistent_keepalive and not peer.keepalive and self.is_up:
                peer.keepalives_sent += 1
            peer.keepalive = change.persistent_keepalive
