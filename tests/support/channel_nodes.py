"""Ends of the control channel, joined by cables that lose what a test says, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from nvpn.channel.messages import (
    Hello,
    LeaseRequest,
    Settings,
)
from nvpn.daemon.channel_port import ChannelPort
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import Interface
from tests.support.virtual_loop import virtual_loop

A, B, C = (PublicKey(bytes([n]) * 32) for n in (0xAA, 0xBB, 0xCC))
SETTINGS = Settings((Interface.parse("10.8.0.7/24"),), name="laptop")
LEASE = LeaseRequest("laptop", "0.1.0")

Lose = Callable[[bytes], bool]


class Plug:
    """A backend as a port knows it: one end of cables to others."""

    def __init__(self, key: PublicKey) -> None:
        self.key = key
        self.name = "wg0"
        self.others: dict[PublicKey, Plug] = {}
        self.sent: list[tuple[PublicKey, bytes]] = []
        self.lose: Lose = lambda datagram: False
        self.data_at: dict[PublicKey, int] = {}
        self.only: frozenset[PublicKey] | None = None
        self._listener: Callable[[Notice], None] = lambda notice: None
        self._received: Callable[[PublicKey, bytes], None] | None = None

    def join(self, *others: Plug) -> None:
        for other in others:
            self.others[other.key] = other
            other.others[self.key] = self

    def tell(self, kind: NoticeKind, peer: PublicKey) -> None:
        self._listener(Notice(kind, peer, 0))

    # What a port calls.

    def subscribe(self, listener: Callable[[Notice], None]) -> None:
        self._listener = listener

    def has_peer(self, peer: PublicKey) -> bool:
        return peer in self.others

    def open_channel(
        self,
        received: Callable[[PublicKey, bytes], None],
        *,
        only: frozenset[PublicKey] | None = None,
    ) -> None:
        self._received, self.only = received, only

    def close_channel(self) -> None:
        self._received = None

    def send_channel(self, peer: PublicKey, payload: bytes) -> None:
        assert len(payload) <= 1192
        self.sent.append((peer, payload))
        other = self.others[peer]
        if not self.lose(payload):
            virtual_loop().call_later(0.01, other.hear, self.key, payload)

    def hear(self, peer: PublicKey, payload: bytes) -> None:
        if self._received is not None:
            self._received(peer, payload)

    def data_received_at(self, peer: PublicKey) -> int:
        return self.data_at.get(peer, 0)


class Node:
    """A port and its plug."""

    def __init__(self, key: PublicKey, *, is_open: bool = True, **options: Any) -> None:
        self.plug = Plug(key)
        self.key = key
        self.name = f"node {key.short}"
        numbers = itertools.count(int.from_bytes(bytes(key)[:2], "big") << 32)
        loop = virtual_loop()
        self.port = ChannelPort(
            self.plug,  # type: ignore[arg-type]
            loop=loop,
            introduce=lambda: Hello(self.name, "0.1.0", ("lease",)),
            random=lambda size: (next(numbers) % (1 << 8 * size)).to_bytes(size, "big"),
            clocks=loop.clocks,
            **options,
        )
        if is_open:
            self.port.open()


def couple(**options: Any) -> tuple[Node, Node]:
    alice, bob = Node(A, **options), Node(B)
    alice.plug.join(bob.plug)
    return alice, bob


async def give_settings(peer: PublicKey, request: LeaseRequest) -> Settings:
    return SETTINGS
