from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from nvpn.channel.messages import Enrol, Enrolled, OtherServer
from nvpn.config.load import load
from nvpn.config.model import HostPort
from nvpn.daemon import places
from nvpn.daemon.leasing import enrolment
from nvpn.daemon.leasing.enrolment import ENROL_SECONDS, enrol
from nvpn.daemon.leasing.joining import (
    Enrolment,
    Joining,
    format_config,
    write_config,
)
from nvpn.daemon.leasing.servers import FurtherServer
from nvpn.errors import PlatformError, Refused, Unavailable
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.registry.invitation_text import InvitationText
from tests.support.inviting import attempts_of, invitation_to, inviting_server, new_key
from tests.support.virtual_loop import SkippingLoop


def test_a_guest_enrols_its_own_key_under_the_one_time_key() -> None:
    secret, own = new_key(), new_key().public()
    asked: list[tuple[PublicKey, PublicKey]] = []

    async def admit(peer: PublicKey, request: Enrol) -> Enrolled:
        asked.append((peer, request.public_key))
        return Enrolled("laptop-2", ("vpn.example:51820", "nonsense"))

    async def run() -> Enrolment:
        async with inviting_server(secret.public(), admit) as (key, place):
            return await enrol(invitation_to(key, secret, place), own)

    assert asyncio.run(run()) == Enrolment("laptop-2", (HostPort("vpn.example", 51820),))
    assert asked == [(secret.public(), own)]


def test_of_the_servers_that_a_server_names_what_can_be_used_is_taken() -> None:
    secret, own, south = new_key(), new_key().public(), new_key().public()
    places = ("south.example:51820", "nonsense", "127.0.0.1:22", "[fe80::1]:1", "[2001:db8::2]:1")
    bad = ("", ":", "a b:51820", "south.example:0", "0.0.0.0:51820", "224.0.0.1:51820")

    async def admit(peer: PublicKey, request: Enrol) -> Enrolled:
        others = (
            OtherServer(own, "ourselves", places),
            OtherServer(speaking[0], "the one that speaks", places),
            OtherServer(south, "south", places),
            OtherServer(south, "again", ("elsewhere.example:51820",)),
            OtherServer(new_key().public(), "nowhere", bad),
            OtherServer(new_key().public(), "", ()),
            OtherServer(east := new_key().public(), " ", ("192.0.2.7:51820",)),
        )
        easts.append(east)
        return Enrolled("laptop", server=str(new_key().public()), servers=others)

    speaking: list[PublicKey] = []
    easts: list[PublicKey] = []

    async def run() -> Enrolment:
        async with inviting_server(secret.public(), admit) as (key, place):
            speaking.append(key)
            return await enrol(invitation_to(key, secret, place), own)

    enrolment = asyncio.run(run())
    assert enrolment.servers == (
        FurtherServer(
            south, "south", (HostPort("south.example", 51820), HostPort("2001:db8::2", 1))
        ),
        FurtherServer(easts[0], "", (HostPort("192.0.2.7", 51820),)),
    )
    assert enrolment.server == "", "what may be a key is no name"


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose resolver knows nobody, however long a real one would take to say so."""

    def look_up(place: HostPort) -> tuple[Endpoint, ...]:
        if place.is_literal:
            return places.look_up(place)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(enrolment, "look_up", look_up)


def test_a_guest_finds_the_server_at_any_of_its_places(no_names: None) -> None:
    secret = new_key()

    async def admit(peer: PublicKey, request: Enrol) -> Enrolled:
        return Enrolled("laptop")

    async def run() -> Enrolment:
        async with inviting_server(secret.public(), admit) as (key, place):
            gone = HostPort("no-such-name.invalid", 51820)
            return await enrol(invitation_to(key, secret, gone, place), new_key().public())

    assert asyncio.run(run()).name == "laptop"


def test_guests_of_one_invitation_get_in_although_they_share_its_key() -> None:
    secret = new_key()
    keys = [new_key().public() for _ in range(8)]
    admitted: set[PublicKey] = set()

    async def admit(peer: PublicKey, request: Enrol) -> Enrolled:
        admitted.add(request.public_key)
        return Enrolled(f"guest {keys.index(request.public_key)}")

    async def run() -> list[Enrolment]:
        async with inviting_server(secret.public(), admit) as (key, place):
            invitation = invitation_to(key, secret, place)
            return await asyncio.gather(
                *(enrol(invitation, one, seconds=60, attempts=attempts_of(0.3)) for one in keys)
            )

    enrolments = asyncio.run(run())
    assert [one.name for one in enrolments] == [f"guest {number}" for number in range(8)]
    assert admitted == set(keys)


def test_what_a_server_cannot_do_now_is_told_when_the_patience_ends() -> None:
    secret = new_key()
    loop = SkippingLoop()
    asked = []

    async def admit(peer: PublicKey, request: Enrol) -> Enrolled:
        asked.append(request)
        if len(asked) == 2:
            loop.skip(ENROL_SECONDS)
        raise Unavailable("a secret of the server's")

    async def run() -> None:
        async with inviting_server(secret.public(), admit) as (key, place):
            invitation = invitation_to(key, secret, place)
            await enrol(invitation, new_key().public(), attempts=attempts_of(1))

    with pytest.raises(Unavailable, match="the server cannot do that at the moment"):
        loop.play(run())
    assert len(asked) == 2


def test_a_refusal_is_told_in_the_servers_words() -> None:
    secret = new_key()

    async def refuse(peer: PublicKey, request: Enrol) -> Enrolled:
        raise Refused("this invitation was used already")

    async def run() -> None:
        async with inviting_server(secret.public(), refuse) as (key, place):
            await enrol(invitation_to(key, secret, place), new_key().public())

    with pytest.raises(Refused, match="this invitation was used already"):
        asyncio.run(run())


def test_a_server_that_does_not_know_the_guest_is_silent() -> None:
    async def admit(peer: PublicKey, request: Enrol) -> Enrolled:
        raise AssertionError("nobody was to be admitted")

    loop = SkippingLoop()
    told: list[str] = []

    def tell(trouble: str) -> None:
        told.append(trouble)
        loop.skip(ENROL_SECONDS)

    async def run() -> None:
        async with inviting_server(new_key().public(), admit) as (key, place):
            invitation, ours = invitation_to(key, new_key(), place), new_key().public()
            await enrol(invitation, ours, attempts=attempts_of(0.1), tell=tell)

    with pytest.raises(Unavailable, match=r"no answer from 127\.0\.0\.1:") as raised:
        loop.play(run())
    assert told == [str(raised.value)], "who waits is told so, once"


def test_a_name_that_does_not_resolve_is_told(no_names: None) -> None:
    hosts = HostPort("one.invalid", 51820), HostPort("two.invalid", 51820)
    invitation = invitation_to(new_key().public(), new_key(), *hosts)

    with pytest.raises(
        Unavailable,
        match=r"one\.invalid does not resolve: name or .* and two\.invalid does not resolve",
    ):
        asyncio.run(enrol(invitation, new_key().public()))


# --- files ------------------------------------------------------------------------------


def an_invitation() -> InvitationText:
    return invitation_to(new_key().public(), new_key(), HostPort("192.0.2.1", 51820))


def test_a_key_that_may_have_been_told_is_found_again_by_the_invitation(tmp_path: Path) -> None:
    invitation = an_invitation()
    with Joining(tmp_path, invitation) as first:
        first.keep("nvpn0")
        key = first.key.reveal()
        assert first.path.stat().st_mode & 0o777 == 0o600

    with Joining(tmp_path, an_invitation()) as other:
        assert other.interface == ""
        assert other.key.reveal() != key
    with Joining(tmp_path, invitation) as second:
        assert second.interface == "nvpn0"
        assert second.key.reveal() == key
        second.keep("nvpn1")
        assert second.interface == "nvpn0"
        second.forget()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_kept_vanishes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Joining(tmp_path / "new", an_invitation()):
        raise ZeroDivisionError
    assert list((tmp_path / "new").iterdir()) == []


def test_a_key_file_that_was_cut_is_as_good_as_none(tmp_path: Path) -> None:
    invitation = an_invitation()
    with Joining(tmp_path, invitation) as begun:
        begun.keep("nvpn0")
        key = begun.key.reveal()
    begun.path.write_bytes(begun.path.read_bytes()[:40])

    with Joining(tmp_path, invitation) as again:
        assert again.interface == ""
        assert again.key.reveal() != key
        again.keep("nvpn3")
    with Joining(tmp_path, invitation) as last:
        assert last.interface == "nvpn3"


def test_one_invitation_is_used_by_one_at_a_time(tmp_path: Path) -> None:
    invitation = an_invitation()
    with Joining(tmp_path, invitation):
        with pytest.raises(PlatformError, match="another nvpn join is at it"):
            Joining(tmp_path, invitation)
        with Joining(tmp_path, an_invitation()):
            pass
    with Joining(tmp_path, invitation):
        pass


@pytest.mark.parametrize("further", [(), (HostPort("vpn.example", 51820),)])
def test_the_configuration_of_a_client_is_one_that_nvpn_reads(
    tmp_path: Path, further: tuple[HostPort, ...]
) -> None:
    key, place = new_key(), HostPort("2001:db8::1", 51820)
    invitation = invitation_to(new_key().public(), new_key(), place)
    path = tmp_path / "nvpn0.toml"
    write_config(path, format_config(invitation, key, Enrolment("laptop", further)))

    config = load(path)
    (peer,) = config.peers
    assert config.interface.private_key == key
    assert config.warnings == ()
    assert peer.public_key == invitation.server
    assert peer.server
    assert peer.endpoints == (place, *further)
    assert peer.persistent_keepalive is None, "that is for the server to say"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["nvpn0.toml"]


@pytest.mark.parametrize(
    ("told", "written"),
    [
        (("north", "south", "east"), ["north", "south", "east"]),
        (("vpn", "vpn", "east"), ["server", "server-2", "server-3"]),
        (("north", "", "east"), ["server", "server-2", "server-3"]),
        (("", "south", "east"), ["server", "server-2", "server-3"]),
        (('a "b" \\', "ä", "\U0001f980" * 64), ['a "b" \\', "ä", "\U0001f980" * 64]),
    ],
)
def test_each_server_is_a_peer_of_the_configuration_the_one_that_invited_first(
    tmp_path: Path, told: tuple[str, str, str], written: list[str]
) -> None:
    places = tuple(HostPort(f"host{number}.example", 51820) for number in range(8))
    keys = [new_key().public() for _ in range(2)]
    invitation = invitation_to(new_key().public(), new_key(), *places)
    others = (FurtherServer(keys[0], told[1], places), FurtherServer(keys[1], told[2], places[:1]))
    enrolment = Enrolment("laptop", (HostPort("vpn.example", 51820),), told[0], others)
    path = tmp_path / "nvpn0.toml"
    write_config(path, format_config(invitation, new_key(), enrolment))

    config = load(path)
    assert config.warnings == ()
    assert [peer.name for peer in config.peers] == written
    assert [peer.public_key for peer in config.peers] == [invitation.server, *keys]
    assert [peer.endpoints for peer in config.peers] == [places, places, places[:1]]
    assert all(peer.server for peer in config.peers)


def test_a_configuration_is_never_written_over_another(tmp_path: Path) -> None:
    path = tmp_path / "nvpn0.toml"
    path.write_text("mine")

    with pytest.raises(PlatformError, match="File exists"):
        write_config(path, "theirs")
    assert path.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["nvpn0.toml"]


def test_of_two_that_join_at_once_each_writes_its_own_configuration_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nvpn0.toml"
    link = os.link
    refusals: list[str] = []

    def second() -> None:
        try:
            write_config(path, "second")
        except PlatformError as error:
            refusals.append(str(error))

    def while_the_second_has_written(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        second()
        link(source, target)

    monkeypatch.setattr(os, "link", while_the_second_has_written)
    with pytest.raises(PlatformError, match="File exists"):
        write_config(path, "first")

    assert refusals == []
    assert path.read_text() == "second"
    assert os.listdir(tmp_path) == [path.name]
