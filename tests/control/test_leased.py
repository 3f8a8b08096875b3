"""Who came by a lease is not thrown out by a file that does not know of it."""

from __future__ import annotations

from nvpn.control.leased import spare_leased
from nvpn.control.uapi import parse_set
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


def test_a_client_that_is_removed_keeps_what_it_was_leased() -> None:
    plan = parse_set([f"public_key={A.hex}", "remove=true", f"public_key={B.hex}", "remove=true"])
    assert spare_leased(plan, OWNERS.get) == (RemovePeer(A), ReplaceAllowedIps(B))


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
