"""Whose inner packets are, and which of them pass."""

from __future__ import annotations

from typing import Final

from nvpn.datapath.allowed_ips import AllowedIps
from nvpn.datapath.buffers import Bytes
from nvpn.datapath.commands import DeletePrefix, Diversion, InsertPrefix, PeerId
from nvpn.datapath.filter import PortFilter, comes_from, is_diverted
from nvpn.datapath.inner import Inner
from nvpn.datapath.python.peer import Peer


class Passage:
    """The allowed IPs, what is lifted out of the stream, and the port filter."""

    def __init__(self) -> None:
        self.routes: Final[AllowedIps[Peer]] = AllowedIps()
        # For what is diverted and what is put in, before ``routes``.
        self._diverted_routes: Final[AllowedIps[Peer]] = AllowedIps()
        self.diversions: tuple[Diversion, ...] = ()
        self.filter: PortFilter | None = None

    def insert(self, command: InsertPrefix, peer: Peer) -> None:
        """The prefix is this peer's, and nobody else's."""
        self._table(command).insert(command.prefix, peer)

    def delete(self, command: DeletePrefix, peer: Peer) -> None:
        """It is not any more; nothing if it was not."""
        self._table(command).remove(command.prefix, peer)

    def forget(self, peer: Peer) -> None:
        """Nothing is that peer's any more."""
        self.routes.remove_peer(peer)
        self._diverted_routes.remove_peer(peer)
        if self.filter is not None:
            self.filter.forget(peer.id)

    def reached_by(self, inner: Inner, packet: Bytes) -> Peer | None:
        """Whom a packet of the host's reaches; nobody if it says that it is one of ours."""
        if self.diversions and comes_from(self.diversions, inner, packet[: inner.length]):
            return None
        return self.routes.lookup(inner.version, inner.destination)

    def owner_of_diverted(self, version: int, address: int) -> Peer | None:
        """Whose address it is for what is diverted, or put in."""
        return self._diverted_routes.lookup(version, address) or self.routes.lookup(
            version, address
        )

    def is_diverted(self, inner: Inner, packet: Bytes) -> bool:
        """Whether a packet is lifted out of the stream, and so not filtered."""
        return bool(self.diversions) and is_diverted(self.diversions, inner, packet)

    def accepts(self, peer: PeerId, inner: Inner, packet: Bytes, now: int) -> bool:
        """Whether the port filter lets a packet from a peer pass."""
        return self.filter is None or self.filter.accepts(peer, inner, packet, now)

    def note_sent(self, peer: PeerId, packet: Bytes, now: int) -> None:
        """The port filter's to remember: a packet, or a superpacket, goes to a peer."""
        if self.filter is not None:
            self.filter.note_sent(peer, packet, now)

    def _table(self, command: InsertPrefix | DeletePrefix) -> AllowedIps[Peer]:
        return self._diverted_routes if command.diverted else self.routes
