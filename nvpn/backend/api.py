"""What every backend offers: plans in, snapshots and notices out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from nvpn.errors import DropReason
from nvpn.model.changes import Plan
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice
from nvpn.model.ports import PortPolicy
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot


class Backend(Protocol):
    """A tunnel that can be changed and looked at. All calls come from the event loop."""

    async def apply(self, plan: Plan) -> None:
        """Apply a plan, all or nothing.

        Raises:
            ControlError: EADDRINUSE and the like; nothing was changed then.
        """

    def snapshot(self) -> TunnelSnapshot:
        """The tunnel now."""

    def subscribe(self, listener: Callable[[Notice], None]) -> None:
        """Call ``listener`` on the loop for every notice; it must not block or raise."""

    async def close(self) -> None:
        """Stop, wipe keys, let go of descriptors."""


class TunnelBackend(Backend, Protocol):
    """A backend under a daemon, which tells it about the link. Made down and unconfigured."""

    name: str

    @property
    def listen_port(self) -> int:
        """The UDP port, also while the link is down; 0 before one was chosen."""

    def has_peer(self, peer: PublicKey) -> bool:
        """Whether it is configured now."""

    def peers(self) -> list[PublicKey]:
        """All of them, in the order in which they were added."""

    def peer(self, peer: PublicKey) -> PeerSnapshot | None:
        """One peer now, None for an unknown one. Cheap, unlike a snapshot.

        With the kernel as of the last look, its allowed IPs as of the last plan.
        """

    def endpoint_of(self, peer: PublicKey) -> Endpoint | None:
        """Where the peer is now; None for an unknown one, too. Cheap, unlike a snapshot."""

    def drops(self) -> Mapping[DropReason, int]:
        """Dropped packets by reason since the start; empty where nobody counts them."""

    def describe(self) -> str:
        """For people: what moves the packets, and why that when there is something to say."""

    async def bring_up(self) -> None:
        """The link is up, or about to be: bind the sockets and begin.

        Raises:
            ControlError: the port cannot be bound; the backend stays down.
        """

    async def bring_down(self) -> None:
        """The link is down: sessions end, the port is remembered."""

    def set_mtu(self, mtu: int) -> None:
        """The interface's MTU is now this many bytes."""

    def set_port_policies(
        self, interface: PortPolicy, peers: Mapping[PublicKey, PortPolicy]
    ) -> None:
        """What peers may begin through the tunnel: in force before any later change is.

        A policy of a peer's own holds instead of the interface's; peers may be named that
        are still to come.

        Raises:
            PlatformError: something is to be filtered, and this backend cannot.
        """

    def initiate(self, peer: PublicKey) -> None:
        """Begin a handshake now; nothing for an unknown peer."""

    def stop_admitting(self) -> None:
        """We are about to go: no new session begins. The kernel's cannot be told so."""

    def network_changed(self) -> None:
        """The host's addresses or routes changed, or it slept.

        Forget the source addresses that were stuck to, and seek a new session with every
        peer that has, or seeks, one.
        """

    def open_channel(
        self,
        received: Callable[[PublicKey, bytes], None],
        *,
        only: frozenset[PublicKey] | None = None,
    ) -> None:
        """Take part in the control channel: call ``received`` on the loop with the payload
        of each datagram that a peer sends there. It must not block or raise.

        Again: with another ``received``, or other peers.

        Args:
            only: peers that matter. The kernel has to be told of each, so that there the
                others are left out.
        """

    def send_channel(self, peer: PublicKey, payload: bytes) -> None:
        """Send a datagram of at most 1192 bytes to the peer's end of the channel.

        Begins a session if there is none. Nothing for an unknown peer, one that is nowhere,
        or while the channel or the link is closed; datagrams may get lost anyway.
        """

    def close_channel(self) -> None:
        """Take no part any more. Again: nothing."""

    def data_received_at(self, peer: PublicKey) -> int:
        """When data came from the peer last: boot-clock nanoseconds, 0 for never.

        With the kernel as of a look at its counters.
        """
