"""Plans played out on the kernel: the difference is told, refusals are taken back."""

from __future__ import annotations

import errno

import pytest

from nvpn.backend.kernel_plans import apply_plan
from nvpn.errors import ControlError
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Change,
    RemoveAllowedIp,
    RemovePeer,
    ReplacePeers,
    SetCandidates,
    SetEndpoint,
    SetFwmark,
    SetListenPort,
    SetPersistentKeepalive,
    SetPresharedKey,
    SetPrivateKey,
)
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PrivateKey
from tests.support.fake_kernel import FakeKernel
from tests.support.scenarios import PSK, A, B, C, prefix

KEY = PrivateKey(b"\x05" * 32)
FAR = Endpoint.parse("[2001:db8::1]:51820")


def kernel_with(*plan: Change) -> FakeKernel:
    kernel = FakeKernel()
    apply_plan(kernel, 7, plan, kernel.get(7))
    kernel.changes.clear()
    return kernel


def change(kernel: FakeKernel, *plan: Change) -> None:
    apply_plan(kernel, 7, plan, kernel.get(7))


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
    assert {peer.public_key: peer for peer in after.peers} == {
        peer.public_key: peer for peer in before.peers
    }
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
