from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nvpn.channel.messages import (
    Done,
    Goodbye,
    LeaseRequest,
    OtherServer,
    Release,
    Settings,
)
from nvpn.config.model import HostPort, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.daemon.leasing.client import LeaseClient, Wanted
from nvpn.daemon.leasing.memory import LeaseMemory, read_lease, write_lease
from nvpn.daemon.leasing.servers import FurtherServer
from nvpn.daemon.leasing.told import Surrounding
from nvpn.errors import PlatformError, Refused, Unavailable
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Owner,
    Plan,
    RemoveAllowedIp,
    RemovePeer,
    SetName,
)
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import Interface, Prefix
from nvpn.resilience.policy import Policies, RetryPolicy

A, B, C = (PublicKey(bytes([number]) * 32) for number in (1, 2, 3))
FILE = TunnelConfig(
    "wg0",
    Path("wg0.toml"),
    InterfaceConfig(),
    (
        PeerConfig(A, "one", endpoint=HostPort("192.0.2.1", 51820), server=True),
        PeerConfig(B, "two", endpoint=HostPort("192.0.2.2", 51820), server=True),
    ),
    resilience=Policies(retry=RetryPolicy(initial=SECOND, maximum=60 * SECOND, jitter=0)),
)
SEVEN, EIGHT = Interface.parse("10.8.0.7/24"), Interface.parse("10.8.0.8/24")
NET, OFFICE = Prefix.parse("10.8.0.0/24"), Prefix.parse("192.168.7.0/24")
SETTINGS = Settings((SEVEN,), routes=(NET,), lease_seconds=600, renew_seconds=300)


class Scene:
    """A lease client whose servers, host and clock are the test's."""

    def __init__(
        self, path: Path, memory: LeaseMemory | None = None, file: TunnelConfig = FILE
    ) -> None:
        self.now = 1000 * SECOND
        self.answers: dict[PublicKey, Settings | Exception | None] = {A: SETTINGS, B: SETTINGS}
        self.asked: list[tuple[PublicKey, Any]] = []
        self.told: list[tuple[PublicKey, Any]] = []
        self.sought: list[PublicKey] = []
        self.host = file
        self.plans: list[Plan] = []
        self.refusal: Exception | None = None
        # Held by whoever changes the host, such as a reload.
        self.changing = asyncio.Lock()
        self.warnings: list[str] = []
        self.due: int | None = None
        self._ring: Callable[[], None] = lambda: None
        self._notice: Callable[[PublicKey, Any], None] = lambda peer, notice: None
        self.path = str(path / "wg0.lease")
        self.client = LeaseClient(
            file,
            memory,
            memory_path=self.path,
            port=self,
            initiate=self.sought.append,
            apply=self._apply,
            surrounding=lambda config: Surrounding(),
            spawn=self._spawn,
            warn=self.warnings.append,
            random=bytes,
            clock=lambda: self.now,
            make_alarm=self._make_alarm,
        )

    # --- what the client sees -----------------------------------------------------------

    async def ask(self, peer: PublicKey, request: Any, retry: RetryPolicy | None = None) -> Any:
        self.asked.append((peer, request))
        answer = self.answers[peer]
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return Done() if isinstance(request, Release) else answer

    def tell(self, peer: PublicKey, notice: Any) -> None:
        self.told.append((peer, notice))

    def on_notice(self, kind: Any, callback: Callable[[PublicKey, Any], None]) -> None:
        assert kind is Goodbye
        self._notice = callback

    def set(self, at: int | None) -> None:
        self.due = at

    def close(self) -> None:
        self.due = None

    def _make_alarm(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> Scene:
        self._ring = ring
        return self

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def _apply(self, wanted: Wanted) -> None:
        async with self.changing:
            if (answer := wanted()) is None:
                return
            await asyncio.sleep(0)
            if self.refusal is not None:
                raise self.refusal
            self.host, plan = answer
            self.plans.append(plan)

    # --- what the test does -------------------------------------------------------------

    async def pass_to(self, seconds: float) -> None:
        await settle()
        self.now = 1000 * SECOND + int(seconds * SECOND)
        if self.due is not None and self.due <= self.now:
            self._ring()
        await settle()

    async def part(self, peer: PublicKey, reason: str) -> None:
        self._notice(peer, Goodbye(reason))
        await settle()

    async def until_written(self, memory: LeaseMemory) -> None:
        """A busy disk may take its time."""
        deadline = time.monotonic() + 30
        while (found := read_lease(self.path)) != (memory, ""):
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.01)

    @property
    def servers_asked(self) -> list[PublicKey]:
        return [peer for peer, request in self.asked if isinstance(request, LeaseRequest)]


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


def play(scene: Scene, script: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        try:
            await script(scene)
        finally:
            scene.client.close()
            await settle()

    asyncio.run(run())


def test_the_start_returns_with_the_lease_in_force(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()

        assert scene.host.interface.addresses == (SEVEN,)
        assert scene.host.peers[0].allowed_ips == (NET,)
        assert scene.plans == [(AddAllowedIp(A, NET, Owner.LEASE),)]
        assert scene.warnings == []
        assert scene.client.addresses() == (SEVEN,)

    play(Scene(tmp_path), script)


def test_the_start_goes_on_without_a_lease_and_says_so(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.answers = {A: None, B: None}
        await scene.client.start(seconds=0.01)

        assert scene.warnings == ["no lease yet; wg0 goes on asking"]
        assert scene.host is FILE

    play(Scene(tmp_path), script)


def test_a_refusal_ends_the_wait_and_is_told(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        no = Refused("the pool 10.8.0.0/24 is exhausted")
        scene.answers = {A: no, B: no}
        await scene.client.start(seconds=60)

        (warning,) = scene.warnings
        assert "10.8.0.0/24 is exhausted" in warning

    play(Scene(tmp_path), script)


def test_the_second_server_serves_when_the_first_is_silent(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.answers[A] = Unavailable("it did not answer")
        await scene.client.start()

        assert scene.host.peers[0].allowed_ips == ()
        assert scene.host.peers[1].allowed_ips == (NET,)
        assert scene.sought == [B]

    play(Scene(tmp_path), script)


def test_a_renewal_that_changes_nothing_touches_nothing(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        await scene.pass_to(300)

        assert scene.servers_asked == [A, A]
        assert scene.asked[1][1].wanted == (SEVEN,)
        assert len(scene.plans) == 1

    play(Scene(tmp_path), script)


def test_a_renewal_may_bring_other_settings(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        scene.answers[A] = replace(SETTINGS, addresses=(EIGHT,), routes=(OFFICE,), mtu=1300)
        await scene.pass_to(300)

        assert scene.host.interface.addresses == (EIGHT,)
        assert scene.host.interface.mtu == 1300
        assert scene.plans[1] == (
            RemoveAllowedIp(A, NET),
            AddAllowedIp(A, OFFICE, Owner.LEASE),
        )

    play(Scene(tmp_path), script)


def test_an_expired_lease_is_taken_away_even_while_servers_are_being_asked(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        scene.answers = {A: None, B: None}
        await scene.pass_to(300)
        await scene.pass_to(600)

        assert scene.host.interface.addresses == ()
        assert scene.host.peers[0].allowed_ips == ()
        assert scene.client.told is None

    play(Scene(tmp_path), script)


def test_the_other_server_is_asked_at_once_when_one_says_goodbye(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        await scene.pass_to(50)
        await scene.part(A, "stopping")

        assert scene.servers_asked == [A, B]
        assert scene.sought == [B]
        assert scene.host.peers[0].allowed_ips == ()
        assert scene.host.peers[1].allowed_ips == (NET,)
        assert scene.host.interface.addresses == (SEVEN,)

    play(Scene(tmp_path), script)


def test_the_other_server_is_asked_when_one_dies_without_a_word(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        await scene.pass_to(50)
        for kind in (NoticeKind.SESSION_EXPIRED, NoticeKind.HANDSHAKE_UNANSWERED):
            assert scene.servers_asked == [A]
            scene.client.notice(Notice(kind, A, 0))
            await settle()

        assert scene.servers_asked == [A, B]
        assert scene.host.peers[1].allowed_ips == (NET,)
        assert scene.host.interface.addresses == (SEVEN,)

    play(Scene(tmp_path), script)


def test_a_server_that_is_back_is_asked_as_soon_as_it_makes_a_handshake(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.answers = {A: Unavailable("nobody"), B: Unavailable("nobody")}
        await scene.client.start(seconds=0.01)
        for seconds in (1, 3, 7, 15, 31):
            await scene.pass_to(seconds)
        asked = len(scene.asked)
        scene.answers[B] = SETTINGS
        scene.now += 2 * SECOND
        scene.client.notice(Notice(NoticeKind.HANDSHAKE_COMPLETED, B, 0))
        await settle()

        assert scene.servers_asked[asked:] == [B]
        assert scene.host.peers[1].allowed_ips == (NET,)
        # Another one of the session that there is then is no news.
        scene.now += 2 * SECOND
        scene.client.notice(Notice(NoticeKind.HANDSHAKE_COMPLETED, B, 0))
        await settle()
        assert len(scene.asked) == asked + 1

    play(Scene(tmp_path), script)


def test_a_goodbye_ends_the_wait_for_the_one_who_said_it(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        scene.answers[A] = None
        await scene.pass_to(300)
        await scene.part(A, "stopping")
        await scene.pass_to(301)

        assert scene.servers_asked == [A, A, B]

    play(Scene(tmp_path), script)


def test_what_the_host_refuses_is_tried_again_later_and_changes_nothing(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.refusal = PlatformError("add the address 10.8.0.7/24")
        scene.answers[B] = Unavailable("it did not answer")
        await scene.client.start()
        assert scene.host is FILE
        assert "cannot add the address" in scene.warnings[0] or "did not" in scene.warnings[0]

        scene.refusal = None
        await scene.pass_to(61)
        assert scene.host.interface.addresses == (SEVEN,)

    play(Scene(tmp_path), script)


def test_a_reload_keeps_the_lease_upon_the_new_file(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        own = replace(FILE.interface, addresses=(EIGHT,))
        peers = (replace(FILE.peers[0], allowed_ips=(NET,)), FILE.peers[1])
        new = replace(FILE, interface=own, peers=peers)

        assert scene.client.effective(new).interface.addresses == (EIGHT, SEVEN)
        assert scene.client.changes(FILE, new) == ()
        scene.client.change(new)
        await settle()
        assert scene.servers_asked == [A]

    play(Scene(tmp_path), script)


def test_a_lease_that_comes_during_a_reload_is_put_upon_the_new_file(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        new = replace(FILE, interface=replace(FILE.interface, addresses=(EIGHT,)))
        async with scene.changing:
            starting = asyncio.create_task(scene.client.start())
            await settle()
            assert scene.servers_asked == [A]
            scene.host = scene.client.effective(new)
            scene.client.change(new)
        await starting

        assert scene.host.interface.addresses == (EIGHT, SEVEN)
        assert len(scene.plans) == 1

    play(Scene(tmp_path), script)


def test_a_lease_that_comes_while_a_reload_drops_its_server_is_not_put_into_force(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene) -> None:
        new = replace(FILE, peers=FILE.peers[1:])
        scene.answers[B] = replace(SETTINGS, addresses=(EIGHT,))
        async with scene.changing:
            starting = asyncio.create_task(scene.client.start())
            await settle()
            scene.host = scene.client.effective(new)
            scene.client.change(new)
        await starting
        await scene.pass_to(2)

        assert scene.servers_asked == [A, B]
        assert scene.host.interface.addresses == (EIGHT,)
        assert scene.plans == [(AddAllowedIp(B, NET, Owner.LEASE),)]

    play(Scene(tmp_path), script)


def test_a_reload_that_drops_the_server_drops_its_lease(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        new = replace(FILE, peers=FILE.peers[1:])

        assert scene.client.effective(new) == new
        assert scene.client.changes(FILE, new) == (RemoveAllowedIp(A, NET),)
        scene.client.change(new)
        await scene.pass_to(2)
        assert scene.servers_asked == [A, B]
        assert scene.host.peers[0].allowed_ips == (NET,)

    play(Scene(tmp_path), script)


def test_the_end_gives_the_lease_back(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        await scene.client.release()
        await scene.pass_to(10_000)

        assert scene.asked[1:] == [(A, Release())]
        assert scene.told == [(A, Goodbye("stopping"))]

    play(Scene(tmp_path), script)


def test_the_end_does_not_wait_for_a_server_that_is_silent(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        scene.answers[A] = None
        await asyncio.wait_for(scene.client.release(), 5)

        assert scene.asked[-1] == (A, Release())

    play(Scene(tmp_path), script)


def test_what_the_server_said_of_itself_is_remembered_and_used_at_the_next_start(
    tmp_path: Path,
) -> None:
    async def first(scene: Scene) -> None:
        scene.answers[A] = replace(SETTINGS, endpoints=("198.51.100.9:51820",))
        await scene.client.start()
        await scene.until_written(memory)

    memory = LeaseMemory(A, (SEVEN,), (HostPort("198.51.100.9", 51820),))
    play(Scene(tmp_path), first)

    async def second(scene: Scene) -> None:
        scene.answers[A] = None
        await scene.client.start(seconds=0.01)
        assert HostPort("198.51.100.9", 51820) in scene.host.peers[0].endpoints
        assert scene.host.interface.addresses == ()
        assert scene.asked[0][1].wanted == (SEVEN,)

    play(Scene(tmp_path, memory), second)


# --- servers that the file does not name -------------------------------------------------

ONE = replace(FILE, peers=FILE.peers[:1])
NAMES_B = replace(SETTINGS, servers=(OtherServer(B, "two", ("198.51.100.2:51820",)),))
NAMES_C = replace(SETTINGS, servers=(OtherServer(C, "three", ("198.51.100.3:51820",)),))
FURTHER_B = FurtherServer(B, "two", (HostPort("198.51.100.2", 51820),))


def test_a_server_that_another_one_names_is_asked_when_that_goes(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.answers[A] = NAMES_B
        await scene.client.start()
        assert scene.plans[-1][:2] == (AddPeer(B, Owner.LEASE), SetName(B, "two"))
        assert scene.host.peers[1] == PeerConfig(
            B, "two", endpoint=HostPort("198.51.100.2", 51820), server=True
        )

        # It knows A, of which the file tells us, and C, and not of itself.
        scene.answers[B] = NAMES_C
        await scene.part(A, "stopping")
        await scene.pass_to(1)
        assert scene.servers_asked == [A, B]
        assert [peer.public_key for peer in scene.host.peers] == [A, B, C]
        assert scene.host.peers[1].allowed_ips == (NET,)
        assert AddAllowedIp(B, NET, Owner.LEASE) in scene.plans[-1]
        assert RemovePeer(B) not in scene.plans[-1]

        # What nobody names any more goes.
        scene.answers[A] = SETTINGS
        await scene.part(B, "stopping")
        await scene.pass_to(3)
        await scene.pass_to(4)
        await scene.part(C, "stopping")
        await scene.pass_to(10)
        assert scene.servers_asked[-1] == A
        assert [peer.public_key for peer in scene.host.peers] == [A]
        assert set(scene.plans[-1]) >= {RemovePeer(B), RemovePeer(C)}

    scene = Scene(tmp_path, file=ONE)
    scene.answers[C] = None
    play(scene, script)


def test_what_is_remembered_last_is_what_a_slow_disk_holds_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[PublicKey] = []
    first_has_begun, first_may_go_on = threading.Event(), threading.Event()

    def on_a_slow_disk(path: str, memory: LeaseMemory) -> None:
        begun.append(memory.server)
        first_has_begun.set()
        if len(begun) == 1:
            assert first_may_go_on.wait(30)
        write_lease(path, memory)

    monkeypatch.setattr("nvpn.daemon.leasing.client.write_lease", on_a_slow_disk)

    async def script(scene: Scene) -> None:
        await scene.client.start()
        await scene.part(A, "stopping")
        await scene.pass_to(1)
        await scene.part(B, "stopping")
        scene.answers[A] = replace(SETTINGS, addresses=(EIGHT,))
        await scene.pass_to(60)
        assert scene.servers_asked == [A, B, A]
        assert first_has_begun.wait(30)
        assert begun == [A]
        first_may_go_on.set()
        await scene.until_written(LeaseMemory(A, (EIGHT,)))
        assert begun == [A, A]  # what was overtaken need not be written at all

    play(Scene(tmp_path), script)


def test_a_server_of_which_we_were_told_is_found_when_the_first_one_is_dead_at_the_next_start(
    tmp_path: Path,
) -> None:
    async def first(scene: Scene) -> None:
        scene.answers[A] = NAMES_B
        await scene.client.start()
        await scene.part(A, "stopping")
        await scene.pass_to(1)
        assert scene.servers_asked == [A, B]
        await scene.until_written(memory)

    memory = LeaseMemory(B, (SEVEN,), (), (FURTHER_B,), A)
    play(Scene(tmp_path, file=ONE), first)

    async def second(scene: Scene) -> None:
        scene.answers[A] = Unavailable("it is dead")
        await scene.client.start()
        assert scene.servers_asked == [A, B]
        assert scene.host.interface.addresses == (SEVEN,)

    play(Scene(tmp_path, memory, file=ONE), second)

    async def elsewhere(scene: Scene) -> None:
        await scene.client.start()
        assert [peer.public_key for peer in scene.host.peers] == [C]
        assert scene.servers_asked == [C]

    other = replace(FILE, peers=(PeerConfig(C, server=True),))
    scene = Scene(tmp_path, memory, file=other)
    scene.answers[C] = SETTINGS
    play(scene, elsewhere)


def test_who_was_named_by_a_server_that_the_file_drops_goes_with_it(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.answers[A] = NAMES_B
        await scene.client.start()
        await scene.part(A, "stopping")
        await scene.pass_to(1)
        assert scene.servers_asked == [A, B]

        other = replace(FILE, peers=(PeerConfig(C, server=True),))
        assert RemovePeer(B) in scene.client.changes(ONE, other)
        assert scene.client.effective(other) == other
        scene.client.change(other)
        await scene.pass_to(3)
        assert scene.servers_asked[-1] == C

    scene = Scene(tmp_path, file=ONE)
    scene.answers[C] = SETTINGS
    play(scene, script)


def test_a_reload_leaves_servers_alone_that_the_file_does_not_name_until_it_does(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene) -> None:
        scene.answers[A] = NAMES_B
        await scene.client.start()
        longer = replace(ONE, interface=InterfaceConfig(mtu=1300))
        assert scene.client.changes(ONE, longer) == ()
        assert len(scene.client.effective(longer).peers) == 2
        # The file's own difference makes it a peer of the file's.
        assert scene.client.changes(ONE, FILE) == ()
        assert scene.client.effective(FILE).peers[1].endpoint == FILE.peers[1].endpoint
        assert scene.client.effective(replace(FILE, peers=())).peers == ()

    play(Scene(tmp_path, file=ONE), script)


def test_a_broken_memory_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "wg0.lease"
    write_lease(str(path), LeaseMemory(B, (SEVEN,), (), (FURTHER_B,), A))
    good = json.loads(path.read_bytes())
    (server,) = good["servers"]
    broken = (
        {**good, "known_by": "nobody"},
        {**good, "servers": [server] * 9},
        {**good, "servers": [{**server, "endpoints": []}]},
        {**good, "servers": [{**server, "endpoints": ["a:1"] * 9}]},
        {**good, "servers": [{**server, "name": "\x1b[2J"}]},
        {**good, "servers": ["two"]},
    )
    for content in (
        *(b"", b"{}", b'{"version": 1, "server": 3}', b"[[[", b"\xff"),
        *(json.dumps(one).encode() for one in broken),
    ):
        path.write_bytes(content)
        assert read_lease(str(path)) == (None, "it is no lease of ours")
    assert read_lease(str(tmp_path / "none")) == (None, "")


def test_it_tells_what_it_has(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.client.start()
        await scene.pass_to(100)

        described = scene.client.describe()
        assert described is not None
        assert described["state"] == "leased"
        assert described["addresses"] == ["10.8.0.7/24"]
        assert described["server"] == A.base64
        assert described["expires_in_seconds"] == 500
        assert described["asks_again_in_seconds"] == 200

    play(Scene(tmp_path), script)


def test_without_servers_there_is_nothing_to_do_or_to_tell(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.client.change(replace(FILE, peers=()))
        await scene.client.start(seconds=60)

        assert scene.asked == []
        assert scene.warnings == []
        assert scene.client.describe() is None

        scene.client.change(FILE)
        await settle()
        assert scene.host.interface.addresses == (SEVEN,)

    play(Scene(tmp_path), script)
