"""Packets that waited for a session leave before those that come after them."""

from __future__ import annotations

import pytest

from nvpn.datapath.api import ReplaceSockets, Role
from nvpn.model.clock import SECOND
from tests.support.cores import ipv4
from tests.support.datapaths import SETUPS, Rig, Setup

ROUNDS = 30


def numbered(number: int) -> bytes:
    return ipv4("10.0.0.1", "10.0.1.2", number.to_bytes(4, "big") + bytes(24))


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_what_a_confirmation_sets_free_is_not_overtaken(setup: Setup) -> None:
    # Only chance brings the confirmation and more packets into one turn: many tries.
    with Rig(setup) as rig:
        peer = rig.correspondent(1)
        off, on = ReplaceSockets(-1, -1), ReplaceSockets(rig.sockets.ipv4, rig.sockets.ipv6)
        for _ in range(ROUNDS):
            rig.tell(peer.keypair(Role.RESPONDER), off)
            packets = [numbered(number) for number in range(12)]
            for packet in packets[:4]:
                rig.send(packet)
            rig.settle()
            peer.send(peer.seal(b""))
            rig.datapath.apply([on])
            for packet in packets[4:]:
                rig.send(packet)
            plains = peer.take_plain(12)
            assert [plain[:48] for plain in plains] == packets
            rig.now += 181 * SECOND  # nothing is sent under this session any more
