from __future__ import annotations

from nvpn.daemon.leasing.lifecycle import Ask, Farewell, Lifecycle, TakeAway, Wait
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.resilience.policy import RetryPolicy

A, B, C = (PublicKey(bytes([number]) * 32) for number in (1, 2, 3))
POLICY = RetryPolicy(initial=SECOND, maximum=60 * SECOND, jitter=0)
START = 1000 * SECOND


def no_chance(size: int) -> bytes:
    return bytes(size)


def lifecycle(*servers: PublicKey) -> Lifecycle:
    return Lifecycle(servers, POLICY, no_chance, START)


def leased(*servers: PublicKey, lease: int = 600, renew: int = 300) -> Lifecycle:
    life = lifecycle(*servers)
    assert life.next_step(START) == Ask(servers[0], False)
    life.leased(servers[0], lease, renew, START)
    return life


def test_the_first_server_is_asked_at_once_and_only_once() -> None:
    life = lifecycle(A, B)

    assert life.next_step(START) == Ask(A, False)
    assert life.next_step(START) == Wait(None)


def test_without_servers_nothing_is_ever_due() -> None:
    assert lifecycle().next_step(START) == Wait(None)


def test_a_lease_is_renewed_when_the_server_says_so_and_by_the_same_server() -> None:
    life = leased(A, B)

    assert life.next_step(START) == Wait(START + 300 * SECOND)
    assert life.next_step(START + 300 * SECOND) == Ask(A, False)
    life.leased(A, 600, 300, START + 301 * SECOND)
    assert life.next_step(START + 301 * SECOND) == Wait(START + 601 * SECOND)
    assert life.expires_at == START + 901 * SECOND


def test_a_tenth_of_the_time_until_the_renewal_is_left_to_chance() -> None:
    life = Lifecycle((A,), POLICY, lambda size: b"\xff" * size, START)
    life.next_step(START)
    life.leased(A, 600, 300, START)

    assert START + 270 * SECOND <= life.ask_at < START + 271 * SECOND


def test_a_lease_for_good_never_expires_and_is_renewed_all_the_same() -> None:
    life = leased(A, lease=0, renew=3600)

    assert life.expires_at is None
    assert life.next_step(START) == Wait(START + 3600 * SECOND)


def test_the_next_server_is_asked_when_one_is_silent_and_all_of_them_less_and_less_often() -> None:
    life, now, asked_at = lifecycle(A, B), START, []
    for _ in range(8):
        step = life.next_step(now)
        if isinstance(step, Wait):
            assert step.until is not None
            now = step.until
            step = life.next_step(now)
        assert isinstance(step, Ask)
        asked_at.append((step.server, (now - START) // SECOND))
        life.failed(step.server, now)

    assert asked_at == [(A, 0), (B, 0), (A, 1), (B, 1), (A, 3), (B, 3), (A, 7), (B, 7)]


def test_a_server_that_was_silent_is_sought_by_a_handshake_the_next_time() -> None:
    life = lifecycle(A)
    life.next_step(START)
    life.failed(A, START)

    assert life.next_step(START + SECOND) == Ask(A, True)


def test_a_server_that_refuses_is_asked_again_after_the_longest_pause() -> None:
    life = lifecycle(A)
    life.next_step(START)
    life.refused(A, START)

    assert life.next_step(START) == Wait(START + 60 * SECOND)
    assert life.next_step(START + 60 * SECOND) == Ask(A, False)


def test_what_a_server_leased_is_taken_away_when_it_refuses_to_renew_it() -> None:
    life = leased(A)
    now = START + 300 * SECOND
    assert life.next_step(now) == Ask(A, False)
    life.refused(A, now)

    assert life.next_step(now) == TakeAway("the server refuses to renew it")
    assert life.next_step(now) == Wait(now + 60 * SECOND)
    assert life.holder is None


def test_what_one_server_leased_stays_when_another_refuses() -> None:
    life = leased(A, B)
    now = START + 300 * SECOND
    life.next_step(now)
    life.failed(A, now)
    assert life.next_step(now) == Ask(B, True)
    life.refused(B, now)

    assert life.holder == A
    assert isinstance(life.next_step(now), Wait)


def test_a_lease_that_nobody_renews_is_kept_to_its_end_and_then_taken_away() -> None:
    life, now = leased(A), START
    asked = 0
    while True:
        step = life.next_step(now)
        if isinstance(step, TakeAway):
            break
        if isinstance(step, Ask):
            asked += 1
            life.failed(A, now)
        else:
            assert step.until is not None and step.until > now
            now = step.until

    assert step == TakeAway("it has expired")
    assert now == START + 600 * SECOND
    assert asked > 5
    assert life.next_step(now + SECOND) == Ask(A, True)


def test_a_lease_expires_also_while_the_answer_to_a_renewal_is_awaited() -> None:
    life = leased(A)
    assert life.next_step(START + 599 * SECOND) == Ask(A, False)

    assert life.next_step(START + 599 * SECOND) == Wait(START + 600 * SECOND)
    assert life.next_step(START + 600 * SECOND) == TakeAway("it has expired")
    assert life.next_step(START + 600 * SECOND) == Wait(None)


def test_a_lease_that_ended_while_the_machine_slept_is_taken_away_on_waking() -> None:
    life = leased(A)
    waking = START + 86_400 * SECOND

    assert life.next_step(waking) == TakeAway("it has expired")
    assert life.next_step(waking) == Ask(A, False)


def test_when_a_server_goes_the_next_one_is_asked_at_once_and_what_we_have_is_kept() -> None:
    life = leased(A, B)
    now = START + 50 * SECOND
    life.parted(A, Farewell.IT_GOES, now)

    assert life.next_step(now) == Ask(B, True)
    assert life.holder == A
    life.leased(B, 600, 300, now)
    assert life.holder == B
    assert life.next_step(now + 300 * SECOND) == Ask(B, False)


def test_an_only_server_that_goes_is_sought_at_once_and_then_less_and_less_often() -> None:
    life = leased(A)
    now = START + 50 * SECOND
    life.parted(A, Farewell.IT_GOES, now)

    assert life.next_step(now) == Ask(A, True)
    life.failed(A, now)
    assert life.next_step(now) == Wait(now + SECOND)


def test_when_the_lease_ended_the_same_server_is_asked_at_once_within_its_session() -> None:
    life = leased(A, B)
    now = START + 50 * SECOND
    life.parted(A, Farewell.ASK_AGAIN, now)

    assert life.next_step(now) == Ask(A, False)


def test_a_server_that_says_goodbye_all_the_time_is_asked_once_a_second() -> None:
    life = leased(A)
    asked = 0
    for tenth in range(100):
        now = START + tenth * SECOND // 10
        life.parted(A, Farewell.ASK_AGAIN, now)
        if isinstance(life.next_step(now), Ask):
            asked += 1
            life.leased(A, 600, 300, now)

    assert asked <= 10


def test_the_goodbye_of_a_server_that_we_have_nothing_of_changes_nothing() -> None:
    life = leased(A, B)
    life.parted(B, Farewell.WE_ARE_REVOKED, START)

    assert life.holder == A
    assert life.next_step(START) == Wait(START + 300 * SECOND)


def test_being_revoked_takes_the_lease_away_and_the_server_is_asked_rarely() -> None:
    life = leased(A)
    now = START + 50 * SECOND
    life.parted(A, Farewell.WE_ARE_REVOKED, now)

    assert life.next_step(now) == TakeAway("the server has revoked us")
    assert life.next_step(now) == Wait(now + 60 * SECOND)


def test_an_answer_that_comes_after_a_goodbye_is_not_counted_as_a_failure() -> None:
    life = lifecycle(A, B)
    life.next_step(START)
    life.parted(A, Farewell.IT_GOES, START)
    life.failed(A, START)

    assert life.next_step(START + SECOND) == Ask(B, True)


def test_a_handshake_with_a_server_that_we_wait_to_ask_again_ends_the_wait() -> None:
    life = lifecycle(A, B)
    for server in (A, B):
        life.next_step(START)
        life.failed(server, START)
    assert isinstance(life.next_step(START), Wait)
    life.heard(C, START + SECOND // 2)
    assert isinstance(life.next_step(START + SECOND // 2), Wait)
    life.heard(B, START + SECOND)

    assert life.next_step(START + SECOND) == Ask(B, True)
    life.heard(A, START + SECOND)
    assert life.next_step(START + SECOND) == Wait(None)


def test_a_handshake_while_the_lease_is_good_changes_nothing() -> None:
    life = leased(A)
    life.heard(A, START + 120 * SECOND)

    assert life.next_step(START + 120 * SECOND) == Wait(START + 300 * SECOND)


def test_a_pace_that_a_reload_changes_holds_for_the_next_wait() -> None:
    life = lifecycle(A)
    life.change_policy(RetryPolicy(initial=7 * SECOND, jitter=0))
    life.next_step(START)
    life.failed(A, START)

    assert life.next_step(START) == Wait(START + 7 * SECOND)


def test_a_reload_that_keeps_the_servers_changes_nothing() -> None:
    life = leased(A, B)
    life.change_servers((A, B), START + SECOND)

    assert life.next_step(START + SECOND) == Wait(START + 300 * SECOND)


def test_a_reload_that_drops_the_server_takes_its_lease_away_and_asks_the_others() -> None:
    life = leased(A, B)
    now = START + 10 * SECOND
    life.change_servers((C, B), now)

    assert life.next_step(now) == TakeAway("the file names its server no more")
    assert life.next_step(now) == Ask(C, False)


def test_a_reload_that_adds_a_server_keeps_the_lease() -> None:
    life = leased(A)
    life.change_servers((B, A), START + SECOND)

    assert life.holder == A
    assert life.next_step(START + 300 * SECOND) == Ask(A, False)


def test_servers_may_all_go_and_come_back() -> None:
    life = leased(A)
    life.change_servers((), START)
    assert life.next_step(START) == TakeAway("the file names its server no more")
    assert life.next_step(START) == Wait(None)
    life.change_servers((B,), START + 5 * SECOND)

    assert life.next_step(START + 5 * SECOND) == Ask(B, False)


def test_another_server_is_asked_at_once_when_the_one_we_have_answers_no_handshake() -> None:
    life, now = leased(A, B), START + 50 * SECOND

    life.unheard(B, now)
    assert life.next_step(now) == Wait(START + 300 * SECOND)
    life.unheard(A, now)
    assert life.next_step(now) == Ask(B, True)
    life.leased(B, 600, 300, now)
    assert life.holder == B


def test_silence_of_all_servers_is_told_often_and_asked_about_less_and_less_often() -> None:
    life, asked_at = leased(A, B), []
    for second in range(50, 120):
        now = START + second * SECOND
        life.unheard(A, now)
        step = life.next_step(now)
        while isinstance(step, Ask):
            asked_at.append((step.server, second))
            life.failed(step.server, now)
            life.unheard(A, now)
            step = life.next_step(now)

    assert asked_at == [
        (B, 50), (A, 50), (B, 51), (A, 51), (B, 53), (A, 53), (B, 57), (A, 57), (B, 65), (A, 65),
        (B, 81), (A, 81), (B, 113), (A, 113),
    ]  # fmt: skip
    assert life.holder == A


def test_who_has_one_server_alone_waits_for_it() -> None:
    life = leased(A)
    life.unheard(A, START + 50 * SECOND)
    assert life.next_step(START + 50 * SECOND) == Wait(START + 300 * SECOND)
