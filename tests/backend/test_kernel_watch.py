"""Events found by looking at the kernel's counters again and again."""

from __future__ import annotations

from nvpn.backend.kernel_watch import KernelWatch
from nvpn.model.clock import SECOND, Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.notices import NoticeKind
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from tests.support.scenarios import ELSEWHERE, A

NOT_FAR = Endpoint.parse("192.0.2.2:51820")
FAR = Endpoint.parse("[2001:db8::1]:51820")
BEGIN = 1_700_000_000 * SECOND


def seen(
    *, handshake: int = 0, tx: int = 0, endpoint: Endpoint | None = ELSEWHERE
) -> TunnelSnapshot:
    return TunnelSnapshot(
        "wg0", peers=(PeerSnapshot(A, endpoint=endpoint, last_handshake=handshake, tx_bytes=tx),)
    )


class Looker:
    def __init__(self) -> None:
        self.watch = KernelWatch()

    def look(self, second: float, snapshot: TunnelSnapshot) -> list[NoticeKind]:
        at = int(second * SECOND)
        return [notice.kind for notice in self.watch.look(snapshot, Now(at, BEGIN + at))]


def test_a_new_date_is_a_handshake_and_another_place_is_roaming() -> None:
    looker = Looker()
    assert looker.look(0, seen()) == []
    assert looker.look(2, seen(handshake=BEGIN + SECOND)) == [NoticeKind.HANDSHAKE_COMPLETED]
    assert looker.look(4, seen(handshake=BEGIN + SECOND)) == []
    assert looker.look(6, seen(handshake=BEGIN + SECOND, endpoint=FAR)) == [NoticeKind.ROAMED]
    looker.watch.expect_moves([A])
    assert looker.look(8, seen(handshake=BEGIN + SECOND, endpoint=NOT_FAR)) == []


def test_a_session_that_was_there_before_us_is_told_once() -> None:
    looker = Looker()
    assert looker.look(0, seen(handshake=BEGIN - SECOND)) == [NoticeKind.HANDSHAKE_COMPLETED]
    assert looker.look(2, seen(handshake=BEGIN - SECOND)) == []


def test_a_session_of_a_peer_that_was_removed_is_told_as_ended() -> None:
    looker = Looker()
    assert looker.look(0, seen(handshake=BEGIN - SECOND)) == [NoticeKind.HANDSHAKE_COMPLETED]
    assert looker.look(2, TunnelSnapshot("wg0")) == [NoticeKind.SESSION_ENDED]
    assert looker.look(4, TunnelSnapshot("wg0")) == []
    assert looker.look(6, seen()) == []
    assert looker.look(8, TunnelSnapshot("wg0")) == [], "it had none"


def test_initiations_without_an_answer_are_told_and_then_given_up() -> None:
    looker = Looker()
    told = {
        second: looker.look(second, seen(tx=148 * (second // 5))) for second in range(0, 140, 2)
    }
    notices = [(second, kind) for second, kinds in told.items() for kind in kinds]
    unanswered = [second for second, kind in notices if kind is NoticeKind.HANDSHAKE_UNANSWERED]
    given_up = [second for second, kind in notices if kind is NoticeKind.HANDSHAKE_GIVEN_UP]
    assert 12 <= unanswered[0] <= 24
    assert len(given_up) == 1
    assert 90 <= given_up[0] <= 102


def test_a_session_that_is_used_while_it_is_young_is_no_question() -> None:
    looker = Looker()
    looker.look(0, seen(handshake=BEGIN))
    assert not any(
        looker.look(second, seen(handshake=BEGIN, tx=second)) for second in range(2, 134, 2)
    )
    late = [kind for second in range(134, 170, 2) for kind in looker.look(second, seen(handshake=BEGIN, tx=second))]  # fmt: skip  # noqa: E501
    assert set(late) == {NoticeKind.HANDSHAKE_UNANSWERED}


def test_an_old_session_that_is_not_used_is_no_question_either() -> None:
    looker = Looker()
    looker.look(0, seen(handshake=BEGIN, tx=7))
    assert not any(looker.look(second, seen(handshake=BEGIN, tx=7)) for second in range(2, 600, 2))
