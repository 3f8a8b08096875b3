"""Who came by a lease is not thrown out by a file that does not know of it."""

from __future__ import annotations

import errno

import pytest

from nvpn.control.leased import spare_leased
from nvpn.control.uapi import parse_set
from nvpn.errors import ControlError
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Owner,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
    SetPersistentKeepalive,
)
from tests.support.scenarios import A, B, C, prefix

OWNERS = {A: Owner.CONFIG, B: Owner.LEASE}


REMOVALS = [f"public_key={A.hex}", "remove=true", f"public_key={B.hex}", "remove=true"]


def test_a_client_that_a_file_does_not_have_keeps_what_it_was_leased() -> None:
    plan = parse_set([f"private_key={C.hex}", *REMOVALS])  # as wg syncconf says it
    assert spare_leased(plan, OWNERS.get)[1:] == (RemovePeer(A), ReplaceAllowedIps(B))
    plan = parse_set(["replace_peers=true", *REMOVALS])
    assert spare_leased(plan, OWNERS.get)[1:] == (RemovePeer(A), ReplaceAllowedIps(B))


def test_who_removes_a_client_by_name_is_told_that_it_stays() -> None:
    with pytest.raises(ControlError, match="nvpn client revoke") as refused:
        spare_leased(parse_set(REMOVALS), OWNERS.get)
    assert refused.value.errno == errno.EOPNOTSUPP
    # One that is gone already is removed as wg removes one: without a word.
    plan = parse_set(REMOVALS)
    assert spare_leased(plan, {A: Owner.CONFIG}.get) == plan


def test_a_client_whose_keepalive_is_set_stays_a_client() -> None:
    plan = parse_set([f"public_key={B.hex}", "persistent_keepalive_interval=25"])
    assert spare_leased(plan, OWNERS.get) == (SetPersistentKeepalive(B, 25),)


def test_a_file_that_replaces_all_peers_owns_those_that_it_names() -> None:
    plan = parse_set(["replace_peers=true", f"public_key={B.hex}", "allowed_ip=10.0.0.0/8"])
    assert spare_leased(plan, OWNERS.get) == plan
    assert plan == (ReplacePeers(), AddPeer(B), AddAllowedIp(B, prefix("10.0.0.0/8")))


def test_what_is_about_others_is_left_alone() -> None:
    plan = (AddPeer(C), AddPeer(A), RemovePeer(A), SetPersistentKeepalive(C, 5))
    assert spare_leased(plan, OWNERS.get) == plan
