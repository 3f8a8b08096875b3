"""Plans for a tunnel: what each change does, all of them or none."""

from __future__ import annotations

import asyncio
import errno

import pytest

from nvpn.datapath.commands import SetMtu
from nvpn.errors import ControlError
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
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.snapshot import PeerSnapshot
from tests.support.memory_tunnel import MemoryTunnel
from tests.support.scenarios import ELSEWHERE, PSK, A, B, C, Recorder, apply, peers, play, prefix


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


def test_what_was_leased_outlives_every_replacement_of_what_was_configured() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        ten, leased = prefix("10.0.0.0/8"), prefix("10.8.0.5/32")
        await apply(
            tunnel,
            AddPeer(A),
            AddAllowedIp(A, ten),
            AddAllowedIp(A, leased, Owner.LEASE),
            AddPeer(B, Owner.LEASE),
            AddAllowedIp(B, prefix("10.8.0.6/32"), Owner.LEASE),
        )
        assert peers(tunnel)[A].leased == (leased,)
        await apply(tunnel, ReplaceAllowedIps(A))
        assert peers(tunnel)[A].allowed_ips == (leased,)
        await apply(tunnel, ReplacePeers(), AddPeer(A), AddAllowedIp(A, ten))
        assert set(peers(tunnel)[A].allowed_ips) == {ten, leased}
        assert peers(tunnel)[A].leased == (leased,)
        assert peers(tunnel)[B].allowed_ips == (prefix("10.8.0.6/32"),)
        await tunnel.close()

    play(scenario)


def test_a_leased_prefix_becomes_the_configurations_when_that_names_it() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        one = prefix("10.8.0.5/32")
        await apply(tunnel, AddPeer(A), AddAllowedIp(A, one, Owner.LEASE))
        await apply(tunnel, ReplaceAllowedIps(A), AddAllowedIp(A, one))
        assert peers(tunnel)[A].allowed_ips == (one,)
        assert peers(tunnel)[A].leased == ()
        await apply(tunnel, ReplaceAllowedIps(A))
        assert peers(tunnel)[A].allowed_ips == ()
        await tunnel.close()

    play(scenario)


def test_a_leased_prefix_that_another_peer_gets_is_nobody_elses_any_more() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        one = prefix("10.8.0.5/32")
        await apply(tunnel, AddPeer(A), AddPeer(B), AddAllowedIp(A, one, Owner.LEASE))
        await apply(tunnel, AddAllowedIp(B, one, Owner.LEASE), RemoveAllowedIp(A, one))
        assert peers(tunnel)[A].leased == ()
        assert peers(tunnel)[B].leased == (one,)
        await apply(tunnel, RemoveAllowedIp(B, one))
        assert peers(tunnel)[B] == PeerSnapshot(B)
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
