"""What was found becomes places in an order, and moves a peer only for a reason."""

from __future__ import annotations

import pytest

from nvpn.config.model import HostPort
from nvpn.daemon.places import MAX_PLACES, arrange, changes_for, look_up
from nvpn.model.changes import SetCandidates, SetEndpoint
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from tests.support.places import places

ALICE = PublicKey(bytes(range(32)))


def test_what_no_resolver_understands_does_not_resolve() -> None:
    with pytest.raises(OSError, match="not a name"):
        look_up(HostPort("x" * 64 + ".example", 1))


def test_families_take_turns_within_a_name_and_endpoints_stay_in_their_order() -> None:
    first = places("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2")
    second = places("192.0.2.9", "2001:db8::1")
    assert arrange([first, (), second]) == places(
        "2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.9"
    )
    assert arrange([]) == ()


def test_of_too_many_addresses_every_endpoint_gives_its_best() -> None:
    many = tuple(f"192.0.2.{number}" for number in range(1, 13))
    two, one = places("198.51.100.1", "198.51.100.2"), places("203.0.113.1")
    chosen = arrange([places(*many), two, one])
    assert len(chosen) == MAX_PLACES
    assert chosen == (*places(*many[:5]), *two, *one)


HERE, THERE, ELSEWHERE = places("192.0.2.1", "192.0.2.2", "192.0.2.3")


def test_a_peer_that_is_nowhere_goes_to_the_first_place() -> None:
    assert changes_for(ALICE, (HERE, THERE), before=(), current=None, boot=7) == (
        SetEndpoint(ALICE, HERE._replace(learned_at=7)),
        SetCandidates(ALICE, (HERE, THERE)),
    )


@pytest.mark.parametrize(
    ("before", "current"),
    [
        ((HERE, THERE), THERE),  # it is where it may be
        ((HERE,), ELSEWHERE),  # it roamed, and knows better
        ((), ELSEWHERE),  # it is remembered from the last run
    ],
)
def test_a_peer_stays_where_it_is_and_may_be_in_the_new_places_too(
    before: tuple[Endpoint, ...], current: Endpoint
) -> None:
    found = (HERE, THERE)
    assert changes_for(ALICE, found, before=before, current=current, boot=7) == (
        SetCandidates(ALICE, found),
    )


def test_a_peer_moves_with_its_name() -> None:
    current = HERE._replace(learned_at=3)
    moved, candidates = changes_for(ALICE, (THERE,), before=(HERE,), current=current, boot=7)
    assert moved == SetEndpoint(ALICE, THERE._replace(learned_at=7))
    assert candidates == SetCandidates(ALICE, (THERE,))
