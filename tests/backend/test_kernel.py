"""The kernel as a backend: plans played out, refusals taken back, events found by looking."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.backend.kernel import KernelBackend
from nvpn.backend.kernel_plans import apply_plan
from nvpn.backend.kernel_watch import KernelWatch
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
    SetListenPort,
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
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from tests.support.fake_kernel import FakeKernel
from tests.support.memory_tunnel import MemoryTunnel
from tests.support.scenarios import ELSEWHERE, PSK, A, B, C, play, prefix

KEY = PrivateKey(b"\x05" * 32)
NOT_FAR = Endpoint.parse("192.0.2.2:51820")
FAR = Endpoint.parse("[2001:db8::1]:51820")


def kernel_with(*plan: Change) -> FakeKernel:
    kernel = FakeKernel()
    apply_plan(kernel, 7, plan, kernel.get(7))
    kernel.changes.clear()
    return kernel


def change(kernel: FakeKernel, *plan: Change) -> None:
    apply_plan(kernel, 7, plan, kernel.get(7))


# --- plans ------------------------------------------------------------------------------


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


def test_a_peer_that_stays_as_it_is_is_not_mentioned() -> None:
    plan = (
        AddPeer(A),
        SetPresharedKey(A, PSK),
        SetPersistentKeepalive(A, 5),
        AddAllowedIp(A, prefix("10.0.0.0/8")),
        AddPeer(B),
    )
    kernel = kernel_with(SetPrivateKey(KEY), *plan)
    change(kernel, SetPrivateKey(KEY), ReplacePeers(), *plan, SetFwmark(7))
    (told,) = kernel.changes
    assert (told.peers, told.fwmark) == ((), 7)


def test_what_moves_to_another_peer_does_not_begin_the_list_of_the_first_anew() -> None:
    kernel = kernel_with(
        AddPeer(A),
        AddAllowedIp(A, prefix("10.0.0.0/8")),
        AddAllowedIp(A, prefix("10.1.0.0/16")),
        AddPeer(B),
    )
    change(kernel, AddAllowedIp(B, prefix("10.1.0.0/16")))
    (told,) = kernel.changes
    assert [peer.public_key for peer in told.peers] == [B]
    change(kernel, RemoveAllowedIp(B, prefix("10.1.0.0/16")))
    assert kernel.changes[-1].peers[0].replace_allowed_ips
    assert list(kernel.peers[A].allowed_ips) == [prefix("10.0.0.0/8")]
    assert not kernel.peers[B].allowed_ips


def test_a_peer_that_one_plan_removes_and_adds_begins_anew() -> None:
    kernel = kernel_with(AddPeer(A), SetEndpoint(A, FAR), AddAllowedIp(A, prefix("10.0.0.0/8")))
    kernel.peers[A].last_handshake = 1
    change(kernel, RemovePeer(A), AddPeer(A), AddAllowedIp(A, prefix("10.0.0.0/8")))
    peer = kernel.peers[A]
    assert (peer.last_handshake, peer.endpoint) == (0, None)
    assert list(peer.allowed_ips) == [prefix("10.0.0.0/8")]


def test_port_zero_asks_for_another_port_and_the_same_one_for_nothing() -> None:
    kernel = kernel_with(SetListenPort(5))
    change(kernel, SetListenPort(5))
    change(kernel, SetListenPort(0))
    assert [told.listen_port for told in kernel.changes] == [None, 0]


def test_what_the_kernel_refuses_in_the_middle_is_taken_back() -> None:
    kernel = kernel_with(
        SetPrivateKey(KEY),
        AddPeer(A),
        SetPresharedKey(A, PSK),
        AddAllowedIp(A, prefix("10.0.0.0/8")),
        AddPeer(B),
    )
    before = kernel.get(7)
    kernel.refuses.add(C)
    with pytest.raises(ControlError) as refusal:
        change(
            kernel,
            SetPrivateKey(None),
            SetFwmark(1),
            RemovePeer(B),
            SetPresharedKey(A, None),
            RemoveAllowedIp(A, prefix("10.0.0.0/8")),
            AddPeer(C),
        )
    assert refusal.value.errno == errno.ENOMEM
    after = kernel.get(7)
    assert settings_of(after.peers) == settings_of(before.peers)
    assert (after.private_key, after.fwmark) == (KEY, 0)


@pytest.mark.parametrize(
    ("impossible", "number"),
    [
        (SetListenPort(65536), errno.EINVAL),
        (SetPersistentKeepalive(A, -1), errno.EINVAL),
        (SetEndpoint(A, Endpoint(b"", 0, path=3)), errno.EAFNOSUPPORT),
        (SetCandidates(A, (Endpoint(b"", 0, path=3),)), errno.EAFNOSUPPORT),
    ],
)
def test_an_impossible_plan_is_refused_before_its_first_change(
    impossible: Change, number: int
) -> None:
    kernel = FakeKernel()
    with pytest.raises(ControlError) as refusal:
        change(kernel, AddPeer(A), impossible)
    assert refusal.value.errno == number
    assert kernel.changes == []


# --- the watch --------------------------------------------------------------------------


def seen(
    *, handshake: int = 0, tx: int = 0, endpoint: Endpoint | None = ELSEWHERE
) -> TunnelSnapshot:
    return TunnelSnapshot(
        "wg0", peers=(PeerSnapshot(A, endpoint=endpoint, last_handshake=handshake, tx_bytes=tx),)
    )


BEGIN = 1_700_000_000 * SECOND


class Looker:
    def __init__(self) -> None:
        self.watch = KernelWatch()

    def look(self, second: float, snapshot: TunnelSnapshot) -> list[NoticeKind]:
        at = int(second * SECOND)
        return [notice.kind for notice in self.watch.look(snapshot, Now(at, BEGIN + at))]


def test_a_new_date_is_a_handshake_and_another_place_is_roaming() -> None:
    looker = Looker()
    assert looker.look(0, seen()) == []
    assert looker.look(2, seen(handshake=BEGIN + SECOND)) == [NoticeKind.HANDSHAKE_COMPLETED]
    assert looker.look(4, seen(handshake=BEGIN + SECOND)) == []
    assert looker.look(6, seen(handshake=BEGIN + SECOND, endpoint=FAR)) == [NoticeKind.ROAMED]
    looker.watch.expect_moves([A])
    assert looker.look(8, seen(handshake=BEGIN + SECOND, endpoint=NOT_FAR)) == []


def test_a_session_that_was_there_before_us_is_told_once() -> None:
    looker = Looker()
    assert looker.look(0, seen(handshake=BEGIN - SECOND)) == [NoticeKind.HANDSHAKE_COMPLETED]
    assert looker.look(2, seen(handshake=BEGIN - SECOND)) == []


def test_a_session_of_a_peer_that_was_removed_is_told_as_ended() -> None:
    looker = Looker()
    assert looker.look(0, seen(handshake=BEGIN - SECOND)) == [NoticeKind.HANDSHAKE_COMPLETED]
    assert looker.look(2, TunnelSnapshot("wg0")) == [NoticeKind.SESSION_ENDED]
    assert looker.look(4, TunnelSnapshot("wg0")) == []
    assert looker.look(6, seen()) == []
    assert looker.look(8, TunnelSnapshot("wg0")) == [], "it had none"


def test_initiations_without_an_answer_are_told_and_then_given_up() -> None:
    looker = Looker()
    told = {
        second: looker.look(second, seen(tx=148 * (second // 5))) for second in range(0, 140, 2)
    }
    notices = [(second, kind) for second, kinds in told.items() for kind in kinds]
    unanswered = [second for second, kind in notices if kind is NoticeKind.HANDSHAKE_UNANSWERED]
    given_up = [second for second, kind in notices if kind is NoticeKind.HANDSHAKE_GIVEN_UP]
    assert 12 <= unanswered[0] <= 24
    assert len(given_up) == 1
    assert 90 <= given_up[0] <= 102


def test_a_session_that_is_used_while_it_is_young_is_no_question() -> None:
    looker = Looker()
    looker.look(0, seen(handshake=BEGIN))
    assert not any(
        looker.look(second, seen(handshake=BEGIN, tx=second)) for second in range(2, 134, 2)
    )
    late = [kind for second in range(134, 170, 2) for kind in looker.look(second, seen(handshake=BEGIN, tx=second))]  # fmt: skip  # noqa: E501
    assert set(late) == {NoticeKind.HANDSHAKE_UNANSWERED}


def test_an_old_session_that_is_not_used_is_no_question_either() -> None:
    looker = Looker()
    looker.look(0, seen(handshake=BEGIN, tx=7))
    assert not any(looker.look(second, seen(handshake=BEGIN, tx=7)) for second in range(2, 600, 2))


# --- the backend ------------------------------------------------------------------------


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
