"""A peer that leaves requests unanswered is left alone, and asked again when it is there."""

from __future__ import annotations

import pytest

from nvpn.channel.messages import Done, Release
from nvpn.daemon.channel_port import PeerRefused
from nvpn.errors import Unavailable
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.notices import NoticeKind
from nvpn.resilience.policy import BreakerPolicy, Policies, RetryPolicy
from nvpn.resilience.registry import Breakers
from tests.support.channel_nodes import A, B, C, Node
from tests.support.virtual_loop import play_virtually

PATIENT = BreakerPolicy(failure_threshold=2, reset_timeout=3600 * SECOND)


class Asker:
    """We are A; nobody answers at B and C before their ports are opened."""

    def __init__(
        self, breaker: BreakerPolicy, *, max_attempts: int = 2, pause: int = MILLISECOND
    ) -> None:
        retry = RetryPolicy(max_attempts, pause, pause)
        self.breakers = Breakers(Policies(retry, breaker))
        self.node = Node(A, breakers=self.breakers)
        self.far_end = Node(B, is_open=False)
        self.node.plug.join(self.far_end.plug, Node(C, is_open=False).plug)

    async def ask(self, peer: PublicKey) -> None:
        await self.node.port.ask(peer, Release())

    @property
    def asked(self) -> list[PublicKey]:
        return [peer for peer, _ in self.node.plug.sent]

    def states(self) -> list[tuple[str, str]]:
        return [(one.name, one.state.value) for one in self.breakers.snapshots(0)]


def test_after_several_silences_a_peer_is_not_asked_any_more_and_others_are() -> None:
    async def scenario() -> None:
        us = Asker(PATIENT)
        for _ in range(2):
            with pytest.raises(Unavailable, match="does not answer"):
                await us.ask(B)
        assert us.asked == [B] * 4
        with pytest.raises(Unavailable, match="is left alone; it is tried again in 3600 s"):
            await us.ask(B)
        assert us.asked == [B] * 4
        with pytest.raises(Unavailable, match="does not answer"):
            await us.ask(C)

    play_virtually(scenario)


def test_one_that_makes_a_handshake_is_asked_again() -> None:
    async def scenario() -> None:
        us = Asker(PATIENT)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await us.ask(B)
        us.node.plug.tell(NoticeKind.HANDSHAKE_COMPLETED, C)
        assert us.states() == [(f"channel {B.short}", "open")]
        us.node.plug.tell(NoticeKind.HANDSHAKE_COMPLETED, B)
        with pytest.raises(Unavailable, match="does not answer"):
            await us.ask(B)
        assert len(us.asked) == 6

    play_virtually(scenario)


def test_whoever_says_no_is_there() -> None:
    async def scenario() -> None:
        # For ever: as often as the channel does by itself, then.
        us = Asker(PATIENT, max_attempts=0, pause=25 * MILLISECOND)
        us.far_end.port.open()
        for _ in range(3):
            with pytest.raises(PeerRefused):
                await us.ask(B)
        assert us.states() == [(f"channel {B.short}", "closed")]

        async def release(peer: PublicKey, request: Release) -> Done:
            return Done()

        us.far_end.port.serve(Release, release)
        await us.ask(B)
        us.far_end.port.close()
        with pytest.raises(Unavailable, match="does not answer"):
            await us.ask(B)
        assert us.states() == [(f"channel {B.short}", "closed")]

    play_virtually(scenario)


def test_requests_are_repeated_as_the_policies_in_force_say() -> None:
    async def scenario() -> None:
        us = Asker(BreakerPolicy(failure_threshold=100))
        with pytest.raises(Unavailable):
            await us.ask(B)
        assert len(us.asked) == 2
        us.breakers.change(Policies(RetryPolicy(4, MILLISECOND, MILLISECOND)))
        with pytest.raises(Unavailable):
            await us.ask(B)
        assert len(us.asked) == 2 + 4

    play_virtually(scenario)
