"""The kernel as a backend: it comes to the same as ours, and has what the kernel has not."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.backend.kernel import KernelBackend
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
    SetCandidates,
    SetEndpoint,
    SetFwmark,
    SetName,
    SetPersistentKeepalive,
    SetPresharedKey,
    SetPrivateKey,
)
from nvpn.model.clock import SECOND, Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.model.ports import PortPolicy
from nvpn.model.snapshot import PeerSnapshot
from tests.support.fake_kernel import FakeKernel
from tests.support.memory_tunnel import MemoryTunnel
from tests.support.scenarios import ELSEWHERE, PSK, A, B, C, play, prefix

KEY = PrivateKey(b"\x05" * 32)
NOT_FAR = Endpoint.parse("192.0.2.2:51820")
FAR = Endpoint.parse("[2001:db8::1]:51820")
BEGIN = 1_700_000_000 * SECOND


class Clock:
    def __init__(self) -> None:
        self.second = 0

    def __call__(self) -> Now:
        return Now(self.second * SECOND, BEGIN + self.second * SECOND)


def backend_over(
    kernel: FakeKernel,
    *,
    clock: Clock | None = None,
    let_go: list[bool] | None = None,
    nowhere: Sequence[Endpoint] = (),
) -> KernelBackend:
    return KernelBackend(
        name="wg0",
        index=7,
        wireguard=kernel,
        raise_link=kernel.raise_link,
        let_go=(let_go if let_go is not None else []).append,
        mtu=1420,
        loop=asyncio.get_running_loop(),
        reason="because",
        clocks=clock or Clock(),
        has_way=lambda endpoint, fwmark: endpoint not in nowhere,
    )


def some_change() -> st.SearchStrategy[Change]:
    peers = st.sampled_from([A, B, KEY.public()])
    prefixes = st.sampled_from(
        [prefix(text) for text in ("10.0.0.0/8", "10.1.0.0/16", "fd00::/8")]
    )
    return st.one_of(
        st.builds(SetPrivateKey, st.sampled_from([None, KEY])),
        st.builds(SetFwmark, st.integers(0, 3)),
        st.builds(ReplacePeers, st.sampled_from([Owner.CONFIG, Owner.LEASE])),
        st.builds(AddPeer, peers, st.sampled_from([Owner.CONFIG, Owner.LEASE])),
        st.builds(RemovePeer, peers),
        st.builds(SetName, peers, st.sampled_from(["", "ada", "bob"])),
        st.builds(SetPresharedKey, peers, st.sampled_from([None, PSK, PresharedKey(bytes(32))])),
        st.builds(SetEndpoint, peers, st.sampled_from([ELSEWHERE, FAR])),
        st.builds(SetPersistentKeepalive, peers, st.integers(0, 2)),
        st.builds(ReplaceAllowedIps, peers),
        st.builds(AddAllowedIp, peers, prefixes, st.sampled_from([Owner.CONFIG, Owner.LEASE])),
        st.builds(RemoveAllowedIp, peers, prefixes),
    )


def settings_of(peers: Sequence[PeerSnapshot]) -> set[tuple[object, ...]]:
    return {
        (
            peer.public_key,
            peer.name,
            peer.owner,
            peer.preshared_key.reveal() if peer.preshared_key else b"",
            peer.endpoint and peer.endpoint.remote,
            peer.persistent_keepalive,
            frozenset(peer.allowed_ips),
            frozenset(peer.leased),
        )
        for peer in peers
    }


@given(st.lists(st.lists(some_change(), max_size=12), max_size=3))
def test_plans_come_to_the_same_as_with_our_own_backend(plans: list[list[Change]]) -> None:
    async def scenario() -> None:
        kernel, ours = FakeKernel(), MemoryTunnel("wg0").backend
        theirs = backend_over(kernel)
        for plan in plans:
            await ours.apply(tuple(plan))
            await theirs.apply(tuple(plan))
            wanted, found = ours.snapshot(), theirs.snapshot()
            assert settings_of(found.peers) == settings_of(wanted.peers)
            assert found.private_key == wanted.private_key
            assert found.fwmark == wanted.fwmark
        await ours.close()
        await theirs.close()

    play(scenario)


def test_the_snapshot_has_what_the_kernel_knows_and_what_it_does_not() -> None:
    async def scenario() -> None:
        kernel = FakeKernel()
        backend = backend_over(kernel)
        await backend.apply(
            (
                AddPeer(A, Owner.LEASE),
                SetName(A, "ada"),
                AddAllowedIp(A, prefix("10.0.0.1/32")),
                AddPeer(B),
                SetEndpoint(B, FAR),
            )
        )
        await backend.bring_up()
        snapshot = backend.snapshot()
        ada, other = snapshot.peers
        assert (ada.name, ada.owner) == ("ada", Owner.LEASE)
        assert (other.name, other.owner) == ("", Owner.CONFIG)
        assert (snapshot.mtu, snapshot.datapath, snapshot.datapath_reason) == (
            1420,
            "kernel",
            "because",
        )
        assert backend.listen_port == 40000, "as the kernel chose it"
        assert backend.has_peer(A)
        assert not backend.has_peer(C)
        assert backend.endpoint_of(B) == FAR
        assert backend.peers() == [A, B]
        assert [backend.peer(A), backend.peer(B), backend.peer(C)] == [ada, other, None]
        assert backend.drops() == {}
        assert backend.describe() == "kernel: because"
        await backend.close()
        assert kernel.closed

    play(scenario)


def test_the_callers_keys_are_the_callers() -> None:
    async def scenario() -> None:
        kernel = FakeKernel()
        backend = backend_over(kernel)
        key, psk = PrivateKey(KEY.reveal()), PresharedKey(PSK.reveal())
        await backend.apply((SetPrivateKey(key), AddPeer(A), SetPresharedKey(A, psk)))
        assert (key, psk) == (KEY, PSK), "not wiped"
        key.wipe()
        psk.wipe()
        await backend.apply((SetFwmark(3),))
        snapshot = backend.snapshot()
        assert snapshot.private_key == KEY
        assert snapshot.peers[0].preshared_key == PSK
        await backend.close()

    play(scenario)


def test_a_port_that_is_taken_is_told_when_the_link_comes_up() -> None:
    async def scenario() -> None:
        kernel = FakeKernel()
        backend = backend_over(kernel)

        def refuse() -> None:
            raise PlatformError("set interface wg0 up", errno=errno.EADDRINUSE)

        backend._raise_link = refuse
        with pytest.raises(ControlError) as refusal:
            await backend.bring_up()
        assert refusal.value.errno == errno.EADDRINUSE
        backend._raise_link = kernel.raise_link
        await backend.bring_up()
        assert kernel.is_up
        await backend.close()

    play(scenario)


def test_peers_without_a_session_are_sent_something_and_keep_their_keepalive() -> None:
    async def scenario() -> None:
        kernel = FakeKernel()
        backend = backend_over(kernel)
        await backend.apply((AddPeer(A), AddPeer(B), SetPersistentKeepalive(B, 25), AddPeer(C)))
        kernel.peers[C].last_handshake = 1
        await backend.bring_up()
        for peer in (A, B, C, PublicKey(bytes(32))):
            backend.initiate(peer)
        await settled(backend)
        assert {key: peer.keepalives_sent for key, peer in kernel.peers.items()} == {
            A: 1,
            B: 1,
            C: 0,
        }
        assert {key: peer.keepalive for key, peer in kernel.peers.items()} == {A: 0, B: 25, C: 0}
        await backend.close()

    play(scenario)


def test_after_a_change_of_the_network_every_peer_is_placed_again_and_sessions_are_used() -> None:
    async def scenario() -> None:
        kernel = FakeKernel()
        backend = backend_over(kernel)
        await backend.apply(
            (AddPeer(A), SetEndpoint(A, FAR), AddPeer(B), SetEndpoint(B, FAR), AddPeer(C))
        )
        kernel.peers[A].last_handshake = 1
        await backend.bring_up()
        backend.network_changed()
        await settled(backend)
        assert {key: peer.placed for key, peer in kernel.peers.items()} == {A: 2, B: 2, C: 0}
        assert {key: peer.keepalives_sent for key, peer in kernel.peers.items()} == {
            A: 1,
            B: 0,
            C: 0,
        }
        await backend.close()

    play(scenario)


def test_a_peer_that_does_not_answer_is_sought_at_its_other_places_in_turn() -> None:
    async def scenario() -> None:
        kernel, clock = FakeKernel(), Clock()
        backend = backend_over(kernel, clock=clock)
        notices: list[Notice] = []
        backend.subscribe(notices.append)
        await backend.apply(
            (AddPeer(A), SetEndpoint(A, ELSEWHERE), SetCandidates(A, (FAR, NOT_FAR)))
        )
        await backend.bring_up()
        places = []
        for second in range(0, 60, 5):
            clock.second = second
            kernel.peers[A].tx_bytes += 148
            await backend.apply(())
            places.append(kernel.peers[A].endpoint)
        moves = [place for place, before in zip(places[1:], places) if place != before]  # noqa: B905
        assert moves[:3] == [FAR, NOT_FAR, ELSEWHERE]
        assert {notice.kind for notice in notices} == {NoticeKind.HANDSHAKE_UNANSWERED}
        kernel.peers[A].last_handshake = BEGIN
        await backend.apply(())
        assert notices[-1].kind is NoticeKind.HANDSHAKE_COMPLETED
        await backend.close()

    play(scenario)


def test_a_place_without_a_route_is_left_at_once_while_there_is_no_session() -> None:
    async def scenario() -> None:
        kernel = FakeKernel()
        backend = backend_over(kernel, nowhere=[FAR])
        await backend.apply((AddPeer(A), SetEndpoint(A, FAR), SetCandidates(A, (FAR, ELSEWHERE))))
        await backend.bring_up()
        await backend.apply(())
        assert kernel.peers[A].endpoint == ELSEWHERE
        await backend.apply(())
        assert kernel.peers[A].endpoint == ELSEWHERE

        kernel.peers[A].endpoint, kernel.peers[A].last_handshake = FAR, 1
        await backend.apply(())
        assert kernel.peers[A].endpoint == FAR, "it came from there"
        await backend.close()

    play(scenario)


def test_an_interface_that_is_gone_is_no_failure() -> None:
    async def scenario() -> None:
        kernel = FakeKernel()
        backend = backend_over(kernel)
        await backend.apply((AddPeer(A),))
        kernel.is_gone = True
        assert [peer.public_key for peer in backend.snapshot().peers] == [A], "as it was"
        with pytest.raises(ControlError) as refusal:
            await backend.apply((AddPeer(B),))
        assert refusal.value.errno == errno.ENODEV
        await backend.close()
        await backend.close()

    play(scenario)


def test_a_link_of_somebody_else_is_ours_once_it_is_configured() -> None:
    async def scenario() -> None:
        for configures in (False, True):
            kernel, let_go, claimed = FakeKernel(), [], []  # type: ignore[var-annotated]
            backend = backend_over(kernel, let_go=let_go)
            backend._claim = lambda claimed=claimed: claimed.append(True)  # type: ignore[misc]
            if configures:
                await backend.apply((AddPeer(A),))
                await backend.apply((AddPeer(B),))
            await backend.close()
            assert let_go == [configures]
            assert claimed == [True] * configures

    play(scenario)


async def settled(backend: KernelBackend) -> None:
    """What was begun in the background is done."""
    for _ in range(5):
        await asyncio.sleep(0)
        await backend.apply(())


def test_the_kernel_filters_no_ports_and_says_so() -> None:
    async def scenario() -> None:
        backend = backend_over(FakeKernel())
        backend.set_port_policies(PortPolicy(), {A: PortPolicy()})
        for interface, peers in (
            (PortPolicy(allowed=()), {}),
            (PortPolicy(), {A: PortPolicy(())}),
        ):
            with pytest.raises(PlatformError, match="down and up again"):
                backend.set_port_policies(interface, peers)
        await backend.close()

    play(scenario)
