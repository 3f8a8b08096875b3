"""Who has been silent for long: by what came from each, and our own clock."""

from __future__ import annotations

from nvpn.daemon.server.idle import IdleWatch
from nvpn.model.clock import SECOND
from tests.support.scenarios import A, B

TIMEOUT = 60 * SECOND


def test_a_client_that_sends_nothing_is_idle_after_the_timeout() -> None:
    watch = IdleWatch()
    assert watch.look({A: 100, B: 100}, TIMEOUT, 0) == ()
    assert watch.look({A: 100, B: 132}, TIMEOUT, 59 * SECOND) == ()
    assert watch.look({A: 100, B: 132}, TIMEOUT, 60 * SECOND) == (A,)
    assert watch.look({A: 100, B: 132}, TIMEOUT, 118 * SECOND) == (A,)
    assert watch.look({A: 100, B: 132}, TIMEOUT, 119 * SECOND) == (A, B)


def test_a_client_that_came_back_begins_anew() -> None:
    watch = IdleWatch()
    watch.look({A: 100}, TIMEOUT, 0)
    assert watch.look({A: 100}, TIMEOUT, 90 * SECOND) == (A,)
    assert watch.look({}, TIMEOUT, 91 * SECOND) == ()
    assert watch.look({A: 100}, TIMEOUT, 92 * SECOND) == ()
    # Its peer was made anew: the count is another one.
    assert watch.look({A: 0}, TIMEOUT, 152 * SECOND) == ()
