"""Prefixes beside the allowed IPs: what is diverted goes by them, and they are shown nowhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.commands import CreatePeer, DeletePrefix, DestroyPeer, InsertPrefix, PeerId
from nvpn.model.clock import Now
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.protocol.device import Device
from nvpn.protocol.tai64n import TimestampSource
from tests.support.recorder import Recorder

NOW = Now(1, 1)
KEYS = [PublicKey(bytes([n]) * 32) for n in range(1, 4)]


def derived(key: PublicKey) -> Prefix:
    return Prefix(6, (0xFE80 << 112) + bytes(key)[0], 128)


class Table:
    """What a datapath would route by, from the commands that it is given."""

    def __init__(self) -> None:
        self.device = Device(
            datapath=Recorder(), random=lambda size: bytes(size), timestamps=TimestampSource()
        )
        self._routes: dict[tuple[Prefix, bool], PeerId] = {}
        self._peers: set[PeerId] = set()

    def routes(self) -> dict[tuple[Prefix, bool], PublicKey]:
        """Whose a prefix is, and whether for what is diverted only."""
        for command in self.device.take_commands():
            if isinstance(command, CreatePeer):
                self._peers.add(command.peer)
            elif isinstance(command, DestroyPeer):
                self._peers.discard(command.peer)
                for route in [key for key, at in self._routes.items() if at == command.peer]:
                    del self._routes[route]
            elif isinstance(command, InsertPrefix):
                assert command.peer in self._peers
                self._routes[command.prefix, command.diverted] = command.peer
            elif isinstance(command, DeletePrefix):
                assert self._routes.pop((command.prefix, command.diverted)) == command.peer
        found = {route: self.device.public_key_of(peer) for route, peer in self._routes.items()}
        return {route: key for route, key in found.items() if key is not None}


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "allow", "disallow", "open", "close"]),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=30,
)


@given(STEPS)
def test_a_derived_prefix_is_its_peers_whoever_else_is_allowed_it(steps: list[Step]) -> None:
    table = Table()
    device = table.device
    is_open = False
    for step, which, whose in steps:
        key, prefix = KEYS[which], derived(KEYS[whose])
        if step == "add":
            device.add_peer(key)
        elif step == "remove":
            device.remove_peer(key, NOW)
        elif step == "allow":
            device.add_allowed_ip(key, prefix)
        elif step == "disallow":
            device.remove_allowed_ip(key, prefix)
        else:
            is_open = step == "open"
            device.derive_prefixes(derived if is_open else None)
            for peer in device.peers():
                (device.give_derived_prefix if is_open else device.take_derived_prefix)(peer)
        wanted = {
            (one, False): peer for peer in device.peers() for one in device.allowed_ips(peer)
        }
        if is_open:
            wanted |= {(derived(peer), True): peer for peer in device.peers()}
        assert table.routes() == wanted


def test_nobody_sees_it() -> None:
    table = Table()
    table.device.add_peer(KEYS[0])
    table.device.derive_prefixes(derived)
    table.device.give_derived_prefix(KEYS[0])
    assert table.routes() == {(derived(KEYS[0]), True): KEYS[0]}
    assert table.device.allowed_ips(KEYS[0]) == ()
    assert table.device.peer_state(KEYS[0]).allowed_ips == ()


def test_who_is_gone_has_no_key() -> None:
    table = Table()
    table.device.add_peer(KEYS[0])
    peer_id = table.device.peer_state(KEYS[0]).peer_id
    assert table.device.public_key_of(peer_id) == KEYS[0]
    table.device.remove_peer(KEYS[0], NOW)
    assert table.device.public_key_of(peer_id) is None
    table.device.give_derived_prefix(KEYS[0])
    table.device.take_derived_prefix(KEYS[0])
