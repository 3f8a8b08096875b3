"""The control channel as those who ask a server know it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol, TypeVar

from nvpn.channel.messages import MAX_NAME, Message, Request
from nvpn.model.keys import PublicKey
from nvpn.resilience.policy import RetryPolicy

_A = TypeVar("_A", bound=Message)
_M = TypeVar("_M", bound=Message)


class Port(Protocol):
    """What of :class:`nvpn.daemon.channel_port.ChannelPort` is used."""

    async def ask(
        self, peer: PublicKey, request: Request[_A], retry: RetryPolicy | None = None
    ) -> _A:
        """Raises Unavailable, Refused."""

    def tell(self, peer: PublicKey, notice: Message) -> None:
        """Once; it may get lost."""

    def on_notice(self, kind: type[_M], callback: Callable[[PublicKey, _M], None]) -> None:
        """Callbacks stay."""


def our_name() -> str:
    """What this machine is called, as far as it can be told to others."""
    name = socket.gethostname()[:MAX_NAME]
    return name if name.isprintable() else ""
