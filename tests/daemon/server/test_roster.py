"""From what a registry tells to what is in force: in order, in few plans, and soon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from nvpn.daemon.server.roster import Roster, changes_for, hand_back
from nvpn.errors import ControlError
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Owner,
    Plan,
    RemoveAllowedIp,
    RemovePeer,
    ReplaceAllowedIps,
    SetCandidates,
    SetName,
    SetPersistentKeepalive,
    SetPresharedKey,
)
from nvpn.model.keys import PublicKey
from nvpn.registry.model import (
    ClientAdmitted,
    ClientRenamed,
    ClientRevoked,
    Ending,
    InvitationGone,
    InvitationMade,
    LeaseEnded,
    LeaseGiven,
    RegistryChange,
)
from tests.support.scenarios import A, B, prefix

ONE, OTHER = prefix("10.8.0.5/32"), prefix("fd42::5/128")


class Backend:
    """Keeps plans; refuses whatever speaks of some keys."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.refused: set[PublicKey] = set()

    async def apply(self, plan: Plan) -> None:
        await asyncio.sleep(0)
        if any(getattr(change, "peer", None) in self.refused for change in plan):
            raise ControlError(28, "no room")
        self.plans.append(plan)


def with_roster(
    play: Callable[[Roster, Backend], Awaitable[None]], *, of_file: Collection[PublicKey] = ()
) -> list[Collection[PublicKey]]:
    """Returns who was sent away, each time."""
    left: list[Collection[PublicKey]] = []

    async def scenario() -> None:
        backend = Backend()

        async def farewell(keys: Collection[PublicKey]) -> None:
            left.append(keys)

        roster = Roster(
            backend,
            loop=asyncio.get_running_loop(),
            is_of_file=lambda key: key in of_file,
            farewell=farewell,
        )
        await play(roster, backend)
        await roster.close()

    asyncio.run(scenario())
    return left


def nobody(key: PublicKey) -> bool:
    return False


def test_clients_and_invitations_are_peers_of_the_lease() -> None:
    assert changes_for(ClientAdmitted(A, "ada"), nobody) == [
        AddPeer(A, Owner.LEASE),
        SetName(A, "ada"),
    ]
    assert changes_for(InvitationMade(A, "bob"), nobody) == [
        AddPeer(A, Owner.LEASE),
        SetName(A, "invitation bob"),
    ]
    assert changes_for(ClientRenamed(A, "eve"), nobody) == [SetName(A, "eve")]
    for gone in (ClientRevoked(A), InvitationGone(A)):
        assert changes_for(gone, nobody) == [RemovePeer(A)]


def test_of_a_peer_of_the_file_only_the_lease_is_the_registrys() -> None:
    def everybody(key: PublicKey) -> bool:
        return True

    told: list[RegistryChange] = [
        ClientAdmitted(A, "ada"),
        ClientRenamed(A, "eve"),
        ClientRevoked(A),
    ]
    assert [changes_for(change, everybody) for change in told] == [[], [], []]
    given = LeaseGiven(A, (ONE,))
    assert changes_for(given, everybody) == [AddAllowedIp(A, ONE, Owner.LEASE)]
    ended = LeaseEnded(A, (ONE,), Ending.EXPIRED)
    assert changes_for(ended, everybody) == [RemoveAllowedIp(A, ONE)]


def test_a_client_that_the_file_lets_go_of_stays_with_no_more_than_its_lease() -> None:
    kept = hand_back((RemovePeer(A), RemovePeer(B)), {A: "ada"}.get)
    assert kept == (
        AddPeer(A, Owner.LEASE),
        SetName(A, "ada"),
        SetPresharedKey(A, None),
        SetPersistentKeepalive(A, 0),
        SetCandidates(A, ()),
        ReplaceAllowedIps(A),
        RemovePeer(B),
    )


def test_five_hundred_clients_of_a_turn_are_one_plan() -> None:
    async def play(roster: Roster, backend: Backend) -> None:
        keys = [PublicKey(number.to_bytes(32, "big")) for number in range(1, 501)]
        for key in keys:
            roster.tell(ClientAdmitted(key, "somebody"))
            roster.tell(LeaseGiven(key, (ONE, OTHER)))
        await roster.in_force()
        (plan,) = backend.plans
        assert len(plan) == 4 * len(keys)

    with_roster(play)


def test_what_was_told_is_in_force_for_whoever_waits_also_while_a_plan_is_under_way() -> None:
    async def play(roster: Roster, backend: Backend) -> None:
        roster.tell(LeaseGiven(A, (ONE,)))
        first = asyncio.create_task(roster.in_force())
        await asyncio.sleep(0)  # that plan is with the backend
        roster.tell(LeaseEnded(A, (ONE,), Ending.RELEASED))
        roster.tell(LeaseGiven(B, (ONE,)))
        await roster.in_force()
        await asyncio.wait_for(first, 30)
        assert [change for plan in backend.plans for change in plan] == [
            AddAllowedIp(A, ONE, Owner.LEASE),
            RemoveAllowedIp(A, ONE),
            AddAllowedIp(B, ONE, Owner.LEASE),
        ]
        await roster.in_force()  # nothing to wait for

    with_roster(play)


def test_who_is_removed_has_lost_the_lease_before_the_farewell() -> None:
    seen: list[Plan] = []

    async def scenario() -> None:
        backend = Backend()

        async def farewell(keys: Collection[PublicKey]) -> None:
            assert list(keys) == [A]
            seen.extend(backend.plans)

        roster = Roster(
            backend,
            loop=asyncio.get_running_loop(),
            is_of_file=nobody,
            farewell=farewell,
        )
        roster.tell(LeaseEnded(A, (ONE,), Ending.REVOKED))
        roster.tell(ClientRevoked(A))
        roster.tell(ClientAdmitted(B, "bob"))
        await roster.in_force()
        assert backend.plans[-1] == (RemovePeer(A), AddPeer(B, Owner.LEASE), SetName(B, "bob"))
        await roster.close()

    asyncio.run(scenario())
    assert seen == [(RemoveAllowedIp(A, ONE),)]


def test_one_client_that_is_refused_keeps_out_no_other() -> None:
    async def play(roster: Roster, backend: Backend) -> None:
        backend.refused = {A}
        roster.tell(ClientAdmitted(A, "ada"))
        roster.tell(ClientAdmitted(B, "bob"))
        await roster.in_force()
        assert backend.plans == [(AddPeer(B, Owner.LEASE), SetName(B, "bob"))]

    with_roster(play)


def test_after_its_end_nothing_is_applied_any_more() -> None:
    async def play(roster: Roster, backend: Backend) -> None:
        roster.tell(ClientAdmitted(A, "ada"))
        await roster.close()
        roster.tell(ClientAdmitted(B, "bob"))
        await roster.in_force()
        assert backend.plans == []

    with_roster(play)
