"""The replay window, against the tables of the protocol and an oracle that is a set."""

from __future__ import annotations

import os
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.replay import MAX_DISTANCE, ReplayWindow
from nvpn.wire.constants import REJECT_AFTER_MESSAGES
from tests.support.vectors import vectors

W = MAX_DISTANCE
L = REJECT_AFTER_MESSAGES

YES, NO = True, False
TABLE = {
    "basic": [(0, YES), (1, YES), (1, NO), (9, YES), (8, YES), (7, YES), (7, NO)],
    "edge": [(W + 5, YES), (5, YES), (5, NO), (4, NO), (6, YES)],
    "slide": [(W, YES), (0, YES), (W + 1, YES), (0, NO), (1, YES), (1, NO)],
    "full turn": [
        (0, YES),
        (8192, YES),
        (0, NO),
        (8256, YES),
        (64, NO),
        (16384, YES),
        (8192, NO),
    ],
    "far jump": [(3, YES), (81283, YES), (73155, YES), (73155, NO), (73154, NO), (73156, YES)],
    "word edges": [
        (63, YES),
        (64, YES),
        (62, YES),
        (65, YES),
        (127, YES),
        (128, YES),
        (126, YES),
        (129, YES),
        (64, NO),
        (127, NO),
    ],
    "block edges": [(511, YES), (512, YES), (1023, YES), (1024, YES), (511, NO), (1024, NO)],
    "limit": [
        (L - 1, YES),
        (L - 1, NO),
        (L, NO),
        (L + 1, NO),
        (L - 2, YES),
        (L - 2, NO),
        (L - 1 - W, YES),
        (L - 2 - W, NO),
        (0, NO),
    ],
}


class Oracle:
    """What the window must do, with all the memory it likes."""

    def __init__(self) -> None:
        self.greatest = -1
        self.seen: set[int] = set()

    def accept(self, counter: int) -> bool:
        if counter >= L or counter in self.seen or self.greatest - counter > W:
            return False
        self.seen.add(counter)
        self.greatest = max(self.greatest, counter)
        return True

    def may_accept(self, counter: int) -> bool:
        return counter < L and counter not in self.seen and self.greatest - counter <= W


@pytest.mark.parametrize("name", TABLE)
def test_each_case_of_the_table_accepts_exactly_the_marked_counters(name: str) -> None:
    window = ReplayWindow()
    for counter, expected in TABLE[name]:
        assert window.may_accept(counter) is expected, counter
        assert window.accept(counter) is expected, counter


@pytest.mark.parametrize("name", vectors()["replay"]["wireguard_go"]["cases"])
def test_each_vector_of_the_implementation_with_our_limits_holds(name: str) -> None:
    case = vectors()["replay"]["wireguard_go"]
    assert case["back"] == MAX_DISTANCE
    assert int(case["limit"]) == REJECT_AFTER_MESSAGES

    window = ReplayWindow()
    got = [[counter, window.accept(counter)] for counter, _ in case["cases"][name]]
    assert got == case["cases"][name]


def test_in_order_up_to_the_window_and_then_the_very_first() -> None:
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in range(1, W + 1))
    assert window.accept(0)
    assert not window.accept(0)


def test_in_order_past_the_window_loses_the_very_first() -> None:
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in range(2, W + 2))
    assert window.accept(1)
    assert not window.accept(0)


@pytest.mark.parametrize("top", [W, W + 1, W + 2])
def test_a_whole_window_downwards_ends_at_its_edge(top: int) -> None:
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in range(top, top - W - 1, -1))
    assert not any(window.accept(counter) for counter in range(top - W))


def test_asking_changes_nothing() -> None:
    window = ReplayWindow()
    window.accept(100)
    for counter in (L - 1, 99, 10_000, 50):
        assert window.may_accept(counter)
        assert window.may_accept_run(counter, 1)
    assert window.greatest == 100
    assert window.accept(101)
    assert window.accept(99)


def test_a_run_is_all_or_nothing() -> None:
    window = ReplayWindow()
    window.accept(510)
    assert not window.accept_run(500, 45)
    assert window.accept_run(511, 45)
    assert window.accept_run(500, 10)
    assert not window.may_accept_run(520, 3)
    assert window.greatest == 555


def test_a_run_may_not_reach_the_limit() -> None:
    window = ReplayWindow()
    assert not window.accept_run(L - 44, 45)
    assert window.accept_run(L - 45, 45)
    assert window.greatest == L - 1


def test_memory_stays_small_whatever_is_accepted() -> None:
    window = ReplayWindow()
    rng = random.Random(3)
    for _ in range(20_000):
        window.accept(window.greatest + rng.choice((1, 2, 500, 8000, 8192, 100_000)))
        window.accept(max(0, window.greatest - rng.randrange(W + 1)))
    blocks = window._blocks
    assert len(blocks) <= 17
    assert sys.getsizeof(blocks) + sum(map(sys.getsizeof, blocks.values())) < 4096


@given(
    st.lists(st.tuples(st.integers(-20_000, 20_000), st.integers(1, 700)), min_size=1, max_size=60)
)
def test_a_run_is_what_its_counters_are_one_by_one(steps: list[tuple[int, int]]) -> None:
    by_run, one_by_one = ReplayWindow(), ReplayWindow()
    for offset, count in steps:
        first = max(0, by_run.greatest + offset)
        fresh = by_run.may_accept_run(first, count)
        assert by_run.accept_run(first, count) is fresh
        if fresh:
            accepted = [one_by_one.accept(first + i) for i in range(count)]
            assert all(accepted)
        else:
            assert not all(one_by_one.may_accept(first + i) for i in range(count))
        assert by_run.greatest == one_by_one.greatest
        around = range(max(0, first - 3), first + count + 3)
        assert [by_run.may_accept(c) for c in around] == [one_by_one.may_accept(c) for c in around]


def test_random_walks_agree_with_the_oracle() -> None:
    # NVPN_FUZZ_STEPS=10000000 for a long run.
    steps = int(os.environ.get("NVPN_FUZZ_STEPS", "200000"))
    seed = int(os.environ.get("NVPN_FUZZ_SEED", "1"))
    rng = random.Random(seed)
    window, oracle = ReplayWindow(), Oracle()
    for step in range(steps):
        counter = max(0, oracle.greatest + _step(rng))
        if rng.random() < 0.000_05:
            counter = L - rng.randrange(-3, 20_000)
        expected = oracle.may_accept(counter)
        assert window.may_accept(counter) is expected, (seed, step, counter)
        assert window.may_accept_run(counter, 1) is expected, (seed, step, counter)
        assert window.accept(counter) is oracle.accept(counter), (seed, step, counter)
        if (oracle.greatest > L - 20_000 and rng.random() < 0.01) or len(oracle.seen) > 100_000:
            window, oracle = ReplayWindow(), Oracle()


def _step(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.45:
        return 1
    if kind < 0.65:
        return -rng.randrange(100)
    if kind < 0.80:
        return -rng.randrange(W + 100)
    if kind < 0.90:
        return rng.choice((-1, 0, 1)) - rng.choice((W, W + 1, 8192, 64, 512))
    if kind < 0.96:
        return rng.choice((64, 512, 8192, W)) * rng.randrange(1, 3) + rng.randrange(-1, 2)
    if kind < 0.999:
        return rng.randrange(64)
    return rng.randrange(1 << 40)
