from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nvpn.datapath.commands import PeerId, ReplaceSockets, SendHandshake
from nvpn.errors import ControlError
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    RemovePeer,
    ReplacePeers,
    SetCandidates,
    SetEndpoint,
    SetListenPort,
    SetPersistentKeepalive,
    SetPresharedKey,
    SetPrivateKey,
)
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PrivateKey
from nvpn.model.notices import Notice, NoticeKind
from tests.support.descriptors import descriptors
from tests.support.memory_tunnel import MemoryTunnel, ipv4_packet
from tests.support.ports import free_port, free_ports, is_free
from tests.support.scenarios import (
    PSK,
    A,
    Recorder,
    apply,
    peers,
    play,
    prefix,
)

# --- a tunnel that runs ----------------------------------------------------------------


class Two:
    """Two tunnels on loopback that know each other."""

    def __init__(self, **options: Any) -> None:
        self.alice = MemoryTunnel("alice", **options)
        self.bob = MemoryTunnel("bob")
        self.notices: list[Notice] = []
        self.alice.backend.subscribe(self.notices.append)
        self.alice_key, self.bob_key = PrivateKey(b"\x0a" * 32), PrivateKey(b"\x0b" * 32)
        self.a, self.b = self.alice_key.public(), self.bob_key.public()

    async def start(self) -> None:
        for tunnel, key, peer, network in (
            (self.alice, self.alice_key, self.b, "10.0.0.2/32"),
            (self.bob, self.bob_key, self.a, "10.0.0.1/32"),
        ):
            await apply(
                tunnel, SetPrivateKey(key), AddPeer(peer), AddAllowedIp(peer, prefix(network))
            )
            await tunnel.backend.bring_up()
        await apply(self.alice, SetEndpoint(self.b, self.endpoint_of(self.bob)))

    def endpoint_of(self, tunnel: MemoryTunnel) -> Endpoint:
        return Endpoint.parse(f"127.0.0.1:{tunnel.backend.listen_port}")

    async def exchange(self, payload: bytes) -> None:
        """A packet there and another one back."""
        await self.alice.send(ipv4_packet("10.0.0.1", "10.0.0.2", payload))
        assert await self.bob.receive() == ipv4_packet("10.0.0.1", "10.0.0.2", payload)
        await self.bob.send(ipv4_packet("10.0.0.2", "10.0.0.1", payload))
        assert await self.alice.receive() == ipv4_packet("10.0.0.2", "10.0.0.1", payload)

    async def close(self) -> None:
        await self.alice.close()
        await self.bob.close()


def test_packets_go_through_and_the_snapshot_tells_of_them() -> None:
    async def scenario() -> None:
        two = Two()
        await two.start()
        await two.exchange(b"hello")
        here, there = peers(two.alice)[two.b], peers(two.bob)[two.a]
        assert here.last_handshake > 1_700_000_000 * 10**9
        # Initiation 148, response 92, data padded to 32 with its overhead of 32 bytes.
        assert (here.tx_bytes, here.rx_bytes) == (148 + 64, 92 + 64)
        assert (there.tx_bytes, there.rx_bytes) == (here.rx_bytes, here.tx_bytes)
        assert there.endpoint is not None
        assert str(there.endpoint) == str(two.endpoint_of(two.alice))
        assert here.session_age is not None
        assert here.session_age < 20 * 10**9
        assert [(notice.kind, notice.peer) for notice in two.notices] == [
            (NoticeKind.HANDSHAKE_COMPLETED, two.b)
        ]
        await two.close()

    play(scenario)


def test_sessions_outlive_changes_that_are_not_about_them() -> None:
    async def scenario() -> None:
        two = Two()
        await two.start()
        await two.exchange(b"one")
        before = peers(two.alice)[two.b].last_handshake
        await apply(two.alice, SetListenPort(0), AddPeer(A), SetPresharedKey(two.b, PSK))
        await two.exchange(b"two")
        await apply(
            two.alice,
            SetPrivateKey(PrivateKey(b"\x0a" * 32)),
            ReplacePeers(),
            AddPeer(two.b),
            AddAllowedIp(two.b, prefix("10.0.0.2/32")),
        )
        await two.exchange(b"three")
        await apply(two.alice, RemovePeer(A))
        await two.exchange(b"four")
        assert peers(two.alice)[two.b].last_handshake == before
        assert two.alice.backend.peers() == [two.b]
        one = two.alice.backend.peer(two.b)
        assert one is not None
        assert one == replace(peers(two.alice)[two.b], session_age=one.session_age)
        await apply(two.alice, RemovePeer(two.b))
        assert two.alice.backend.peer(two.b) is None
        assert [notice.kind for notice in two.notices] == [
            NoticeKind.HANDSHAKE_COMPLETED,
            NoticeKind.SESSION_ENDED,
        ]
        await two.close()

    play(scenario)


def test_a_link_that_went_down_begins_anew() -> None:
    async def scenario() -> None:
        two = Two()
        await two.start()
        await two.exchange(b"one")
        await two.alice.backend.bring_down()
        assert peers(two.alice)[two.b].session_age is None
        assert two.notices[-1].kind is NoticeKind.SESSION_ENDED
        await two.alice.backend.bring_up()
        await asyncio.sleep(0.02)  # initiations less than 20 ms apart are refused
        await two.exchange(b"two")
        await two.close()

    play(scenario)


def test_who_lets_nobody_in_any_more_keeps_its_sessions() -> None:
    async def scenario() -> None:
        two = Two()
        await two.start()
        await two.exchange(b"one")
        two.alice.backend.stop_admitting()
        await two.exchange(b"two")
        # Neither does another key bring anybody in again.
        await apply(two.alice, SetPrivateKey(None), SetPrivateKey(two.alice_key))
        await two.bob.backend.bring_down()
        await two.bob.backend.bring_up()
        before = sum(two.alice.backend.drops().values())
        await apply(two.bob, SetEndpoint(two.a, two.endpoint_of(two.alice)))
        two.bob.backend.initiate(two.a)
        await until(lambda: sum(two.alice.backend.drops().values()) > before)
        assert peers(two.bob)[two.a].session_age is None
        await two.close()

    play(scenario)


def test_initiate_makes_a_session_without_any_data() -> None:
    async def scenario() -> None:
        two = Two()
        completed = asyncio.Event()
        two.alice.backend.subscribe(lambda notice: completed.set())
        await two.start()
        two.alice.backend.initiate(two.b)
        two.alice.backend.initiate(A)  # unknown: nothing
        await asyncio.wait_for(completed.wait(), 60)
        assert peers(two.alice)[two.b].last_handshake
        await two.close()

    play(scenario)


def test_a_keepalive_that_is_turned_on_goes_out_at_once() -> None:
    async def scenario() -> None:
        two = Two()
        await two.start()
        completed = asyncio.Event()
        two.alice.backend.subscribe(lambda notice: completed.set())
        await apply(two.alice, SetPersistentKeepalive(two.b, 25))
        await asyncio.wait_for(completed.wait(), 60)
        await two.close()

    play(scenario)


# --- another network -------------------------------------------------------------------


def test_on_another_network_sessions_are_sought_anew_and_sticky_sources_forgotten() -> None:
    async def scenario() -> None:
        recorded = Recorder()
        two = Two(wrap=recorded.around)
        await two.start()
        two.alice.backend.network_changed()
        assert not any(isinstance(one, SendHandshake) for one in recorded.commands)
        await two.exchange(b"one")
        await asyncio.sleep(0.11)  # a session of this very moment is left alone
        recorded.commands.clear()
        completed = len(two.notices)
        two.alice.backend.network_changed()
        while len(two.notices) == completed:
            await asyncio.sleep(0.002)
        sockets, handshake = recorded.commands[:2]
        assert isinstance(sockets, ReplaceSockets) and isinstance(handshake, SendHandshake)
        assert is_open(sockets.ipv4) and is_open(sockets.ipv6)
        assert two.notices[-1].kind is NoticeKind.HANDSHAKE_COMPLETED
        await two.exchange(b"two")
        await two.close()

    play(scenario)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_many_peers_are_sought_a_few_at_a_time_and_only_while_the_tunnel_is_there() -> None:
    async def scenario() -> None:
        recorded = Recorder()
        tunnel = MemoryTunnel(wrap=recorded.around)
        crowd = [PrivateKey(bytes([number]) * 32).public() for number in range(1, 121)]
        await apply(tunnel, SetPrivateKey(PrivateKey(b"\xee" * 32)))
        await apply(tunnel, *map(AddPeer, crowd))
        await tunnel.backend.bring_up()
        tunnel.backend.network_changed()
        assert sent_to(recorded) == []
        for peer in crowd:
            await apply(
                tunnel,
                SetEndpoint(peer, Endpoint.parse("127.0.0.1:9")),
                SetPersistentKeepalive(peer, 25),
            )
        await until(lambda: len(set(sent_to(recorded))) == len(crowd))
        await asyncio.sleep(0.15)  # who was sought this very moment would have to wait for a tenth
        recorded.commands.clear()

        tunnel.backend.network_changed()
        assert 0 < len(sent_to(recorded)) <= 10
        await until(lambda: len(sent_to(recorded)) >= len(crowd))
        assert len(set(sent_to(recorded))) == len(crowd)

        tunnel.backend.network_changed()
        await tunnel.close()
        count = len(recorded.commands)
        tunnel.backend.network_changed()
        await asyncio.sleep(0.05)
        assert len(recorded.commands) == count

    play(scenario)


def sent_to(recorded: Recorder) -> list[PeerId]:
    return [one.peer for one in recorded.commands if isinstance(one, SendHandshake)]


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.002)


def test_a_peer_may_be_in_several_places_until_it_is_told_otherwise() -> None:
    async def scenario() -> None:
        recorded = Recorder()
        two = Two(wrap=recorded.around)
        await two.start()
        nowhere, there = Endpoint.parse("127.0.0.1:9"), two.endpoint_of(two.bob)
        await apply(two.alice, SetEndpoint(two.b, nowhere), SetCandidates(two.b, (nowhere, there)))
        await two.exchange(b"found")
        (initiation,) = (one for one in recorded.commands if isinstance(one, SendHandshake))
        assert initiation.also == (there,)
        endpoint = peers(two.alice)[two.b].endpoint
        assert endpoint is not None and endpoint.remote == there.remote

        # As `wg setconf` does: what is not given again is forgotten.
        await apply(two.alice, ReplacePeers(), AddPeer(two.b), SetEndpoint(two.b, nowhere))
        await two.alice.backend.bring_down()
        recorded.commands.clear()
        await two.alice.backend.bring_up()
        two.alice.backend.initiate(two.b)
        (initiation,) = (one for one in recorded.commands if isinstance(one, SendHandshake))
        assert initiation.also == ()
        await two.close()

    play(scenario)


# --- ends ------------------------------------------------------------------------------


def test_a_deleted_device_is_told_once() -> None:
    async def scenario() -> None:
        gone: list[str] = []
        tunnel = MemoryTunnel(on_device_gone=lambda: gone.append("gone"))
        await tunnel.backend.bring_up()
        tunnel.host.close()
        await until(lambda: bool(gone))
        for _ in range(20):
            await asyncio.sleep(0.005)
            tunnel.backend.handle_events()
        assert gone == ["gone"]
        await tunnel.close()

    play(scenario)


def test_a_bug_shuts_the_tunnel_down_loudly_and_wipes_its_keys(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        failures: list[BaseException] = []
        two = Two(on_failure=failures.append)
        await two.start()
        port = free_port()
        await apply(two.alice, SetListenPort(port))
        bug = RuntimeError("a bug")

        def fail(*_: object) -> None:
            raise bug

        monkeypatch.setattr(two.alice.device, "handle_event", fail)
        private_key = two.alice.backend.snapshot().private_key
        await two.alice.send(ipv4_packet("10.0.0.1", "10.0.0.2"))
        await until(lambda: bool(failures))
        assert failures == [bug]
        assert private_key is not None
        assert private_key.reveal() == bytes(32)
        assert is_free(port)
        with pytest.raises(ControlError) as refused:
            await apply(two.alice, SetListenPort(0))
        assert refused.value.errno == errno.ENODEV
        await two.close()

    play(scenario)
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert "a bug" in caplog.text


def test_closing_wipes_keys_frees_everything_and_can_be_repeated() -> None:
    async def scenario() -> None:
        before = len(descriptors())
        two = Two()
        await two.start()
        await two.exchange(b"one")
        private_key = two.alice.backend.snapshot().private_key
        await two.close()
        await two.alice.backend.close()
        await two.alice.backend.bring_down()
        two.alice.backend.handle_events()
        two.alice.backend.initiate(two.b)
        two.alice.backend.set_mtu(1300)
        assert private_key is not None
        assert private_key.reveal() == bytes(32)
        await asyncio.sleep(0)
        assert len(descriptors()) == before

    play(scenario)


def test_closing_lets_go_of_who_waits_for_a_datapath_that_never_answers() -> None:
    async def scenario() -> None:
        recorded = Recorder(silent=True)
        tunnel = MemoryTunnel(wrap=recorded.around)
        waiting = asyncio.ensure_future(apply(tunnel, AddPeer(A)))
        await asyncio.sleep(0)
        await tunnel.close()
        with pytest.raises(ControlError) as refused:
            await waiting
        assert refused.value.errno == errno.ENODEV

    play(scenario)


def test_plans_wait_for_each_other() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        await tunnel.backend.bring_up()
        ports = free_ports(10)
        await asyncio.gather(*(apply(tunnel, SetListenPort(port)) for port in ports))
        assert tunnel.backend.listen_port == ports[-1]
        assert not is_free(ports[-1])
        assert all(is_free(port) for port in ports[:-1])
        await tunnel.close()

    play(scenario)
