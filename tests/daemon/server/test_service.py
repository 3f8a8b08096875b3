"""A server's time: what falls due, whom it tells, what it goes on without. Clocks in our hands."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nvpn.channel.messages import (
    Done,
    Enrol,
    Enrolled,
    Goodbye,
    GoodbyeReason,
    LeaseRequest,
    OtherServer,
    Release,
    Settings,
)
from nvpn.channel.schema import Message
from nvpn.config.model import (
    HostPort,
    InterfaceConfig,
    PeerConfig,
    ServerConfig,
    StoreConfig,
    StoreKind,
    TunnelConfig,
)
from nvpn.daemon import events
from nvpn.daemon.server.farewells import REMINDER_SECONDS
from nvpn.daemon.server.guests import ANSWERING_SECONDS, LOOK_SECONDS
from nvpn.daemon.server.service import ServerService
from nvpn.daemon.server.stores import ETCD
from nvpn.daemon.server.terms import KEEPALIVE
from nvpn.daemon.surroundings import Surroundings
from nvpn.errors import ControlError, Refused, Unavailable
from nvpn.model.changes import AddAllowedIp, AddPeer, SetPrivateKey
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import Interface, Prefix
from nvpn.model.snapshot import PeerSnapshot
from nvpn.registry.model import InvitationState, Server
from nvpn.registry.records import AnnouncedServer, put_server, read, server_key
from nvpn.registry.store import Delete
from nvpn.resilience.registry import Breakers
from tests.support.memory_tunnel import MemoryTunnel
from tests.support.registry import DAY, Clocks, MemoryStore, Shelf, meanwhile
from tests.support.virtual_loop import play_virtually

OURS = PrivateKey(b"\x05" * 32)
ADA, BOB, CAT, DAN, EVE = (PublicKey(bytes([number]) * 32) for number in range(9, 14))
TERMS = ServerConfig(
    pools=(Prefix.parse("10.8.0.0/29"),),
    endpoints=(HostPort("vpn.example", 51820),),
    routes=(Prefix.parse("10.8.0.0/29"),),
    lease_time=60,
)


def config_of(terms: ServerConfig = TERMS, *peers: PublicKey) -> TunnelConfig:
    return TunnelConfig(
        "wg0",
        Path("wg0.toml"),
        InterfaceConfig(addresses=(Interface.parse("10.8.0.1/29"),)),
        tuple(PeerConfig(key, name=f"peer{key.short}") for key in peers),
        server=terms,
    )


class Port:
    """The channel, as far as a server sees it."""

    def __init__(self) -> None:
        self.handlers: dict[type[Message], Callable[[PublicKey, Any], Awaitable[Message]]] = {}
        self.told: list[tuple[PublicKey, Message]] = []

    def serve(self, kind: type[Message], handler: Any) -> None:
        self.handlers[kind] = handler

    def tell(self, peer: PublicKey, notice: Message) -> None:
        self.told.append((peer, notice))

    async def ask(self, peer: PublicKey, request: Message) -> Message:
        return await self.handlers[type(request)](peer, request)


class Alarm:
    """Rings when told to."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.at: int | None = None
        self.callback = callback

    def set(self, at: int | None) -> None:
        self.at = at

    def close(self) -> None:
        self.at = None


class Stage:
    """A server over a store and a tunnel in memory; peers have a session when said so."""

    def __init__(self, config: TunnelConfig | None = None, shelf: Shelf | None = None) -> None:
        self.config = config or config_of()
        self.store = MemoryStore(shelf or Shelf())
        self.port, self.clocks = Port(), Clocks()
        self.breakers = Breakers()
        self.events: list[events.Event] = []
        self.warnings: list[str] = []
        self.left: list[PublicKey] = []
        self.in_session: set[PublicKey] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Stage:
        self.tunnel = MemoryTunnel("wg0")
        self.backend = self.tunnel.backend
        peers = tuple(AddPeer(peer.public_key) for peer in self.config.peers)
        await self.backend.apply((SetPrivateKey(OURS), *peers))
        self.look = self.backend.peer
        self.backend.peer = self._peer  # type: ignore[method-assign]
        around = Surroundings(
            loop=asyncio.get_running_loop(),
            spawn=self._spawn,
            end=lambda status, why: None,
            warn=self.warnings.append,
            show=lambda line: None,
        )
        self.service = ServerService(
            self.config,
            backend=self.backend,
            port=self.port,  # type: ignore[arg-type]
            store=self.store,
            breakers=self.breakers,
            around=around,
            publish=self.events.append,
            on_left=self.left.append,
            clocks=self.clocks,
            random=os.urandom,
            make_alarm=self._make_alarm,
        )
        self.clients = await self.service.prepare()
        self.service.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.service.close()
        await self.tunnel.close()

    def allowed_ips(self, key: PublicKey) -> list[str]:
        now = self.look(key)
        return [] if now is None else [str(prefix) for prefix in now.allowed_ips]

    async def join(self, key: PublicKey, name: str) -> None:
        """By an invitation, as a guest does."""
        made = await self.service.registry.invite(name, expires_at=self.clocks().wall * 2)
        enrolled = await self.port.ask(made.invitation.public_key, Enrol(key, "host", "1"))
        assert isinstance(enrolled, Enrolled)
        assert enrolled.name == name

    async def lease(self, key: PublicKey) -> Settings:
        answer = await self.port.ask(key, LeaseRequest("host", "1"))
        assert isinstance(answer, Settings)
        return answer

    async def ring(self) -> None:
        """The alarm, which must be due by now."""
        assert self.alarm.at is not None
        assert self.alarm.at <= self.clocks().boot
        self.alarm.callback()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def goodbyes(self) -> list[tuple[PublicKey, str]]:
        return [(key, one.reason) for key, one in self.port.told if isinstance(one, Goodbye)]

    def _peer(self, key: PublicKey) -> PeerSnapshot | None:
        now = self.look(key)
        if now is None or key not in self.in_session:
            return now
        return PeerSnapshot(key, now.name, now.owner, session_age=1, allowed_ips=now.allowed_ips)

    def _make_alarm(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Alarm:
        self.alarm = Alarm(callback)
        return self.alarm

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        return task


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_a_guest_becomes_a_client_and_its_lease_is_in_force_when_it_hears_of_it() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.join(ADA, "ada")
            settings = await stage.lease(ADA)
            (address,) = settings.addresses
            assert stage.allowed_ips(ADA) == [str(address).replace("/29", "/32")]
            assert (settings.name, settings.lease_seconds, settings.renew_seconds) == (
                "ada",
                60,
                30,
            )
            assert [event.kind for event in stage.events] == ["admitted", "leased"]

    play(scenario)


def test_a_lease_that_runs_out_is_taken_away_and_its_client_is_told() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.join(ADA, "ada")
            await stage.lease(ADA)
            stage.in_session.add(ADA)
            stage.clocks.pass_by(59)
            await stage.lease(ADA)  # which renews it
            stage.clocks.pass_by(59)
            assert stage.allowed_ips(ADA)
            stage.clocks.pass_by(2)
            await stage.ring()
            assert stage.allowed_ips(ADA) == []
            assert stage.goodbyes() == [(ADA, GoodbyeReason.LEASE_ENDED.value)]
            assert stage.events[-1] == events.LeaseEnded(
                ADA,
                "ada",
                stage.events[-1].addresses,
                "expired",  # type: ignore[union-attr]
            )

    play(scenario)


@pytest.mark.parametrize("key", [ADA, OURS.public()])
def test_strangers_and_one_time_keys_lease_nothing_and_the_refusal_is_told(
    key: PublicKey,
) -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            made = await stage.service.registry.invite("ada", expires_at=stage.clocks().wall * 2)
            one_time = made.invitation.public_key
            for asker in (key, one_time):
                with pytest.raises(Refused) as refusal:
                    await stage.lease(asker)
                assert getattr(refusal.value, "code", "") == "not-admitted"
                assert isinstance(stage.events[-1], events.Refused)
            assert stage.allowed_ips(one_time) == []
            with pytest.raises(Refused, match="the server's own key"):
                await stage.port.ask(one_time, Enrol(OURS.public(), "host", "1"))
            # Nor may a client, or anybody else, admit others.
            with pytest.raises(Refused):
                await stage.port.ask(key, Enrol(BOB, "host", "1"))
            assert stage.look(BOB) is None

    play(scenario)


def test_who_is_revoked_is_told_and_gone() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.join(ADA, "ada")
            await stage.lease(ADA)
            stage.in_session.add(ADA)
            operate = stage.service.operations()["nvpn_client_revoke"]
            await operate(["client=ada"])
            assert stage.look(ADA) is None
            assert stage.goodbyes() == [(ADA, GoodbyeReason.REVOKED.value)]
            assert [event.kind for event in stage.events[-2:]] == ["lease-ended", "revoked"]
            with pytest.raises(Refused):
                await stage.lease(ADA)

    play(scenario)


def test_who_is_revoked_and_could_come_back_by_its_invitation_is_told_of() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            registry, operations = stage.service.registry, stage.service.operations()
            expires_at = stage.clocks.wall + 60_000_000_000
            invited = await registry.invite("team", expires_at=expires_at, uses=2)
            for key in (ADA, BOB):
                await registry.enrol(invited.invitation.public_key, key)
                (told,) = await operations["nvpn_client_revoke"]([f"client={quote(str(key))}"])
                way_back = json.loads(told)["way_back"]
                if key == ADA:
                    assert way_back["public_key"] == str(invited.invitation.public_key)
                    assert way_back["uses_left"] == 1
                else:
                    assert way_back is None  # it is used up

    play(scenario)


def test_who_joins_hears_of_the_other_servers_of_the_same_store() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        await announce(shelf, BOB, "south")
        async with Stage(config_of(SHARED), shelf) as stage:
            await stage.ring()  # which is due at once
            told = read(key := server_key(OURS.public()), shelf.records[key].value)
            assert isinstance(told, AnnouncedServer)
            assert told.server.endpoints == TERMS.endpoints
            made = await stage.service.registry.invite("ada", expires_at=stage.clocks().wall * 2)
            enrolled = await stage.port.ask(made.invitation.public_key, Enrol(ADA, "host", "1"))
            assert isinstance(enrolled, Enrolled)
            assert enrolled.servers == (OtherServer(BOB, "south", ("south.example:51820",)),)
            assert enrolled.server == socket.gethostname()
            assert stage.service.describe()["other_servers"] == ["south"]
            assert stage.look(BOB) is None  # that it is a server makes it no peer

    play(scenario)


def test_a_client_that_gives_its_lease_back_counts_as_gone() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.join(ADA, "ada")
            await stage.lease(ADA)
            assert isinstance(await stage.port.ask(ADA, Release()), Done)
            await stage.settle()
            assert stage.allowed_ips(ADA) == []
            assert stage.left == [ADA]
            assert stage.goodbyes() == []  # it knows

    play(scenario)


def test_clients_and_leases_are_there_again_before_a_restarted_server_hears_of_anybody() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with Stage(shelf=shelf) as stage:
            await stage.join(ADA, "ada")
            await stage.lease(ADA)
            held = stage.allowed_ips(ADA)
        async with Stage(shelf=shelf) as again:
            assert again.clients == (ADA,)
            assert again.allowed_ips(ADA) == held
            assert again.events == []  # that is no news

    play(scenario)


def test_the_key_of_an_invitation_is_a_peer_until_nobody_is_to_be_answered_by_it() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with Stage(shelf=shelf) as stage:
            expires_at = stage.clocks.wall + 30 * DAY
            invited = await stage.service.registry.invite("ada", expires_at=expires_at)
            key = invited.invitation.public_key
            await stage.port.ask(key, Enrol(ADA, "host", "1"))

            async def pass_by(seconds: float) -> None:
                stage.clocks.pass_by(seconds)
                await asyncio.sleep(LOOK_SECONDS + 1)

            # The answer may have got lost: then ada comes again.
            await pass_by(2 * 86_400)
            assert stage.look(key) is not None
            await stage.port.ask(key, Enrol(ADA, "host", "1"))
            await stage.lease(ADA)
            await pass_by(1)
            assert stage.look(key) is None
            assert [one.state(0).value for one in stage.service.registry.invitations()] == ["used"]

            again = await stage.service.registry.invite("bob", expires_at=expires_at)
            await stage.service.registry.revoke_invitation("bob")
            await pass_by(86_300)
            assert stage.look(again.invitation.public_key) is not None
            with pytest.raises(Refused, match="was revoked"):
                await stage.port.ask(again.invitation.public_key, Enrol(BOB, "host", "1"))
            await stage.service.change(config_of(replace(TERMS, mtu=1300)))  # a reload
            assert stage.look(again.invitation.public_key) is not None
            assert stage.look(key) is None
            await pass_by(101)
            assert stage.look(again.invitation.public_key) is None
            await stage.service.change(config_of())
            assert stage.look(again.invitation.public_key) is None
            wall = stage.clocks.wall
        late = Stage(shelf=shelf)
        late.clocks.wall = wall
        async with late:
            assert late.look(key) is None
            assert {one.name for one in late.service.registry.invitations()} == {"ada", "bob"}

    play_virtually(scenario)


def test_a_phone_gets_addresses_for_good_and_programs_hear_what_is_known_of_it() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            operations = stage.service.operations()
            await operations["nvpn_lease_peer"]([f"public_key={quote(str(ADA))}", "name=ada"])
            (told,) = await operations["nvpn_clients"]([])
            (ada,) = json.loads(told)["clients"]
            assert [prefix.partition("/")[0] for prefix in ada.pop("addresses")] == [
                prefix.partition("/")[0] for prefix in stage.allowed_ips(ADA)
            ]
            assert ada.pop("admitted_at") > 0
            assert ada == {
                "name": "ada",
                "public_key": str(ADA),
                "origin": "static",
                "host": None,
                "last_seen": None,
                "lease_seconds": None,
                "is_leased": True,
                "is_connected": False,
                "latest_handshake": None,
                "endpoint": None,
            }

    play(scenario)


def test_a_reload_says_which_phones_it_cuts_off_and_so_does_the_next_start() -> None:
    async def scenario() -> None:
        shelf, others = Shelf(), replace(TERMS, pools=(Prefix.parse("10.9.0.0/29"),))
        async with Stage(shelf=shelf) as stage:
            operations = stage.service.operations()
            await operations["nvpn_lease_peer"]([f"public_key={quote(str(ADA))}", "name=ada"])
            had = stage.allowed_ips(ADA)
            (told,) = await stage.service.change(config_of(others))
            address = had[0].partition("/")[0]
            assert told.startswith(f"ada has {address} for good, which this file does not lease")
            assert stage.allowed_ips(ADA) == []
        async with Stage(config_of(others), shelf) as again:
            assert again.warnings == [told]
            assert await again.service.change(config_of()) == []
            assert again.allowed_ips(ADA) == had

    play(scenario)


def test_a_server_that_stops_says_so_gives_back_its_leases_and_remembers_its_clients() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with Stage(shelf=shelf) as stage:
            for key, name in ((ADA, "ada"), (BOB, "bob")):
                await stage.join(key, name)
                await stage.lease(key)
            stage.in_session.add(ADA)
            await stage.service.prepare_stop()
            assert stage.goodbyes() == [(ADA, GoodbyeReason.STOPPING.value)]
            assert stage.allowed_ips(ADA)  # what is under way still goes through
            with pytest.raises(Unavailable):
                await stage.lease(ADA)  # of us: another server is to be asked
        async with Stage(shelf=shelf) as again:
            assert set(again.clients) == {ADA, BOB}
            assert again.allowed_ips(ADA) == []

    play(scenario)


def test_who_is_leased_something_as_the_server_stops_is_sent_to_another() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.join(ADA, "ada")
            meanwhile(stage.store, stage.service.prepare_stop)
            with pytest.raises(Unavailable, match="going down"):
                await stage.lease(ADA)
            assert stage.allowed_ips(ADA) == []

    play(scenario)


def test_who_enrols_as_the_server_goes_leaves_no_peer_behind() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            expires_at = stage.clocks().wall * 2
            made = await stage.service.registry.invite("team", expires_at=expires_at, uses=2)
            one_time = made.invitation.public_key
            await stage.settle()
            assert stage.look(one_time) is not None
            meanwhile(stage.store, stage.service.withdraw)
            enrolled = await stage.port.ask(one_time, Enrol(ADA, "host", "1"))
            assert isinstance(enrolled, Enrolled)  # it is, when there is a server again
            await asyncio.sleep(2 * ANSWERING_SECONDS)
            assert stage.look(one_time) is None and stage.look(ADA) is None

    play_virtually(scenario)


def test_a_client_that_believes_in_its_lease_is_reminded_to_ask() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            for key, name in ((ADA, "ada"), (BOB, "bob")):
                await stage.join(key, name)
                stage.in_session.add(key)
                stage.service.notice(Notice(NoticeKind.HANDSHAKE_COMPLETED, key, 0))
            await stage.lease(BOB)
            await asyncio.sleep(REMINDER_SECONDS + 0.1)
            assert stage.goodbyes() == [(ADA, GoodbyeReason.LEASE_ENDED.value)]

    play_virtually(scenario)


def test_clients_are_told_when_a_reload_changes_what_they_would_be_told() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.join(ADA, "ada")
            stage.in_session.add(ADA)
            await stage.lease(ADA)
            assert (await stage.lease(ADA)).keepalive == KEEPALIVE
            await stage.service.change(config_of(replace(TERMS, invitation_time=3600)))
            await stage.settle()
            assert stage.goodbyes() == []
            await stage.service.change(config_of(replace(TERMS, mtu=1300)))
            await stage.settle()
            assert stage.goodbyes() == [(ADA, GoodbyeReason.SETTINGS_CHANGED.value)]
            assert (await stage.lease(ADA)).mtu == 1300
            # Who is to go when it is silent is not to be kept from being silent.
            await stage.service.change(config_of(replace(TERMS, mtu=1300, idle_timeout=3600)))
            await stage.settle()
            assert len(stage.goodbyes()) == 2
            assert (await stage.lease(ADA)).keepalive == 0

    play(scenario)


SHARED = replace(TERMS, store=StoreConfig(StoreKind.ETCD, ("http://192.0.2.1",), "/nvpn"))


async def announce(shelf: Shelf, key: PublicKey, host: str, at: int = 0) -> None:
    """What another server writes into the store."""
    server = Server(key, host, (HostPort(f"{host}.example", 51820),))
    edit = put_server(AnnouncedServer(server, at), expires_at=1)
    await MemoryStore(shelf).commit((), [edit])


def test_connected_clients_are_told_soon_of_a_server_that_comes_moves_or_goes() -> None:
    asked_again = (ADA, GoodbyeReason.SETTINGS_CHANGED.value)

    async def scenario() -> None:
        shelf = Shelf()
        await announce(shelf, CAT, "north")
        async with Stage(config_of(SHARED), shelf) as stage:
            await stage.ring()  # with which it announces itself, which is no news to us
            for key, name in ((ADA, "ada"), (BOB, "bob")):
                await stage.join(key, name)
                await stage.lease(key)
            stage.in_session.add(ADA)

            async def heard() -> list[tuple[PublicKey, str]]:
                stage.port.told.clear()
                await asyncio.sleep(3600)
                return stage.goodbyes()

            assert await heard() == []
            await announce(shelf, DAN, "south")
            await announce(shelf, EVE, "west")
            assert await heard() == [asked_again]  # once for both
            assert {one.name for one in (await stage.lease(ADA)).servers} == {
                "north",
                "south",
                "west",
            }
            await announce(shelf, DAN, "south", at=1)
            assert await heard() == []  # it is where it was
            await announce(shelf, DAN, "east")
            assert await heard() == [asked_again]
            await MemoryStore(shelf).commit((), [Delete(server_key(DAN))])
            assert await heard() == [asked_again]

    play_virtually(scenario)


def test_who_was_told_that_a_server_stops_is_not_asked_to_come_back() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with Stage(config_of(SHARED), shelf) as stage:
            await stage.join(ADA, "ada")
            await stage.lease(ADA)
            stage.in_session.add(ADA)
            await announce(shelf, CAT, "north")
            await stage.settle()
            await stage.service.prepare_stop()
            await asyncio.sleep(60)
            assert stage.goodbyes() == [(ADA, GoodbyeReason.STOPPING.value)]

    play_virtually(scenario)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["name="], "the name is empty"),
        ([], "the request needs one name"),
        (
            ["name=ada", "endpoint=http://vpn.example"],
            'expected a port from 0 to 65535, in the endpoint "http://vpn.example"',
        ),
    ],
)
def test_an_invitation_that_cannot_be_is_refused_in_a_sentence(
    lines: list[str], sentence: str
) -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            with pytest.raises(ControlError) as refused:
                await stage.service.operations()["nvpn_invite"](lines)
            assert str(refused.value) == sentence

    asyncio.run(scenario())


def test_an_invitation_that_nobody_can_be_given_is_none() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.backend.apply((SetPrivateKey(None),))
            with pytest.raises(ControlError, match="no private key"):
                await stage.service.operations()["nvpn_invite"](["name=ada"])
            (made,) = stage.service.registry.invitations()
            assert made.state(stage.clocks().wall) is InvitationState.REVOKED

    play(scenario)


def test_a_store_that_is_away_at_the_start_costs_a_warning_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nvpn.daemon.server.opening._LONGEST_PAUSE", 1_000_000)

    async def scenario() -> None:
        etcd = StoreConfig(StoreKind.ETCD)
        stage = Stage(config_of(dataclasses.replace(TERMS, store=etcd)))
        stage.store.is_away = True
        async with stage:
            assert "cannot serve clients yet" in stage.warnings[0]
            with pytest.raises(Unavailable):
                await stage.lease(ADA)
            with pytest.raises(Unavailable):
                await stage.service.operations()["nvpn_invite"](["name=ada"])
            assert stage.service.describe()["is_reachable"] is False
            stage.store.is_away = False
            while not stage.service.describe()["is_reachable"]:
                await asyncio.sleep(0.001)
            await stage.join(ADA, "ada")
            for _ in range(stage.breakers.policies.breaker.failure_threshold):
                attempt = stage.breakers.get(ETCD).attempt(stage.clocks().boot)
                assert attempt is not None
                attempt.failed(stage.clocks().boot)
            assert stage.service.describe()["is_reachable"] is False

    play(scenario)


def test_peers_of_the_file_lease_too_and_stay_what_they_are_when_the_server_goes() -> None:
    async def scenario() -> None:
        async with Stage(config_of(TERMS, ADA)) as stage:
            await stage.join(BOB, "bob")
            settings = await stage.lease(ADA)
            assert settings.name == ""
            await stage.lease(BOB)
            assert stage.allowed_ips(ADA)
            await stage.service.withdraw()
            assert stage.allowed_ips(ADA) == []
            assert stage.look(ADA) is not None
            assert stage.look(BOB) is None

    play(scenario)


def test_a_peer_of_another_servers_file_that_joins_keeps_what_it_was_leased_there() -> None:
    async def play() -> None:
        shelf = Shelf()
        async with Stage(config_of(TERMS, BOB), shelf) as other, Stage(shelf=shelf) as here:
            settings = await other.port.ask(BOB, LeaseRequest("bob", "1"))
            assert isinstance(settings, Settings)
            expires_at = here.clocks.wall + 60_000_000_000
            invited = await here.service.registry.invite("bob", expires_at=expires_at)
            assert here.allowed_ips(BOB) == []
            await here.port.ask(invited.invitation.public_key, Enrol(BOB, "bob", "1"))
            (address,) = settings.addresses
            assert here.allowed_ips(BOB) == [f"{str(address).partition('/')[0]}/32"]

    asyncio.run(play())


def test_another_servers_lease_takes_nothing_from_a_peer_of_this_file() -> None:
    async def play() -> None:
        shelf, address = Shelf(), Prefix.parse("10.8.0.2/32")
        peer = PeerConfig(BOB, name="bob", allowed_ips=(address,))
        config = replace(config_of(), peers=(peer,))
        narrow = replace(TERMS, pools=(Prefix.parse("10.8.0.2/32"),))
        async with Stage(config_of(narrow), shelf) as other, Stage(config, shelf) as here:
            await here.backend.apply((AddAllowedIp(BOB, address),))
            await other.join(ADA, "ada")
            await other.lease(ADA)
            await here.settle()
            assert other.allowed_ips(ADA) == [str(address)]
            assert here.allowed_ips(ADA) == []
            assert here.allowed_ips(BOB) == [str(address)]
            await here.service.change(config)  # a reload
            assert here.allowed_ips(BOB) == [str(address)]

    asyncio.run(play())
