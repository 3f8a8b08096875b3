"""Packets that waited for a session leave before those that come after them."""

from __future__ import annotations

import random

import pytest

from nvpn.datapath.commands import ReplaceSockets, Role
from nvpn.model.clock import SECOND
from tests.support.datapaths import SETUPS, Rig, Setup
from tests.support.segments import Flow

ROUNDS = 10
SIZE = 100


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_what_a_confirmation_sets_free_is_not_overtaken(setup: Setup) -> None:
    """Neither by single packets nor by superpackets, which may take a shorter way."""
    flow = Flow.of(4, 17, source="10.0.0.1", destination="10.0.1.2")
    packets = flow.segments(random.Random(3).randbytes(SIZE * 17), SIZE)
    superpackets = [packets[5:11], packets[12:17]]
    assert [len(set(map(len, one))) for one in superpackets] == [1, 1]
    with Rig(setup) as rig:
        peer = rig.correspondent(1)
        off, on = ReplaceSockets(-1, -1), ReplaceSockets(rig.sockets.ipv4, rig.sockets.ipv6)

        def send_merged(at: int, count: int) -> None:
            if not setup.vnet_hdr:
                for packet in packets[at : at + count]:
                    rig.send(packet)
                return
            data = b"".join(one[flow.head_size :] for one in packets[at : at + count])
            header, packet = flow.superpacket(data, SIZE)
            rig.send(packet, header)

        for _ in range(ROUNDS):
            rig.tell(peer.keypair(Role.RESPONDER), off)
            for packet in packets[:4]:
                rig.send(packet)
            rig.settle()
            # The confirmation and what comes after it wait together: one turn takes both.
            peer.send(peer.seal(b""))
            rig.datapath.apply([on])
            rig.send(packets[4])
            send_merged(5, 6)
            rig.send(packets[11])
            send_merged(12, 5)
            plains = peer.take_plain(17)
            assert [plain[: len(packets[0])] for plain in plains] == packets
            rig.now += 181 * SECOND  # nothing is sent under this session any more
