"""For how long who comes by an invitation is answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvpn.model.clock import SECOND
from nvpn.registry.guests import SPENT_ANSWERED, is_answered
from nvpn.registry.model import Client, Invitation, Origin
from tests.support.registry import DAY, WALL, key_of

ONE_TIME, ADA, BOB = map(key_of, (1, 2, 3))
OPEN = Invitation(ONE_TIME, "team", WALL, WALL + 30 * DAY, uses=2)
NOON = WALL + DAY


def came(
    key: object, *, at: int = NOON, asked: int = 0, revoked_at: int = 0
) -> dict[object, Client]:
    client = Client(
        key,  # type: ignore[arg-type]
        "somebody",
        Origin.JOINED,
        at,
        last_seen=at + asked,
        invitation=ONE_TIME,
        revoked_at=revoked_at,
    )
    return {key: client}


@pytest.mark.parametrize(
    ("invitation", "clients", "end"),
    [
        (OPEN, {}, WALL + 30 * DAY),
        (replace(OPEN, revoked_at=NOON), {}, NOON),
        (replace(OPEN, enrolled=(ADA,)), came(ADA, asked=1), WALL + 30 * DAY),
        (
            replace(OPEN, enrolled=(ADA, BOB)),
            came(ADA, asked=1) | came(BOB, at=NOON + DAY, asked=1),
            NOON + DAY,
        ),
        # One that is sent away knows that it had come.
        (replace(OPEN, uses=1, enrolled=(ADA,)), came(ADA, revoked_at=NOON + SECOND), NOON),
    ],
)
def test_for_a_day_after_its_end_its_guests_hear_why_it_is_in_vain(
    invitation: Invitation, clients: dict[object, Client], end: int
) -> None:
    for wall, answered in (
        (NOON, True),
        (end + SPENT_ANSWERED - 1, True),
        (end + SPENT_ANSWERED, False),
    ):
        assert is_answered(invitation, clients, wall) is answered  # type: ignore[arg-type]


def test_one_who_may_not_know_that_he_came_is_answered_as_long_as_the_invitation_is_known() -> (
    None
):
    used = replace(OPEN, enrolled=(ADA, BOB))
    assert is_answered(used, came(ADA, asked=1) | came(BOB), NOON + 9 * DAY)  # type: ignore[arg-type]
    # Of whom nothing is remembered, nobody waits.
    assert not is_answered(used, {}, NOON)
