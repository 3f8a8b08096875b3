"""The control channel over an interface of the kernel: a socket at our address in there.

The kernel routes by allowed IPs only, so there the address of each peer that matters is one.
They are put into what the kernel is told, and left out of what it tells
(:func:`nvpn.channel.packets.without_channel`), so that nobody above has to know of them. Only
the kernel's own tools show them, and can take them away: they are put back now and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from nvpn.backend.kernel_plans import Wireguard, wipe
from nvpn.channel.packets import channel_address, channel_prefix, without_channel
from nvpn.errors import ControlError, PlatformError
from nvpn.model.clock import SECOND, Now
from nvpn.model.keys import PublicKey
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from nvpn.netconf.kernel_changes import KernelChanges, PeerChange

_log: Final = logging.getLogger(__name__)

RENEWAL: Final = 30 * SECOND
"""How often the addresses of peers are told the kernel again."""

DATA_BYTES: Final = 512
"""So much more between two looks is data: a handshake and a keepalive are 272 bytes."""

_DATAGRAMS_A_TURN: Final = 64


class ChannelSocket(Protocol):
    """See :class:`nvpn.transport.link_local.LinkLocalUdp`."""

    def fileno(self) -> int:
        """For the event loop."""

    def send(self, address: bytes, payload: bytes) -> None:
        """To the channel's port of that address."""

    def receive(self) -> tuple[bytes, bytes] | None:
        """A sender's address, and what it sent, or b"" if that is none; None: nothing for now."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True, slots=True)
class ChannelPlace:
    """How an interface gets, and loses, an address and a socket there.

    ``enter`` and ``leave`` are given 16 bytes, and raise PlatformError.
    """

    enter: Callable[[bytes], ChannelSocket]
    leave: Callable[[bytes], None]


class ChannelWireguard:
    """The kernel's interfaces with the channel's addresses put in, and left out.

    Used on the kernel's thread, as what it stands around.
    """

    def __init__(self, inner: Wireguard) -> None:
        self._inner = inner
        self.is_wanted = False
        self.only: frozenset[PublicKey] | None = None

    def get(self, target: int | str, *, brief: bool = False) -> TunnelSnapshot:
        """All about an interface, but for the channel's addresses."""
        found = self._inner.get(target, brief=brief)
        if brief:
            return found
        return replace(found, peers=tuple(map(_without_channel, found.peers)))

    def set(self, target: int | str, changes: KernelChanges) -> None:
        """Change it; whose allowed IPs are given anew keeps the channel's address."""
        if self.is_wanted:
            peers = tuple(
                replace(
                    change, allowed_ips=(*change.allowed_ips, channel_prefix(change.public_key))
                )
                if change.replace_allowed_ips and self._matters(change.public_key)
                else change
                for change in changes.peers
            )
            changes = replace(changes, peers=peers)
        self._inner.set(target, changes)

    def close(self) -> None:
        """Let go of the descriptor."""
        self._inner.close()

    def give(self, target: int | str) -> PublicKey | None:
        """Let all peers that matter be reached, and no others; who we are, None without a key."""
        now = self._inner.get(target)
        own = None if now.private_key is None else now.private_key.public()
        try:
            changes = []
            for peer in now.peers:
                matters = self.is_wanted and self._matters(peer.public_key)
                prefix = channel_prefix(peer.public_key)
                if matters and prefix not in peer.allowed_ips:
                    changes.append(
                        PeerChange(peer.public_key, update_only=True, allowed_ips=(prefix,))
                    )
                elif not matters and prefix in peer.allowed_ips:
                    # Kernels before 6.16 drop one only by a new list.
                    changes.append(
                        PeerChange(
                            peer.public_key,
                            update_only=True,
                            replace_allowed_ips=True,
                            allowed_ips=without_channel(peer.public_key, peer.allowed_ips),
                        )
                    )
            if changes:
                self._inner.set(target, KernelChanges(peers=tuple(changes)))
        finally:
            wipe(now)
        return own

    def _matters(self, peer: PublicKey) -> bool:
        return self.only is None or peer in self.only


class KernelChannel:
    """Our end of the channel at an interface of the kernel. Everything on the loop.

    What is awaited raises ControlError; one change at a time.

    Args:
        wireguard: of that interface, told from here who takes part.
        place: None where there can be none.
        ask: makes a call on the kernel's thread.
    """

    def __init__(
        self,
        name: str,
        index: int,
        wireguard: ChannelWireguard,
        place: ChannelPlace | None,
        *,
        loop: asyncio.AbstractEventLoop,
        ask: Callable[[Callable[[], PublicKey | None]], Awaitable[PublicKey | None]],
        clocks: Callable[[], Now],
    ) -> None:
        self._name = name
        self._index = index
        self._wireguard = wireguard
        self._place = place
        self._loop = loop
        self._ask = ask
        self._clocks = clocks
        self._received: Callable[[PublicKey, bytes], None] | None = None
        self._given_at = 0
        self._socket: ChannelSocket | None = None
        self._address: bytes | None = None
        self._keys: dict[bytes, PublicKey] | None = None
        self._traffic: dict[PublicKey, int] = {}
        self._data_at: dict[PublicKey, int] = {}
        self._has_warned = False

    @property
    def is_open(self) -> bool:
        """Whether we take part, or are about to."""
        return self._received is not None

    def open(
        self, received: Callable[[PublicKey, bytes], None], only: frozenset[PublicKey] | None
    ) -> None:
        """Take part, with all peers or only with some, as soon as that is settled."""
        self._received = received
        self._wireguard.is_wanted, self._wireguard.only = True, only

    def close(self) -> None:
        """Take no part any more; the kernel forgets as soon as that is settled."""
        self._received = None
        self._wireguard.is_wanted, self._wireguard.only = False, None
        self.leave()

    async def settle(self) -> None:
        """Have the kernel know the channel's addresses, and be at ours."""
        own = await self._give()
        if self._received is not None:
            self._listen(own)

    async def renew(self) -> None:
        """The same if it is open: the key is another one, or the link has just come up."""
        if self._received is not None:
            await self.settle()

    def leave(self) -> None:
        """Give up socket and address. Again: nothing."""
        listening, self._socket = self._socket, None
        address, self._address = self._address, None
        if listening is None or address is None or self._place is None:
            return
        self._loop.remove_reader(listening.fileno())
        listening.close()
        try:
            self._place.leave(address)
        except PlatformError as error:
            _log.debug("%s", error)  # the link is gone, and the address with it

    def send(self, peer: PublicKey, payload: bytes) -> None:
        """To a peer, if there is a socket."""
        if self._socket is not None:
            self._socket.send(channel_address(peer), payload)

    async def note(self, peers: Iterable[PeerSnapshot]) -> None:
        """Peers as they were seen just now. Never raises: what it renews is renewed again."""
        if self._received is None:
            return
        now = self._clocks().boot
        self._note_traffic(peers, now)
        if now - self._given_at >= RENEWAL:
            self._given_at = now
            try:
                await self._give()
            except ControlError as error:
                _log.debug("%s", error)

    def data_received_at(self, peer: PublicKey) -> int:
        """When it was seen that data came from the peer; 0 for never."""
        return self._data_at.get(peer, 0)

    async def _give(self) -> PublicKey | None:
        own = await self._ask(lambda: self._wireguard.give(self._index))
        self._given_at = self._clocks().boot
        return own

    def _listen(self, own: PublicKey | None) -> None:
        """Be at our address from now on. If that cannot be it is said once."""
        self.leave()
        if own is None or self._place is None:
            return
        address = channel_address(own)
        try:
            self._socket = self._place.enter(address)
        except PlatformError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("the control channel of %s stays closed: %s", self._name, error)
            return
        self._address = address
        self._loop.add_reader(self._socket.fileno(), self._read)

    def _note_traffic(self, peers: Iterable[PeerSnapshot], now: int) -> None:
        traffic = {peer.public_key: peer.rx_bytes for peer in peers}
        if traffic.keys() != self._traffic.keys():
            self._keys = None
        data_at: dict[PublicKey, int] = {}
        for peer, received in traffic.items():
            has_data = received - self._traffic.get(peer, received) >= DATA_BYTES
            at = now if has_data else self._data_at.get(peer, 0)
            if at:
                data_at[peer] = at
        self._traffic, self._data_at = traffic, data_at

    def _read(self) -> None:
        for _ in range(_DATAGRAMS_A_TURN):
            datagram = None if self._socket is None else self._socket.receive()
            if datagram is None:
                return
            address, payload = datagram
            if self._keys is None:
                self._keys = {channel_address(peer): peer for peer in self._traffic}
            peer = self._keys.get(address)
            if peer is not None and self._received is not None:
                self._received(peer, payload)


def _without_channel(peer: PeerSnapshot) -> PeerSnapshot:
    kept = without_channel(peer.public_key, peer.allowed_ips)
    return peer if len(kept) == len(peer.allowed_ips) else replace(peer, allowed_ips=kept)
