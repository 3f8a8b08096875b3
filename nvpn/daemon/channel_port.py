"""The daemon's end of the control channel: ask, tell, serve.

Glue between a backend, which carries datagrams of peers, and :mod:`nvpn.channel`, which knows
what they mean. Who a peer is, is what cryptokey routing says; what it may ask for is for those
who serve to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar, cast

from nvpn.backend.api import TunnelBackend
from nvpn.channel.acquaintance import Acquaintances
from nvpn.channel.frames import ID_BYTES, FrameKind, Reassembler, cut
from nvpn.channel.messages import (
    Failure,
    FailureCode,
    Goodbye,
    GoodbyeReason,
    Hello,
    Message,
    Request,
    encode,
)
from nvpn.channel.requester import CHANNEL_RETRY, ONCE, Answered, Outcome, Requester
from nvpn.channel.responder import Responder
from nvpn.daemon.channel_handlers import Handlers
from nvpn.errors import Refused, Unavailable
from nvpn.model.clock import SECOND, Now, read_clocks
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.resilience.calls import call
from nvpn.resilience.policy import RetryPolicy
from nvpn.resilience.registry import Breakers

_log: Final = logging.getLogger(__name__)

_LOOKS_A_TURN: Final = 64
_MAX_BUGS_LOGGED: Final = 20

_A = TypeVar("_A", bound=Message)
_M = TypeVar("_M", bound=Message)
_R = TypeVar("_R", bound=Request[Any])


class PeerRefused(Refused):
    """A peer said no. ``code`` is one of FailureCode's, or one that a later version knows."""

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        super().__init__(sentence or f"the peer refused: {code}")


class ChannelPort:
    """One tunnel's channel. Made closed; everything is called on the loop.

    Handlers and callbacks may be put in before it is opened, and stay over a close.

    Args:
        introduce: who we are, asked for each time somebody wants to know.
        random: that many random bytes.
        retry: how often a request is sent, and in which intervals; by default as the policies
            of ``breakers`` say, or the channel's own.
        breakers: the tunnel's: a peer that leaves several requests unanswered is left alone
            for a while, or until it makes a handshake.
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
        breakers: Breakers | None = None,
    ) -> None:
        self._backend = backend
        self._loop = loop
        self._introduce = introduce
        self._random = random
        self._clocks = clocks
        self._retry = retry
        self._breakers = breakers
        self._callbacks: dict[type[Message], list[Callable[[PublicKey, Any], None]]] = {}
        self._reassembler = Reassembler()
        self._requester = Requester(random=random)
        self._responder = Responder()
        self._handlers = Handlers(
            loop, self._responder, clocks, answered=self._go_on, failed=self._log_bug
        )
        self._acquaintances = Acquaintances()
        self._waiting: dict[bytes, asyncio.Future[Outcome]] = {}
        self._hellos: dict[bytes, PublicKey] = {}
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        self._only: frozenset[PublicKey] | None = None
        self._is_open = False
        self._bugs_logged = 0
        backend.subscribe(self._notice)

    @property
    def is_open(self) -> bool:
        """Whether it is."""
        return self._is_open

    def open(self, only: frozenset[PublicKey] | None = None) -> None:
        """Take part in the channel, with all peers or only with some. Again: changes these."""
        if self._is_open and only == self._only:
            return
        self._is_open = True
        self._only = only
        self._backend.open_channel(self._receive, only=only)

    def close(self) -> None:
        """Leave it: what is under way fails with Unavailable, handlers are cancelled."""
        if not self._is_open:
            return
        self._is_open = False
        self._backend.close_channel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._handlers.cancel()
        for message_id in self._hellos:
            self._requester.cancel(message_id)
        self._hellos.clear()
        self._acquaintances = Acquaintances()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._closed())

    async def ask(
        self, peer: PublicKey, request: Request[_A], retry: RetryPolicy | None = None
    ) -> _A:
        """What the peer answers. Begins a session with it if there is none.

        Raises:
            Unavailable: it did not answer, said that it cannot now, was left alone because it
                did so too often, or the channel is closed.
            PeerRefused: it said no.
            ValueError: the request is out of the bounds of its own schema.
        """
        if not self._is_open:
            raise self._closed()
        if not self._backend.has_peer(peer):
            raise Unavailable(f"{self._backend.name} has no peer {peer.short}")
        breaker = None if self._breakers is None else self._breakers.get(_breaker_name(peer))
        # The requester sends it several times: this is one attempt for the breaker.
        return await call(
            lambda: self._ask(peer, request, self._patience() if retry is None else retry),
            retry=_ONE_ATTEMPT,
            breaker=breaker,
            clock=lambda: self._clocks().boot,
        )

    async def _ask(self, peer: PublicKey, request: Request[_A], retry: RetryPolicy) -> _A:
        message_id = self._requester.request(peer, request, self._clocks().boot, retry)
        outcome = self._waiting[message_id] = self._loop.create_future()
        self._counts["requests_sent"] += 1
        self._go_on()
        try:
            return cast(_A, _answer(peer, await outcome))
        finally:
            del self._waiting[message_id]
            self._requester.cancel(message_id)

    def _patience(self) -> RetryPolicy:
        """Never without an end: whoever asks may have others to ask."""
        if self._retry is not None or self._breakers is None:
            return self._retry or CHANNEL_RETRY
        policy = self._breakers.policies.retry
        most = policy.max_attempts or CHANNEL_RETRY.max_attempts
        return dataclasses.replace(policy, max_attempts=most)

    def tell(self, peer: PublicKey, notice: Message) -> None:
        """Say something that wants no answer, once; it may get lost.

        Raises:
            ValueError: it is out of the bounds of its own schema.
        """
        datagrams = cut(FrameKind.NOTICE, self._random(ID_BYTES), encode(notice))
        if self._is_open:
            self._counts["notices_sent"] += 1
            for datagram in datagrams:
                self._backend.send_channel(peer, datagram)

    def serve(
        self, kind: type[_R], handler: Callable[[PublicKey, _R], Awaitable[Message]]
    ) -> None:
        """Have requests of this kind answered by ``handler``, which runs as a task.

        What it raises is told: Refused with its sentence (and its ``code``, if it has one),
        Unavailable as such, without its sentence, which is for our own log. Anything else is
        a bug: it is logged, and nothing is answered. It is cancelled after 20 s.
        """
        self._handlers.put(kind, handler)

    def on_notice(self, kind: type[_M], callback: Callable[[PublicKey, _M], None]) -> None:
        """Call ``callback``, too, for notices of this kind; it must neither block nor raise."""
        self._callbacks.setdefault(kind, []).append(callback)

    def acquaintance(self, peer: PublicKey) -> Hello | None:
        """How the peer introduced itself in its present session; None: it did not."""
        return self._acquaintances.get(peer)

    def statistics(self) -> Mapping[str, int]:
        """Counts since the start, and sizes now, by name: for people and metrics.

        ``requests_sent``, ``requests_unanswered``, ``requests_received``,
        ``notices_sent``, ``notices_received``, ``introductions_asked``, ``busy``, and
        ``dropped_REASON``; now ``questions_open`` and ``requests_served``.
        """
        drops = (
            self._reassembler.drops(),
            self._requester.drops(),
            self._responder.drops(),
        )
        counts = Counter(self._counts)
        for some in drops:
            for reason, count in some.items():
                counts[f"dropped_{reason.value.replace('-', '_')}"] += count
        counts["questions_open"] = len(self._requester)
        counts["requests_served"] = len(self._handlers)
        if self._handlers.busy:
            counts["busy"] = self._handlers.busy
        return counts

    # --- what comes -------------------------------------------------------------------

    def _receive(self, peer: PublicKey, datagram: bytes) -> None:
        if not self._is_open or (self._only is not None and peer not in self._only):
            return
        try:
            self._hear(peer, datagram, self._clocks().boot)
            self._go_on()
        except Exception as error:
            self._log_bug(peer, error)
            self._arm()

    def _hear(self, peer: PublicKey, datagram: bytes, now: int) -> None:
        frame = self._reassembler.receive(peer, datagram, now)
        if frame is None:
            return
        if frame.kind is FrameKind.RESPONSE:
            self._requester.receive(peer, frame.id, frame.body)
        elif frame.kind is FrameKind.REQUEST:
            request = self._responder.receive(peer, frame.id, frame.body, now)
            if request is not None:
                self._counts["requests_received"] += 1
                try:
                    self._serve(peer, frame.id, request, now)
                except Exception:
                    self._responder.give_up(peer, frame.id)
                    raise
        else:
            notice = self._responder.receive_notice(peer, frame.body, now)
            if isinstance(notice, Goodbye) and notice.reason == GoodbyeReason.STOPPING.value:
                self._acquaintances.end_session(peer)  # who goes is not asked who it is
            if notice is not None and type(notice) in self._callbacks:
                self._counts["notices_received"] += 1
                for callback in self._callbacks[type(notice)]:
                    callback(peer, notice)

    def _serve(self, peer: PublicKey, message_id: bytes, request: Message, now: int) -> None:
        if isinstance(request, Hello):
            self._acquaintances.introduce(peer, request, now)
            self._responder.answer(peer, message_id, self._introduce(), now)
        else:
            self._handlers.begin(peer, message_id, request, now)

    def _notice(self, notice: Notice) -> None:
        if not self._is_open:
            return
        peer = notice.peer
        if notice.kind is NoticeKind.HANDSHAKE_COMPLETED:
            if self._breakers is not None:
                self._breakers.retry_now(_breaker_name(peer), self._clocks().boot)
            if self._only is None or peer in self._only:
                self._acquaintances.begin_session(peer, self._clocks().boot)
                self._arm()
        elif notice.kind in (NoticeKind.SESSION_EXPIRED, NoticeKind.SESSION_ENDED):
            self._acquaintances.end_session(peer)
            if not self._backend.has_peer(peer):
                self._acquaintances.forget(peer)
                self._responder.forget(peer)
                if self._breakers is not None:
                    self._breakers.forget(_breaker_name(peer))

    # --- what goes --------------------------------------------------------------------

    def _go_on(self) -> None:
        """Send what is to be sent, and tell what became of questions."""
        if not self._is_open:
            return
        for asked in (self._requester, self._responder):
            for peer, datagram in asked.take_datagrams():
                self._backend.send_channel(peer, datagram)
        for outcome in self._requester.take_outcomes():
            self._conclude(outcome)
        self._arm()

    def _conclude(self, outcome: Outcome) -> None:
        is_answer = isinstance(outcome, Answered)
        if not is_answer:
            self._counts["requests_unanswered"] += 1
        stranger = self._hellos.pop(outcome.id, None)
        if stranger is not None:
            now = self._clocks().boot
            if isinstance(outcome, Answered) and isinstance(outcome.answer, Hello):
                self._acquaintances.introduce(stranger, outcome.answer, now)
            else:
                self._acquaintances.fall_silent(stranger, now)
            return
        waiting = self._waiting.get(outcome.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    def _tick(self) -> None:
        self._timer = None
        try:
            now = self._clocks().boot
            self._requester.handle_timeout(now)
            for _ in range(_LOOKS_A_TURN):
                peer = self._acquaintances.take_look(now)
                if peer is None:
                    break
                self._look_at(peer, now)
            self._go_on()
        except Exception as error:
            self._log_bug(None, error)
            self._arm()

    def _look_at(self, peer: PublicKey, now: int) -> None:
        if not self._backend.has_peer(peer):
            self._acquaintances.forget(peer)
        elif self._acquaintances.look(peer, self._backend.data_received_at(peer), now):
            with contextlib.suppress(Unavailable):
                message_id = self._requester.request(peer, self._introduce(), now, ONCE)
                self._hellos[message_id] = peer
                self._counts["introductions_asked"] += 1

    def _arm(self) -> None:
        times = (self._requester.next_timeout(), self._acquaintances.next_look())
        at = min((time for time in times if time is not None), default=None)
        if self._timer is not None and at != self._timer_at:
            self._timer.cancel()
            self._timer = None
        if at is not None and self._timer is None:
            self._timer_at = at
            seconds = max(0, at - self._clocks().boot) / SECOND
            self._timer = self._loop.call_later(seconds, self._tick)

    def _closed(self) -> Unavailable:
        return Unavailable(f"the control channel of {self._backend.name} is closed")

    def _log_bug(self, peer: PublicKey | None, error: Exception) -> None:
        # A peer may be able to cause it again and again.
        self._bugs_logged += 1
        if self._bugs_logged <= _MAX_BUGS_LOGGED:
            whose = "" if peer is None else f" with {peer.short}"
            _log.error("internal error on the control channel%s", whose, exc_info=error)


_ONE_ATTEMPT: Final = RetryPolicy(max_attempts=1)


def _breaker_name(peer: PublicKey) -> str:
    return f"channel {peer.short}"


def _answer(peer: PublicKey, outcome: Outcome) -> Message:
    if not isinstance(outcome, Answered):
        if outcome.was_strange:
            raise Unavailable(f"{peer.short} answers in a way that this version does not know")
        raise Unavailable(f"{peer.short} does not answer")
    answer = outcome.answer
    if not isinstance(answer, Failure):
        return answer
    if answer.code in (FailureCode.BUSY, FailureCode.UNAVAILABLE):
        raise Unavailable(answer.sentence or f"{peer.short} cannot do that at the moment")
    raise PeerRefused(answer.code, answer.sentence)
