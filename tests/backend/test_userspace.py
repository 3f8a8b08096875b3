from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import pytest
import uvloop

from nvpn.datapath.api import Command, Event, SetMtu
from nvpn.errors import ControlError, PlatformError
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Change,
    Owner,
    RemoveAllowedIp,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
    SetEndpoint,
    SetFwmark,
    SetListenPort,
    SetName,
    SetPersistentKeepalive,
    SetPresharedKey,
    SetPrivateKey,
)
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot
from nvpn.transport.udp import UdpSockets, open_udp
from tests.support.memory_tunnel import MemoryTunnel, ipv4_packet

Scenario = Callable[[], Awaitable[None]]

A, B, C = (PublicKey(bytes([n]) * 32) for n in (0xAA, 0xBB, 0xCC))
PSK = PresharedKey(b"\x01" * 32)
ELSEWHERE = Endpoint.parse("192.0.2.1:51820")


def play(scenario: Callable[[], Any]) -> None:
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop)
        if hasattr(asyncio, "Runner")
        else _OldRunner() as runner
    ):
        runner.run(asyncio.wait_for(scenario(), 20))


class _OldRunner:
    """asyncio.Runner came with Python 3.11."""

    def __enter__(self) -> _OldRunner:
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.set_event_loop(None)
        self._loop.close()

    def run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)


def prefix(text: str) -> Prefix:
    return Prefix.parse(text)


def peers(tunnel: MemoryTunnel) -> dict[PublicKey, PeerSnapshot]:
    return {peer.public_key: peer for peer in tunnel.backend.snapshot().peers}


async def apply(tunnel: MemoryTunnel, *changes: Change) -> None:
    await tunnel.backend.apply(changes)


# --- plans ----------------------------------------------------------------------------


def test_a_plan_is_seen_in_the_next_snapshot() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel("wg0")
        key = PrivateKey(b"\x05" * 32)
        await apply(
            tunnel,
            SetPrivateKey(key),
            SetListenPort(51820),
            SetFwmark(7),
            AddPeer(A, Owner.LEASE),
            SetName(A, "ada"),
            SetPresharedKey(A, PSK),
            SetEndpoint(A, ELSEWHERE),
            SetPersistentKeepalive(A, 25),
            AddAllowedIp(A, prefix("10.0.0.0/8")),
            AddAllowedIp(A, prefix("fd00::/8")),
            AddPeer(B),
        )
        snapshot = tunnel.backend.snapshot()
        assert snapshot.name == "wg0"
        assert snapshot.private_key == key
        assert (snapshot.listen_port, snapshot.fwmark, snapshot.mtu) == (51820, 7, 1420)
        assert snapshot.datapath.startswith("python")
        ada, other = snapshot.peers
        assert ada.endpoint is not None
        assert ada.endpoint.remote == ELSEWHERE.remote
        assert ada == PeerSnapshot(
            A,
            name="ada",
            owner=Owner.LEASE,
            preshared_key=PSK,
            endpoint=ada.endpoint,
            persistent_keepalive=25,
            allowed_ips=(prefix("10.0.0.0/8"), prefix("fd00::/8")),
        )
        assert other == PeerSnapshot(B)
        await tunnel.close()

    play(scenario)


@pytest.mark.parametrize(
    "change",
    [
        SetListenPort(65536),
        SetListenPort(-1),
        SetFwmark(1 << 32),
        SetPersistentKeepalive(A, 65536),
    ],
)
def test_an_impossible_change_refuses_the_whole_plan(change: Change) -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        with pytest.raises(ControlError) as refused:
            await apply(tunnel, AddPeer(A), SetFwmark(1), change)
        assert refused.value.errno == errno.EINVAL
        assert tunnel.backend.snapshot().peers == ()
        assert tunnel.backend.snapshot().fwmark == 0
        await tunnel.close()

    play(scenario)


def test_there_are_as_many_peers_as_are_allowed_and_no_more() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel(max_peers=2)
        await apply(tunnel, AddPeer(A), AddPeer(B), AddPeer(A))
        with pytest.raises(ControlError) as refused:
            await apply(tunnel, SetFwmark(1), AddPeer(C))
        assert refused.value.errno == errno.ENOSPC
        await apply(tunnel, AddPeer(B))
        assert set(peers(tunnel)) == {A, B}
        assert tunnel.backend.snapshot().fwmark == 0
        await tunnel.close()

    play(scenario)


def test_changes_of_unknown_peers_are_ignored() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        await apply(
            tunnel,
            SetName(A, "nobody"),
            SetEndpoint(A, ELSEWHERE),
            SetPresharedKey(A, PSK),
            SetPersistentKeepalive(A, 25),
            AddAllowedIp(A, prefix("10.0.0.0/8")),
            RemoveAllowedIp(A, prefix("10.0.0.0/8")),
            ReplaceAllowedIps(A),
            RemovePeer(A),
        )
        assert tunnel.backend.snapshot().peers == ()
        await apply(tunnel, AddPeer(A))
        assert peers(tunnel)[A] == PeerSnapshot(A)
        await tunnel.close()

    play(scenario)


def test_a_prefix_moves_to_who_is_given_it_and_only_its_owner_can_lose_it() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        ten = prefix("10.0.0.0/8")
        await apply(tunnel, AddPeer(A), AddPeer(B), AddAllowedIp(A, ten), AddAllowedIp(B, ten))
        assert (peers(tunnel)[A].allowed_ips, peers(tunnel)[B].allowed_ips) == ((), (ten,))
        await apply(tunnel, RemoveAllowedIp(A, ten))
        assert peers(tunnel)[B].allowed_ips == (ten,)
        await apply(tunnel, RemoveAllowedIp(B, ten))
        assert peers(tunnel)[B].allowed_ips == ()
        await tunnel.close()

    play(scenario)


def test_our_own_public_key_is_never_a_peer() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        key = PrivateKey(b"\x05" * 32)
        ours = key.public()
        await apply(tunnel, AddPeer(A), AddPeer(ours), AddAllowedIp(ours, prefix("10.0.0.0/8")))
        await apply(tunnel, SetPrivateKey(key))
        assert set(peers(tunnel)) == {A}
        await apply(tunnel, AddPeer(ours), SetName(ours, "me"))
        assert set(peers(tunnel)) == {A}
        await apply(tunnel, AddPeer(B), AddAllowedIp(B, prefix("10.0.0.0/8")))
        assert peers(tunnel)[B].allowed_ips == (prefix("10.0.0.0/8"),)
        await apply(tunnel, SetPrivateKey(None), AddPeer(ours))
        assert set(peers(tunnel)) == {A, B, ours}
        await tunnel.close()

    play(scenario)


def test_replace_peers_keeps_who_is_mentioned_again_and_resets_what_is_not() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        ten, twenty = prefix("10.0.0.0/8"), prefix("20.0.0.0/8")
        for peer in (A, B):
            await apply(
                tunnel,
                AddPeer(peer),
                SetName(peer, "name"),
                SetPresharedKey(peer, PSK),
                SetEndpoint(peer, ELSEWHERE),
                SetPersistentKeepalive(peer, 25),
            )
        await apply(tunnel, AddAllowedIp(A, ten), AddAllowedIp(A, twenty))
        await apply(tunnel, AddPeer(C, Owner.LEASE))
        id_before = tunnel.device.peer_state(A).peer_id

        await apply(tunnel, ReplacePeers(), AddPeer(A), AddAllowedIp(A, twenty))

        assert set(peers(tunnel)) == {A, C}
        kept = peers(tunnel)[A]
        assert kept.endpoint is not None
        assert kept.endpoint.remote == ELSEWHERE.remote
        assert kept == PeerSnapshot(A, endpoint=kept.endpoint, allowed_ips=(twenty,))
        assert tunnel.device.peer_state(A).peer_id == id_before
        await tunnel.close()

    play(scenario)


def test_replace_peers_keeps_every_setting_that_is_given_again() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        plan: tuple[Change, ...] = (
            ReplacePeers(),
            AddPeer(A),
            SetName(A, "name"),
            SetPresharedKey(A, PSK),
            SetEndpoint(A, ELSEWHERE),
            SetPersistentKeepalive(A, 25),
            ReplaceAllowedIps(A),
            AddAllowedIp(A, prefix("10.0.0.0/8")),
        )
        await tunnel.backend.apply(plan)
        before = peers(tunnel)[A]
        await tunnel.backend.apply(plan)
        after = peers(tunnel)[A]
        assert before.endpoint is not None
        assert after.endpoint is not None
        assert after.endpoint.remote == before.endpoint.remote
        assert after.allowed_ips == before.allowed_ips == (prefix("10.0.0.0/8"),)
        assert (after.name, after.preshared_key, after.persistent_keepalive) == ("name", PSK, 25)
        await tunnel.close()

    play(scenario)


def test_replace_peers_forgets_who_is_only_updated_or_removed() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        await apply(tunnel, AddPeer(A), AddPeer(B))
        await apply(tunnel, ReplacePeers(), SetPersistentKeepalive(A, 5), RemovePeer(B))
        assert peers(tunnel) == {}
        await tunnel.close()

    play(scenario)


def test_replace_allowed_ips_leaves_those_that_are_given_again_in_place() -> None:
    async def scenario() -> None:
        recorded = Recorder()
        tunnel = MemoryTunnel(wrap=recorded.around)
        ten, twenty, thirty = (prefix(f"{n}.0.0.0/8") for n in (10, 20, 30))
        await apply(tunnel, AddPeer(A), AddAllowedIp(A, ten), AddAllowedIp(A, twenty))
        recorded.commands.clear()
        await apply(tunnel, ReplaceAllowedIps(A), AddAllowedIp(A, twenty), AddAllowedIp(A, thirty))
        assert set(peers(tunnel)[A].allowed_ips) == {twenty, thirty}
        assert [type(command).__name__ for command in recorded.commands] == [
            "DeletePrefix",
            "InsertPrefix",
        ]
        await apply(tunnel, AddAllowedIp(A, ten), ReplaceAllowedIps(A))
        assert peers(tunnel)[A].allowed_ips == ()
        await tunnel.close()

    play(scenario)


def test_a_plan_that_changes_nothing_sends_no_command_down() -> None:
    async def scenario() -> None:
        recorded = Recorder()
        tunnel = MemoryTunnel(wrap=recorded.around)
        plan: tuple[Change, ...] = (
            SetPrivateKey(PrivateKey(b"\x05" * 32)),
            AddPeer(A),
            ReplaceAllowedIps(A),
            AddAllowedIp(A, prefix("10.0.0.0/8")),
        )
        await tunnel.backend.apply(plan)
        recorded.commands.clear()
        await tunnel.backend.apply((SetPrivateKey(PrivateKey(b"\x05" * 32)), *plan[1:]))
        assert recorded.commands == []
        await tunnel.close()

    play(scenario)


def test_one_change_among_ten_thousand_peers_sends_one_command() -> None:
    async def scenario() -> None:
        recorded = Recorder()
        tunnel = MemoryTunnel(wrap=recorded.around)
        many = [PublicKey(n.to_bytes(32, "little")) for n in range(1, 10_001)]
        await tunnel.backend.apply(tuple(AddPeer(peer) for peer in many))
        recorded.commands.clear()
        await apply(tunnel, AddAllowedIp(many[7], prefix("10.0.0.0/8")))
        assert len(recorded.commands) == 1
        await tunnel.close()

    play(scenario)


def test_the_loop_goes_on_while_a_great_plan_is_applied() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        many = [PublicKey(n.to_bytes(32, "little")) for n in range(1, 10_001)]
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        await tunnel.backend.apply(tuple(AddPeer(peer) for peer in many))
        counting.cancel()
        assert turns > 10
        assert len(tunnel.backend.snapshot().peers) == len(many)
        await tunnel.close()

    play(scenario)


def test_a_changed_mtu_reaches_the_datapath_once() -> None:
    async def scenario() -> None:
        recorded = Recorder()
        tunnel = MemoryTunnel(wrap=recorded.around)
        tunnel.backend.set_mtu(1280)
        tunnel.backend.set_mtu(1280)
        assert recorded.commands == [SetMtu(1280)]
        assert tunnel.backend.snapshot().mtu == 1280
        await tunnel.close()

    play(scenario)


# --- sockets --------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_port_is_bound_only_while_the_link_is_up_and_remembered_while_it_is_not() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        before = descriptors()
        port = free_port()
        await apply(tunnel, SetListenPort(port))
        assert is_free(port)
        await tunnel.backend.bring_up()
        await tunnel.backend.bring_up()
        assert not is_free(port)
        await tunnel.backend.bring_down()
        assert is_free(port)
        assert tunnel.backend.listen_port == port
        assert descriptors() == before
        await tunnel.backend.bring_up()
        assert not is_free(port)
        await tunnel.close()
        assert is_free(port)

    play(scenario)


def test_a_random_port_is_chosen_when_the_link_comes_up_and_stays() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        assert tunnel.backend.snapshot().listen_port == 0
        await tunnel.backend.bring_up()
        port = tunnel.backend.snapshot().listen_port
        assert port
        await tunnel.backend.bring_down()
        await tunnel.backend.bring_up()
        assert tunnel.backend.snapshot().listen_port == port
        await tunnel.close()

    play(scenario)


def test_a_changed_port_moves_the_sockets_and_closes_the_old_ones() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        await tunnel.backend.bring_up()
        before = descriptors()
        first = tunnel.backend.listen_port
        second = free_port()
        await apply(tunnel, SetListenPort(second))
        assert is_free(first)
        assert not is_free(second)
        assert descriptors() == before
        await apply(tunnel, SetListenPort(second))
        await apply(tunnel, SetListenPort(0))
        assert tunnel.backend.listen_port not in (0, second)
        assert descriptors() == before
        await tunnel.close()

    play(scenario)


def test_a_port_that_is_taken_refuses_the_plan_and_the_old_port_goes_on() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        await tunnel.backend.bring_up()
        port = tunnel.backend.listen_port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("", 0))
            taken = other.getsockname()[1]
            with pytest.raises(ControlError) as refused:
                await apply(tunnel, AddPeer(A), SetFwmark(5), SetListenPort(taken))
        assert refused.value.errno == errno.EADDRINUSE
        snapshot = tunnel.backend.snapshot()
        assert (snapshot.peers, snapshot.fwmark, snapshot.listen_port) == ((), 0, port)
        assert not is_free(port)
        await tunnel.close()

    play(scenario)


def test_a_taken_port_keeps_the_link_down_and_a_second_try_works() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("", 0))
            await apply(tunnel, SetListenPort(other.getsockname()[1]))
            with pytest.raises(ControlError):
                await tunnel.backend.bring_up()
        await tunnel.backend.bring_up()
        assert not is_free(tunnel.backend.listen_port)
        await tunnel.close()

    play(scenario)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN for SO_MARK")
def test_a_mark_is_set_on_the_sockets_that_are_there() -> None:
    async def scenario() -> None:
        opened: list[UdpSockets] = []

        def open_sockets(port: int, mark: int) -> UdpSockets:
            opened.append(open_udp(port, mark))
            return opened[-1]

        tunnel = MemoryTunnel(open_sockets=open_sockets)
        await apply(tunnel, SetFwmark(1))
        await tunnel.backend.bring_up()
        assert [mark_of(fd) for fd in (opened[0].ipv4, opened[0].ipv6)] == [1, 1]
        await apply(tunnel, SetFwmark(0xCA6C))
        assert [mark_of(fd) for fd in (opened[0].ipv4, opened[0].ipv6)] == [0xCA6C, 0xCA6C]
        await apply(tunnel, SetListenPort(0))
        assert mark_of(opened[1].ipv4) == 0xCA6C
        await apply(tunnel, SetFwmark(0))
        assert mark_of(opened[1].ipv4) == 0
        assert len(opened) == 2
        await tunnel.close()

    play(scenario)


def test_a_mark_that_is_not_permitted_refuses_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sockets: UdpSockets, mark: int) -> None:
        raise PlatformError("set the firewall mark", errno=errno.EPERM)

    async def scenario() -> None:
        tunnel = MemoryTunnel()
        await tunnel.backend.bring_up()
        monkeypatch.setattr("nvpn.backend.userspace.set_fwmark", refuse)
        with pytest.raises(ControlError) as refused:
            await apply(tunnel, SetFwmark(5), AddPeer(A))
        assert refused.value.errno == errno.EPERM
        assert tunnel.backend.snapshot().peers == ()
        assert tunnel.backend.snapshot().fwmark == 0
        await tunnel.close()

    play(scenario)


def mark_of(fd: int) -> int:
    borrowed = socket.socket(fileno=os.dup(fd))
    with borrowed:
        return borrowed.getsockopt(socket.SOL_SOCKET, 36)


def free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        return cast(int, probe.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


# --- a tunnel that runs ---------------------------------------------------------------


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
        await two.close()

    play(scenario)


def test_a_link_that_went_down_begins_anew() -> None:
    async def scenario() -> None:
        two = Two()
        await two.start()
        await two.exchange(b"one")
        await two.alice.backend.bring_down()
        assert peers(two.alice)[two.b].session_age is None
        await two.alice.backend.bring_up()
        await asyncio.sleep(0.02)  # initiations less than 20 ms apart are refused
        await two.exchange(b"two")
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
        await asyncio.wait_for(completed.wait(), 5)
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
        await asyncio.wait_for(completed.wait(), 5)
        await two.close()

    play(scenario)


# --- ends -----------------------------------------------------------------------------


def test_a_deleted_device_is_told_once() -> None:
    async def scenario() -> None:
        gone: list[str] = []
        tunnel = MemoryTunnel(on_device_gone=lambda: gone.append("gone"))
        await tunnel.backend.bring_up()
        tunnel.host.close()
        for _ in range(100):
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
        port = two.alice.backend.listen_port
        bug = RuntimeError("a bug")

        def fail(*_: object) -> None:
            raise bug

        monkeypatch.setattr(two.alice.device, "handle_event", fail)
        private_key = two.alice.backend.snapshot().private_key
        await two.alice.send(ipv4_packet("10.0.0.1", "10.0.0.2"))
        for _ in range(100):
            if failures:
                break
            await asyncio.sleep(0.01)
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
        before = descriptors()
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
        assert descriptors() == before

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
        ports = [free_port() for _ in range(10)]
        await asyncio.gather(*(apply(tunnel, SetListenPort(port)) for port in ports))
        assert tunnel.backend.listen_port == ports[-1]
        assert not is_free(ports[-1])
        assert all(is_free(port) for port in ports[:-1] if port != ports[-1])
        await tunnel.close()

    play(scenario)


class Recorder:
    """Stands around a datapath and keeps what went down; ``silent`` keeps the answers."""

    def __init__(self, *, silent: bool = False) -> None:
        self.commands: list[Command] = []
        self._silent = silent
        self._inner: Any = None

    def around(self, inner: Any) -> Recorder:
        self._inner = inner
        return self

    def apply(
        self, commands: Iterable[Command], acknowledged: Callable[[], None] | None = None
    ) -> None:
        taken = list(commands)
        self.commands += taken
        self._inner.apply(taken, None if self._silent else acknowledged)

    def take_events(self) -> list[Event]:
        return cast("list[Event]", self._inner.take_events())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
