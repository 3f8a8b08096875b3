"""The control channel over our own datapath: packets are lifted out of it, and put back in.

Each peer gets the prefix of its channel address in the datapath's table, and nowhere else, so
that cryptokey routing says who speaks and nobody's allowed IPs show it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from nvpn.channel.packets import (
    CHANNEL_PORT,
    channel_address,
    channel_prefix,
    pack_packet,
    parse_packet,
)
from nvpn.datapath.api import Datapath
from nvpn.datapath.commands import Diversion, Divert, SendInner
from nvpn.datapath.events import InnerReceived
from nvpn.model.keys import PublicKey
from nvpn.protocol.device import Device

_PEERS_A_TURN: Final = 256


class DatapathChannel:
    """Takes part in the channel from when it is made until it is closed.

    Args:
        received: the payload of a datagram, and whose it is; empty if it is none.
    """

    def __init__(
        self,
        device: Device,
        datapath: Datapath,
        loop: asyncio.AbstractEventLoop,
        received: Callable[[PublicKey, bytes], None],
    ) -> None:
        self._device = device
        self._datapath = datapath
        self._loop = loop
        self.received = received
        self._address: bytes | None = None
        self._turn: asyncio.Handle | None = None
        device.derive_prefixes(channel_prefix)
        self.follow_key()
        self._to_give = deque(device.peers())
        self._give_some()

    def follow_key(self) -> None:
        """Our address may be another one now: it comes from our key."""
        key = self._device.public_key
        address = None if key is None else channel_address(key)
        if address != self._address:
            self._address = address
            places = () if key is None else (Diversion(channel_prefix(key), CHANNEL_PORT),)
            self._datapath.apply((Divert(places),))

    def receive(self, event: InnerReceived) -> None:
        """A packet was lifted out of the stream."""
        peer = self._device.public_key_of(event.peer)
        if peer is None or self._address is None:
            return
        payload = parse_packet(
            event.packet, source=channel_address(peer), destination=self._address
        )
        self.received(peer, payload or b"")

    def send(self, peer: PublicKey, payload: bytes) -> None:
        """Put a datagram to a known peer into the tunnel."""
        if self._address is None:
            return
        self._device.give_derived_prefix(peer)  # its turn may be still to come
        packet = pack_packet(self._address, channel_address(peer), payload)
        self._datapath.apply((*self._device.take_commands(), SendInner(packet)))

    def close(self) -> None:
        """Leave the stream, and the table, as if there were no channel."""
        self.stop()
        self._device.derive_prefixes(None)
        for peer in self._device.peers():
            self._device.take_derived_prefix(peer)
        self._datapath.apply((Divert(()), *self._device.take_commands()))

    def stop(self) -> None:
        """Touch device and datapath no more: they are closed."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _give_some(self) -> None:
        # In turns, so that packets do not wait until ten thousand peers are through.
        self._turn = None
        for _ in range(min(len(self._to_give), _PEERS_A_TURN)):
            self._device.give_derived_prefix(self._to_give.popleft())
        commands = self._device.take_commands()
        if commands:
            self._datapath.apply(commands)
        if self._to_give:
            self._turn = self._loop.call_soon(self._give_some)
