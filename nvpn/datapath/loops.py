"""Our own datagrams among the packets that are to be sent: a route that bites its tail.

When the way to a peer's endpoint leads into the tunnel itself, a datagram that we send
comes back as a packet to be sent: it grows each time round, is cut into fragments and
multiplies. The kernel's WireGuard refuses to send into its own interface; all that a
program sees is what comes back, so it is recognised there and dropped.

A datagram of ours begins with its type and an index: the peer's for data, our own for an
initiation. That and the endpoint's address and port are what we compare: nobody else's
traffic is mistaken for ours, not even other WireGuard's to the same host.
"""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.inner import Inner, udp_payload
from nvpn.model.endpoint import Endpoint

HEAD_SIZE: Final = 8
"""Type and index."""


class _Reachable(Protocol):
    @property
    def endpoint(self) -> Endpoint | None: ...


P = TypeVar("P", bound=_Reachable)


class OwnDatagrams(Generic[P]):
    """Remembers how what we send at present begins, and to whom it goes."""

    __slots__ = ("_peers",)

    def __init__(self) -> None:
        self._peers: dict[bytes, P] = {}

    def add(self, head: bytes, peer: P) -> None:
        """Datagrams to this peer begin so."""
        self._peers[head] = peer

    def discard(self, head: bytes, peer: P) -> None:
        """No more do they. Another peer may have chosen the same index; that one stays."""
        if self._peers.get(head) is peer:
            del self._peers[head]

    def hold(self, packet: Bytes, inner: Inner) -> bool:
        """Whether the packet carries a datagram of ours, or the first fragment of one."""
        payload = udp_payload(packet, inner.version)
        if payload is None or payload + HEAD_SIZE > len(packet):
            return False
        peer = self._peers.get(bytes(packet[payload : payload + HEAD_SIZE]))
        if peer is None or peer.endpoint is None:
            return False
        port = packet[payload - 6] << 8 | packet[payload - 5]
        return (
            port == peer.endpoint.port
            and inner.destination == int.from_bytes(peer.endpoint.address, "big")
            and inner.version == peer.endpoint.version
        )
