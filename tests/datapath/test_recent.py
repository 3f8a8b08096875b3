"""A memory that is bounded, and in which nobody suffers from what others have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.recent import Recent

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "get", "drop", "forget"]),
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    max_size=60,
)


def fill(recent: Recent[int, int], owner: int, keys: range) -> None:
    for key in keys:
        recent.put(owner, key, key)


def kept(recent: Recent[int, int], owner: int, keys: range) -> list[int]:
    return [key for key in keys if recent.get(owner, key) is not None]


def test_an_owner_loses_what_he_has_not_used_for_longest() -> None:
    recent: Recent[int, int] = Recent(most=100, most_each=4)
    fill(recent, 1, range(4))
    assert recent.touch(1, 0) == 0
    assert recent.get(1, 1) == 1, "to look is not to use"
    recent.put(1, 3, 33)
    recent.put(1, 9, 9)
    assert kept(recent, 1, range(10)) == [0, 2, 3, 9]
    assert recent.get(1, 3) == 33
    assert recent.oldest(1) == (2, 2)
    assert len(recent) == 4


def test_a_flood_costs_whoever_makes_it() -> None:
    recent: Recent[int, int] = Recent(most=20, most_each=12)
    fill(recent, 1, range(5))
    fill(recent, 2, range(5))
    fill(recent, 3, range(1000))
    assert kept(recent, 1, range(5)) == kept(recent, 2, range(5)) == list(range(5))
    assert kept(recent, 3, range(1000)) == list(range(990, 1000))
    # Who has little gets room from who has most.
    fill(recent, 4, range(3))
    assert [len(kept(recent, owner, range(1000))) for owner in (1, 2, 3, 4)] == [5, 5, 7, 3]
    assert len(recent) == 20


def test_what_is_an_owners_goes_with_him() -> None:
    recent: Recent[int, int] = Recent(most=20, most_each=12)
    fill(recent, 1, range(3))
    fill(recent, 2, range(2))
    recent.forget(1)
    recent.forget(7)
    assert (len(recent), recent.oldest(1), recent.touch(1, 0)) == (2, None, None)
    recent.drop_oldest(2)
    recent.drop_oldest(2)
    assert (len(recent), recent.oldest(2)) == (0, None)


@given(STEPS)
def test_it_never_grows_beyond_its_bounds(steps: list[tuple[str, int, int]]) -> None:
    recent: Recent[int, int] = Recent(most=8, most_each=4)
    known: dict[tuple[int, int], int] = {}
    for number, (what, owner, key) in enumerate(steps):
        if what == "put":
            recent.put(owner, key, number)
            known[owner, key] = number
            assert recent.get(owner, key) == number
        elif what == "get":
            assert recent.touch(owner, key) in (None, known.get((owner, key)))
        elif what == "drop" and recent.oldest(owner) is not None:
            recent.drop_oldest(owner)
        elif what == "forget":
            recent.forget(owner)
        counts = [len(kept(recent, owner, range(6))) for owner in range(4)]
        assert sum(counts) == len(recent) <= 8
        assert max(counts) <= 4
