"""The daemon's end of the control channel: ask, tell, serve.

Glue between a backend, which carries datagrams of peers, and :mod:`nvpn.channel`, which knows
what they mean. Who a peer is, is what cryptokey routing says; what it may ask for is for those
who serve to know.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from nvpn.backend.api import TunnelBackend
from nvpn.channel.messages import Hello, Message, Request
from nvpn.model.clock import Now, read_clocks
from nvpn.model.keys import PublicKey
from nvpn.resilience.policy import RetryPolicy

_A = TypeVar("_A", bound=Message)
_M = TypeVar("_M", bound=Message)


class ChannelPort:
    """One tunnel's channel. Made closed; everything is called on the loop.

    Handlers and callbacks may be put in before it is opened, and stay over a close.

    Args:
        introduce: who we are, asked for each time somebody wants to know.
        random: that many random bytes.
        retry: how often a request is sent, and in which intervals.
    """

    def __init__(
        self,
        backend: TunnelBackend,
        *,
        loop: asyncio.AbstractEventLoop,
        introduce: Callable[[], Hello],
        random: Callable[[int], bytes] = os.urandom,
        clocks: Callable[[], Now] = read_clocks,
        retry: RetryPolicy | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def is_open(self) -> bool:
        """Whether it is."""
        raise NotImplementedError

    def open(self, only: frozenset[PublicKey] | None = None) -> None:
        """Take part in the channel, with all peers or only with some. Again: changes these."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave it: what is under way fails with Unavailable, handlers are cancelled."""
        raise NotImplementedError

    async def ask(self, peer: PublicKey, request: Request[_A]) -> _A:
        """What the peer answers. Begins a session with it if there is none.

        Raises:
            Unavailable: it did not answer, said that it cannot now, or the channel is closed.
            PeerRefused: it said no; its ``code`` is one of FailureCode's, or another.
            ValueError: the request is out of the bounds of its own schema.
        """
        raise NotImplementedError

    def tell(self, peer: PublicKey, notice: Message) -> None:
        """Say something that wants no answer, once; it may get lost."""
        raise NotImplementedError

    def serve(
        self, kind: type[Request[_A]], handler: Callable[[PublicKey, Request[_A]], Awaitable[_A]]
    ) -> None:
        """Have requests of this kind answered by ``handler``, which runs as a task.

        What it raises is told: Refused with its sentence (and its ``code``, if it has one),
        Unavailable as such. Anything else is a bug: it is logged, and nothing is answered.
        """
        raise NotImplementedError

    def on_notice(self, kind: type[_M], callback: Callable[[PublicKey, _M], None]) -> None:
        """Call ``callback`` for notices of this kind; it must neither block nor raise."""
        raise NotImplementedError

    def acquaintance(self, peer: PublicKey) -> Hello | None:
        """How the peer introduced itself in its present session; None: it did not."""
        raise NotImplementedError

    def statistics(self) -> Mapping[str, int]:
        """Counts since the start, and sizes now, by name: for people and metrics."""
        raise NotImplementedError
