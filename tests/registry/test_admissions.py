"""Invitations and clients: who comes, under which name, and who is thrown out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from nvpn.model.clock import SECOND
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.registry.model import (
    ClientAdmitted,
    ClientRenamed,
    ClientRevoked,
    Ending,
    FilePeer,
    InvitationGone,
    InvitationMade,
    InvitationState,
    LeaseEnded,
    LeaseGiven,
    Origin,
    Refusal,
    RegistryRefused,
)
from tests.support.registry import DAY, Office, Shelf, key_of, texts


def run(story: Callable[[Office], Awaitable[None]], **office: object) -> None:
    async def tell() -> None:
        async with Office(**office) as here:  # type: ignore[arg-type]
            await story(here)

    asyncio.run(tell())


async def refused(asked: Awaitable[object]) -> tuple[Refusal, str]:
    with pytest.raises(RegistryRefused) as caught:
        await asked
    return caught.value.refusal, str(caught.value)


async def invite(here: Office, name: str = "laptop", uses: int = 1) -> PublicKey:
    made = await here.registry.invite(name, expires_at=here.clocks.wall + DAY, uses=uses)
    return made.invitation.public_key


def test_the_secret_is_the_private_half_and_stays_out_of_the_store() -> None:
    async def story(here: Office) -> None:
        made = await here.registry.invite("laptop", expires_at=here.clocks.wall + DAY)
        assert isinstance(made.secret, PrivateKey)
        assert made.secret.public() == made.invitation.public_key
        assert here.heard() == [InvitationMade(made.invitation.public_key, "laptop")]
        kept = b"".join(record.value for record in here.store.shelf.records.values())
        for secret in (made.secret.reveal_hex(), made.secret.reveal_base64()):
            assert secret.encode() not in kept
            assert secret not in repr(made)

    run(story)


def test_an_invitation_admits_one_client_and_the_same_one_again() -> None:
    async def story(here: Office) -> None:
        one_time = await invite(here)
        here.heard()
        client = await here.registry.enrol(one_time, key_of(1), "Anna's\nlaptop\x07")
        assert (client.name, client.origin) == ("laptop", Origin.JOINED)
        assert client.host == "Anna'slaptop"
        assert here.heard() == [ClientAdmitted(key_of(1), "laptop")]
        # The answer was lost, and the client asks again; even when it has expired meanwhile.
        here.clocks.pass_by(2 * 86_400 - 1)
        assert await here.registry.enrol(one_time, key_of(1)) == client
        assert here.heard() == []
        assert here.registry.clients() == (client,)

    run(story)


def test_why_an_invitation_admits_nobody_is_told() -> None:
    async def story(here: Office) -> None:
        used, revoked, late = [await invite(here, name) for name in ("a", "b", "c")]
        await here.registry.enrol(used, key_of(1))
        await here.registry.revoke_invitation("b")
        reason, sentence = await refused(here.registry.enrol(used, key_of(2)))
        assert reason is Refusal.INVITATION_USED
        assert sentence == "the invitation for a has been used: ask for a new one"
        reason, sentence = await refused(here.registry.enrol(revoked, key_of(2)))
        assert reason is Refusal.INVITATION_REVOKED and "revoked" in sentence
        here.clocks.pass_by(86_400)
        reason, sentence = await refused(here.registry.enrol(late, key_of(2)))
        assert reason is Refusal.INVITATION_EXPIRED and "expired" in sentence
        reason, _ = await refused(here.registry.enrol(key_of(77), key_of(2)))
        assert reason is Refusal.NOT_ADMITTED
        states = [one.state(here.clocks.wall) for one in here.registry.invitations()]
        expected = [InvitationState.USED, InvitationState.REVOKED, InvitationState.EXPIRED]
        assert states == expected

    run(story)


def test_a_spent_invitation_goes_a_day_after_its_end() -> None:
    async def story(here: Office) -> None:
        one_time = await invite(here)
        await here.registry.enrol(one_time, key_of(1))
        here.heard()
        for _ in range(47):
            here.clocks.pass_by(3600)
            await here.registry.expire()
        assert here.heard() == []
        here.clocks.pass_by(3600)
        next_expiry = here.registry.next_expiry()
        assert next_expiry is not None and next_expiry <= here.clocks.boot
        await here.registry.expire()
        assert here.heard() == [InvitationGone(one_time)]
        assert here.registry.may_speak(key_of(1))

    run(story)


def test_an_invitation_for_many_counts_them_and_numbers_them() -> None:
    async def story(here: Office) -> None:
        await here.join(90, "team-2")
        one_time = await invite(here, "team", uses=3)
        names = [(await here.registry.enrol(one_time, key_of(one))).name for one in (1, 2, 2, 3)]
        assert names == ["team", "team-3", "team-3", "team-4"]
        reason, _ = await refused(here.registry.enrol(one_time, key_of(4)))
        assert reason is Refusal.INVITATION_USED

    run(story)


def test_at_once_no_more_come_than_were_invited() -> None:
    async def story(here: Office) -> None:
        one_time = await invite(here, "team", uses=10)
        asked = [here.registry.enrol(one_time, key_of(one)) for one in range(1, 26)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        came = [one for one in results if not isinstance(one, BaseException)]
        assert len(came) == len({one.name for one in came}) == 10
        reasons = {one.refusal for one in results if isinstance(one, RegistryRefused)}
        assert reasons == {Refusal.INVITATION_USED}

    run(story, lag=lambda: 1)


def test_a_name_is_given_once() -> None:
    async def story(here: Office) -> None:
        await here.join(1, "laptop")
        for name, word in (("laptop", "already"), ("router", "already"), ("", "name")):
            reason, sentence = await refused(invite(here, name))
            assert reason is Refusal.REFUSED and word in sentence
        await invite(here, "phone")
        _, sentence = await refused(invite(here, "phone"))
        assert "open invitation" in sentence
        _, sentence = await refused(here.registry.admit(key_of(2), "laptop"))
        assert "already" in sentence

    run(story, file_peers={key_of(50): FilePeer("router")})


@pytest.mark.parametrize("name", ["a/b", "Zoë", "%2F", "a b", "x" * 64, "../..", "laptop/"])
def test_any_name_that_can_be_shown_will_do(name: str) -> None:
    shelf = Shelf()

    async def story(here: Office) -> None:
        await here.join(1, name)
        async with Office(shelf, seed=2) as other:
            assert [one.name for one in other.registry.clients()] == [name]
            assert (await other.registry.revoke(name)).public_key == key_of(1)

    run(story, shelf=shelf)


def test_a_guest_learns_nothing_of_others_by_their_keys() -> None:
    async def story(here: Office) -> None:
        await here.join(1, "secret project")
        one_time = await invite(here)
        for other in (key_of(1), key_of(50), one_time):
            reason, sentence = await refused(here.registry.enrol(one_time, other))
            assert reason is Refusal.REFUSED
            assert sentence == "this key belongs to somebody else here: make another"
        assert (await here.registry.enrol(one_time, key_of(2))).name == "laptop"

    run(story, file_peers={key_of(50): FilePeer("router")})


def test_a_revoked_client_loses_everything_at_once_and_stays_out() -> None:
    async def story(here: Office) -> None:
        one_time = await invite(here)
        client = key_of(1)
        await here.registry.enrol(one_time, client)
        lease = await here.registry.lease(client)
        here.heard()
        assert (await here.registry.revoke("laptop")).public_key == client
        assert here.heard() == [
            LeaseEnded(client, lease.prefixes, Ending.REVOKED),
            ClientRevoked(client),
        ]
        assert here.registry.clients() == () and not here.registry.may_speak(client)
        reason, _ = await refused(here.registry.lease(client))
        assert reason is Refusal.NOT_ADMITTED
        reason, sentence = await refused(here.registry.enrol(one_time, client))
        assert reason is Refusal.NOT_ADMITTED and "revoked" in sentence
        # Its name and address are free; and a new invitation admits it again.
        again = await invite(here, "laptop")
        assert (await here.registry.enrol(again, client)).name == "laptop"
        assert texts(await here.registry.lease(client))

    run(story)


def test_one_that_is_revoked_while_it_is_being_leased_to_gets_nothing() -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        results = await asyncio.gather(
            here.registry.revoke("client1"), here.registry.lease(client), return_exceptions=True
        )
        assert here.registry.lease_of(client) is None
        assert isinstance(results[1], RegistryRefused)
        assert not [key for key in here.store.shelf.records if key.startswith("lease/")]

    run(story, lag=lambda: 1)


def test_clients_are_found_by_key_too_and_strangers_are_not() -> None:
    async def story(here: Office) -> None:
        client = await here.join(1)
        assert (await here.registry.rename(client.base64, "desk")).name == "desk"
        assert here.heard()[-1] == ClientRenamed(client, "desk")
        for nobody in ("client1", "", key_of(2).base64, "router"):
            _, sentence = await refused(here.registry.revoke(nobody))
            assert sentence == f"no client is called {nobody!r}"
        await here.registry.revoke(client.base64)

    run(story, file_peers={key_of(50): FilePeer("router")})


def test_renaming_gives_the_old_name_back() -> None:
    async def story(here: Office) -> None:
        await here.join(1, "old")
        await here.join(2, "other")
        _, sentence = await refused(here.registry.rename("old", "other"))
        assert "already" in sentence
        await here.registry.rename("old", "new")
        assert (await here.registry.rename("new", "new")).name == "new"
        await here.join(3, "old")
        assert [one.name for one in here.registry.clients()] == ["new", "old", "other"]

    run(story)


def test_an_admitted_phone_has_its_addresses_for_good() -> None:
    async def story(here: Office) -> None:
        lease = await here.registry.admit(key_of(1), "phone")
        assert lease.expires_at is None and here.registry.remaining(lease) is None
        assert here.heard() == [
            ClientAdmitted(key_of(1), "phone"),
            LeaseGiven(key_of(1), lease.prefixes),
        ]
        here.clocks.pass_by(400 * 86_400)
        await here.registry.expire()
        await here.registry.release(key_of(1), Ending.IDLE)
        await here.registry.return_leases()
        assert here.registry.leases() == (lease,)
        assert (await here.registry.lease(key_of(1))).addresses == lease.addresses
        reason, _ = await refused(here.registry.admit(key_of(1), "tablet"))
        assert reason is Refusal.REFUSED
        await here.registry.revoke("phone")
        assert here.registry.leases() == ()

    run(story)


def test_of_invitations_of_one_name_the_open_one_is_revoked() -> None:
    async def story(here: Office) -> None:
        first = await invite(here, "team", uses=2)
        await here.registry.revoke_invitation("team")
        here.clocks.pass_by(1)
        second = await invite(here, "team", uses=2)
        assert (await here.registry.revoke_invitation("team")).public_key == second
        assert (await here.registry.revoke_invitation(first.base64)).public_key == first
        _, sentence = await refused(here.registry.revoke_invitation("nobody"))
        assert sentence == "no invitation is called 'nobody'"

    run(story)


def test_nobody_is_forgotten_for_being_away_but_the_revoked_are() -> None:
    async def story(here: Office) -> None:
        await here.join(1)
        await here.join(2)
        await here.registry.revoke("client2")
        here.clocks.pass_by(366 * 86_400)
        await here.registry.expire()
        keys = here.store.shelf.records
        assert [key for key in keys if key.startswith("client/")] == [f"client/{key_of(1).hex}"]

    run(story)


def test_no_more_are_known_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvpn.registry.admissions.MAX_KNOWN", 4)

    async def story(here: Office) -> None:
        await here.join(1)
        one_time = await invite(here, "team", uses=50)
        await here.registry.enrol(one_time, key_of(2))
        _, sentence = await refused(invite(here, "another"))
        assert "as many as it may" in sentence
        # Who was invited still comes, one of them.
        await here.registry.enrol(one_time, key_of(3))
        _, sentence = await refused(here.registry.enrol(one_time, key_of(4)))
        assert "as many as it may" in sentence

    run(story)


@pytest.mark.parametrize(("uses", "expires"), [(0, DAY), (1001, DAY), (1, 0), (1, -SECOND)])
def test_invitations_that_make_no_sense_are_refused(uses: int, expires: int) -> None:
    async def story(here: Office) -> None:
        asked = here.registry.invite("x", expires_at=here.clocks.wall + expires, uses=uses)
        reason, _ = await refused(asked)
        assert reason is Refusal.REFUSED

    run(story)


def test_records_that_cannot_be_read_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()

    async def story(here: Office) -> None:
        client = await here.join(1)
        lease = await here.registry.lease(client)
        await here.registry.release(client)
        from nvpn.registry.store import Put

        taken = f"lease/{texts(lease)[0].split('/')[0]}"
        junk = [
            Put(taken, b'{"later":"version"}'),
            Put("client/xyz", b"\xff"),
            Put("new/kind", b"{}"),
        ]
        shelf.commit((), junk)
        await here.store.settle()
        assert texts(await here.registry.lease(client)) != texts(lease)
        assert shelf.records[taken].value == b'{"later":"version"}'
        assert taken in caplog.text

    run(story, shelf=shelf)
