"""Answers what peers ask on the control channel: each request a task of its own, not too many."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from nvpn.channel.messages import MAX_SENTENCE, Failure, FailureCode, Message
from nvpn.channel.responder import Responder
from nvpn.errors import Refused, Unavailable
from nvpn.model.clock import Now
from nvpn.model.keys import PublicKey

_log: Final = logging.getLogger(__name__)

MAX_SERVED_AT_ONCE: Final = 256
SERVING_SECONDS: Final = 20.0
"""How long a handler may take."""

Handler = Callable[[PublicKey, Any], Awaitable[Message]]


class Handlers:
    """Of one tunnel's channel; everything on the loop.

    Args:
        responder: has taken in the requests, and gets their answers.
        answered: called when it has got one.
        failed: told of a bug in a handler.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        responder: Responder,
        clocks: Callable[[], Now],
        *,
        answered: Callable[[], None],
        failed: Callable[[PublicKey, Exception], None],
    ) -> None:
        self._loop = loop
        self._responder = responder
        self._clocks = clocks
        self._answered = answered
        self._failed = failed
        self._handlers: dict[type[Message], Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.busy = 0
        """How many requests came when there was no room."""

    def __len__(self) -> int:
        """How many are at work."""
        return len(self._tasks)

    def put(self, kind: type[Message], handler: Handler) -> None:
        """Have requests of this kind answered by ``handler``."""
        self._handlers[kind] = handler

    def begin(self, peer: PublicKey, message_id: bytes, request: Message, now: int) -> None:
        """Have it answered, now or in a while."""
        handler = self._handlers.get(type(request))
        if handler is None:
            self._responder.answer(peer, message_id, _UNKNOWN, now)
        elif len(self._tasks) >= MAX_SERVED_AT_ONCE:
            # It will ask again soon, when there may be room: better than to be told no.
            self.busy += 1
            self._responder.give_up(peer, message_id)
        else:
            task = self._loop.create_task(self._run(peer, message_id, request, handler))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """All that are at work."""
        for task in self._tasks:
            task.cancel()

    async def _run(
        self, peer: PublicKey, message_id: bytes, request: Message, handler: Handler
    ) -> None:
        try:
            answer = await _outcome(peer, handler, request)
            self._responder.answer(peer, message_id, answer, self._clocks().boot)
        except Exception as error:
            self._failed(peer, error)
        finally:
            self._responder.give_up(peer, message_id)
        self._answered()


_UNKNOWN: Final = Failure(
    FailureCode.UNKNOWN_REQUEST, "this side of the tunnel does not serve such requests"
)
_UNAVAILABLE: Final = Failure(
    FailureCode.UNAVAILABLE, "the server cannot do that at the moment; ask again later"
)


async def _outcome(peer: PublicKey, handler: Handler, request: Message) -> Message:
    """What a handler answers, or how it fails."""
    try:
        return await asyncio.wait_for(handler(peer, request), SERVING_SECONDS)
    except Refused as error:
        code = getattr(error, "code", FailureCode.REFUSED)
        sentence = "".join(each if each.isprintable() else " " for each in str(error))
        return Failure(str(code), sentence[:MAX_SENTENCE])
    except Unavailable as error:
        _log.info("a request of %s was not served: %s", peer.short, error)
        return _UNAVAILABLE
    except asyncio.TimeoutError:
        _log.warning("a request of %s was not served within %g s", peer.short, SERVING_SECONDS)
        return _UNAVAILABLE
