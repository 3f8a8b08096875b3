from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.config.model import HostPort, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.config.plan import diff
from nvpn.model import changes
from nvpn.model.changes import Owner, Plan
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot

OWN = PrivateKey(bytes([7] * 32))
ALICE, BOB, CAROL = (PublicKey(bytes([n] * 32)) for n in (1, 2, 3))
PSK = PresharedKey(bytes([9] * 32))
HOME = Endpoint.parse("192.0.2.1:51820")
AWAY = Endpoint.parse("198.51.100.7:1024")
NET = Prefix.parse("10.0.0.0/24")
OTHER_NET = Prefix.parse("10.0.1.0/24")


def tunnel(*peers: PeerConfig, **interface: object) -> TunnelConfig:
    return TunnelConfig("wg0", Path("wg0.toml"), InterfaceConfig(**interface), peers)  # type: ignore[arg-type]


def running(*peers: PeerSnapshot, **interface: object) -> TunnelSnapshot:
    return TunnelSnapshot("wg0", peers=peers, **interface)  # type: ignore[arg-type]


def test_a_fresh_tunnel_gets_everything_and_nothing_else() -> None:
    config = tunnel(
        PeerConfig(
            ALICE,
            name="alice",
            preshared_key=PSK,
            endpoint=HostPort("home.example.com", 51820),
            allowed_ips=(NET, OTHER_NET),
            persistent_keepalive=25,
        ),
        PeerConfig(BOB, endpoint=HostPort("not.yet.resolved", 1)),
        private_key=OWN,
        listen_port=51820,
        fwmark=5,
    )
    assert diff(running(), config, {ALICE: HOME}) == (
        changes.SetPrivateKey(OWN),
        changes.SetFwmark(5),
        changes.SetListenPort(51820),
        changes.AddPeer(ALICE),
        changes.SetName(ALICE, "alice"),
        changes.SetPresharedKey(ALICE, PSK),
        changes.SetEndpoint(ALICE, HOME),
        changes.AddAllowedIp(ALICE, NET),
        changes.AddAllowedIp(ALICE, OTHER_NET),
        changes.SetPersistentKeepalive(ALICE, 25),
        changes.AddPeer(BOB),
    )


def test_what_is_as_configured_is_not_mentioned() -> None:
    config = tunnel(
        PeerConfig(ALICE, "a", PSK, HostPort("home", 51820), (NET, OTHER_NET), 25),
        private_key=OWN,
        listen_port=1,
    )
    snapshot = running(
        PeerSnapshot(
            ALICE,
            "a",
            preshared_key=PSK,
            endpoint=HOME._replace(learned_at=77),
            allowed_ips=(OTHER_NET, NET),
            persistent_keepalive=25,
        ),
        private_key=OWN,
        listen_port=1,
    )
    assert diff(snapshot, config, {ALICE: HOME}) == ()


def test_what_the_file_dropped_is_reset() -> None:
    snapshot = running(
        PeerSnapshot(
            ALICE,
            "a",
            preshared_key=PSK,
            endpoint=HOME,
            persistent_keepalive=25,
            allowed_ips=(NET,),
        ),
        fwmark=7,
    )
    assert diff(snapshot, tunnel(PeerConfig(ALICE)), {}) == (
        changes.SetFwmark(0),
        changes.SetName(ALICE, ""),
        changes.SetPresharedKey(ALICE, None),
        changes.RemoveAllowedIp(ALICE, NET),
        changes.SetPersistentKeepalive(ALICE, 0),
    )


def test_what_the_file_is_silent_about_stays() -> None:
    snapshot = running(PeerSnapshot(ALICE, endpoint=AWAY), private_key=OWN, listen_port=4242)
    assert diff(snapshot, tunnel(PeerConfig(ALICE)), {ALICE: HOME}) == ()


def test_a_preshared_key_of_zeros_is_none_at_all() -> None:
    snapshot = running(PeerSnapshot(ALICE, preshared_key=PresharedKey(bytes(32))))
    assert diff(snapshot, tunnel(PeerConfig(ALICE)), {}) == ()


def test_peers_that_left_the_file_go_but_only_those_of_the_configuration() -> None:
    snapshot = running(
        PeerSnapshot(ALICE), PeerSnapshot(BOB, owner=Owner.LEASE), PeerSnapshot(CAROL)
    )
    assert diff(snapshot, tunnel(PeerConfig(CAROL)), {}) == (changes.RemovePeer(ALICE),)


def test_a_leased_prefix_stays_unless_the_file_gives_it_to_somebody() -> None:
    leased = Prefix.parse("10.8.0.5/32")
    now = PeerSnapshot(ALICE, allowed_ips=(NET, leased), leased=(leased,))
    same = tunnel(PeerConfig(ALICE, allowed_ips=(NET,)))
    assert diff(running(now), same, {}) == ()
    named = tunnel(PeerConfig(ALICE, allowed_ips=(NET, leased)))
    assert diff(running(now), named, {}) == (changes.AddAllowedIp(ALICE, leased),)
    other = tunnel(PeerConfig(ALICE, allowed_ips=(NET,)), PeerConfig(BOB, allowed_ips=(leased,)))
    assert changes.AddAllowedIp(BOB, leased) in diff(running(now), other, {})


def test_a_peer_that_the_file_names_becomes_the_configurations() -> None:
    snapshot = running(PeerSnapshot(BOB, owner=Owner.LEASE, allowed_ips=(NET,)))
    assert diff(snapshot, tunnel(PeerConfig(BOB, allowed_ips=(NET,))), {}) == (
        changes.AddPeer(BOB, Owner.CONFIG),
    )


def test_a_prefix_moves_in_one_step() -> None:
    snapshot = running(PeerSnapshot(ALICE, allowed_ips=(NET,)), PeerSnapshot(BOB))
    config = tunnel(PeerConfig(ALICE), PeerConfig(BOB, allowed_ips=(NET,)))
    assert diff(snapshot, config, {}) == (changes.AddAllowedIp(BOB, NET),)


@pytest.mark.parametrize(
    ("before", "session_age", "moves"),
    [
        (HostPort("home", 51820), 5, False),  # roamed, and in session: leave it alone
        (HostPort("home", 51820), None, True),  # no session: what the name says now is better
        (HostPort("old", 51820), 5, True),  # the file changed: that is an order
        (None, 5, True),
    ],
)
def test_a_peer_that_roamed_is_called_back_only_by_a_change_of_the_file(
    before: HostPort | None, session_age: int | None, moves: bool
) -> None:
    config = tunnel(PeerConfig(ALICE, endpoint=HostPort("home", 51820)))
    previous = tunnel(PeerConfig(ALICE, endpoint=before))
    snapshot = running(PeerSnapshot(ALICE, endpoint=AWAY, session_age=session_age))
    plan = diff(snapshot, config, {ALICE: HOME}, previous=previous)
    assert plan == ((changes.SetEndpoint(ALICE, HOME),) if moves else ())


# --- any tunnel, any file ---


@dataclass
class Tunnel:
    """What the docstrings of model.changes say, in the plainest form."""

    private_key: PrivateKey | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: dict[PublicKey, PeerSnapshot] = field(default_factory=dict)

    def apply(self, plan: Plan) -> None:
        for change in plan:
            if isinstance(change, changes.SetPrivateKey):
                self.private_key = change.key
            elif isinstance(change, changes.SetListenPort):
                self.listen_port = change.port
            elif isinstance(change, changes.SetFwmark):
                self.fwmark = change.mark
            elif isinstance(change, changes.AddPeer):
                known = self.peers.get(change.peer, PeerSnapshot(change.peer))
                self.peers[change.peer] = replace(known, owner=change.owner)
            elif isinstance(change, changes.RemovePeer):
                self.peers.pop(change.peer, None)
            else:
                self.apply_to_peer(change)

    def apply_to_peer(self, change: changes.Change) -> None:
        peer = self.peers[change.peer]  # type: ignore[union-attr]
        if isinstance(change, changes.SetName):
            peer = replace(peer, name=change.name)
        elif isinstance(change, changes.SetPresharedKey):
            peer = replace(peer, preshared_key=change.key)
        elif isinstance(change, changes.SetEndpoint):
            peer = replace(peer, endpoint=change.endpoint)
        elif isinstance(change, changes.SetPersistentKeepalive):
            peer = replace(peer, persistent_keepalive=change.seconds)
        elif isinstance(change, changes.RemoveAllowedIp):
            kept = tuple(prefix for prefix in peer.allowed_ips if prefix != change.prefix)
            peer = replace(peer, allowed_ips=kept)
        elif isinstance(change, changes.AddAllowedIp):
            for key, other in self.peers.items():
                kept = tuple(prefix for prefix in other.allowed_ips if prefix != change.prefix)
                self.peers[key] = replace(other, allowed_ips=kept)
            mine = self.peers[peer.public_key]
            peer = replace(mine, allowed_ips=(*mine.allowed_ips, change.prefix))
        else:
            raise AssertionError(change)
        self.peers[peer.public_key] = peer

    def snapshot(self) -> TunnelSnapshot:
        return TunnelSnapshot(
            "wg0",
            self.private_key,
            self.listen_port,
            self.fwmark,
            peers=tuple(self.peers.values()),
        )


@st.composite
def configurations(draw: st.DrawFn) -> TunnelConfig:
    keys = draw(st.lists(st.sampled_from([ALICE, BOB, CAROL]), unique=True))
    free = draw(st.permutations([Prefix.parse(f"10.{n}.0.0/16") for n in range(5)]))
    peers = []
    for key in keys:
        count = draw(st.integers(0, min(2, len(free))))
        mine, free = free[:count], free[count:]
        peers.append(
            PeerConfig(
                key,
                name=draw(st.sampled_from(["", "x"])),
                preshared_key=draw(st.sampled_from([None, PSK])),
                endpoint=draw(st.sampled_from([None, HostPort("home", 51820)])),
                allowed_ips=tuple(mine),
                persistent_keepalive=draw(st.sampled_from([0, 25])),
            )
        )
    return tunnel(
        *peers,
        private_key=draw(st.sampled_from([None, OWN])),
        listen_port=draw(st.sampled_from([None, 1, 2])),
        fwmark=draw(st.sampled_from([0, 3])),
    )


endpoints = st.dictionaries(st.sampled_from([ALICE, BOB, CAROL]), st.sampled_from([HOME, AWAY]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(configurations(), endpoints), min_size=1, max_size=4))
def test_a_reload_leads_from_any_file_to_any_other(
    files: list[tuple[TunnelConfig, dict[PublicKey, Endpoint]]],
) -> None:
    live = Tunnel()
    for config, resolved in files:
        before = live.snapshot()
        plan = diff(before, config, resolved)
        live.apply(plan)

        assert {key: (p.name, p.preshared_key, p.persistent_keepalive, set(p.allowed_ips))
                for key, p in live.peers.items()} == {
            p.public_key: (p.name, p.preshared_key, p.persistent_keepalive, set(p.allowed_ips))
            for p in config.peers
        }  # fmt: skip
        assert live.fwmark == config.interface.fwmark
        assert config.interface.listen_port in (None, live.listen_port)
        assert config.interface.private_key in (None, live.private_key)
        for peer in config.peers:
            if peer.endpoint and peer.public_key in resolved:
                assert live.peers[peer.public_key].endpoint == resolved[peer.public_key]

        unchanged = {p.public_key for p in before.peers if live.peers.get(p.public_key) == p}
        assert not {getattr(change, "peer", None) for change in plan} & unchanged
        assert diff(live.snapshot(), config, resolved) == ()
