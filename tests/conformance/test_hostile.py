"""Hostile bytes against a live datapath: nothing raised, nobody answered, memory flat.

NVPN_FUZZ_DATAGRAMS sets how many; a million take half a minute.
"""

from __future__ import annotations

import os
import random
import resource
import time

import pytest

from nvpn.datapath.commands import PeerId, SetAdmission
from tests.support.datapaths import SETUPS, Correspondent, Rig, Setup
from tests.support.segments import Flow

DATAGRAMS = int(os.environ.get("NVPN_FUZZ_DATAGRAMS", "10000"))
FLOW = Flow.of(4, 6, source="10.0.1.2", destination="10.0.0.1")


class Attacker:
    """Makes batches of datagrams: noise, damaged ones, and authentic ones around noise."""

    def __init__(self, rng: random.Random, peer: Correspondent) -> None:
        self.rng = rng
        self.peer = peer

    def batch(self) -> list[bytes]:
        make = self.rng.choice([self.noise, self.damaged, self.authentic_noise])
        return make(self.rng.randrange(1, 60))

    def noise(self, count: int) -> list[bytes]:
        rng = self.rng
        size = rng.choice([0, 1, 4, 31, 32, 33, 60, 64, 92, 148, rng.randrange(2000)])
        batch = []
        for _ in range(count):
            one = bytearray(rng.randbytes(size))
            if size >= 16 and rng.random() < 0.8:
                one[:4] = bytes([rng.choice([1, 2, 3, 4, 4, 4]), 0, 0, 0])
                if rng.random() < 0.5:
                    one[4:8] = self.peer.their_index.to_bytes(4, "little")
            batch.append(bytes(one))
        return batch

    def damaged(self, count: int) -> list[bytes]:
        rng = self.rng
        packets = [FLOW.packet(bytes(300), sequence=300 * index) for index in range(count)]
        batch = [bytearray(self.peer.packet_from(packet)) for packet in packets]
        for one in batch:
            if rng.random() < 0.1:
                one[rng.randrange(len(one))] ^= 1 << rng.randrange(8)
        return list(map(bytes, batch))

    def authentic_noise(self, count: int) -> list[bytes]:
        """What a peer could send that has gone mad, or over to the enemy."""
        rng = self.rng
        size = rng.choice([0, 16, 32, 48, 64, 160])
        first = rng.choice([0x45, 0x60, 0x46, rng.randrange(256)])
        return [
            self.peer.seal(bytes([first]) + rng.randbytes(size - 1) if size else b"")
            for _ in range(count)
        ]


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_hostile_bytes_change_nothing(setup: Setup) -> None:
    seed = int(os.environ.get("NVPN_FUZZ_SEED", time.time_ns() % 10**9))
    print(f"NVPN_FUZZ_SEED={seed}")
    rng = random.Random(seed)
    with Rig(setup) as rig:
        peer, stranger = rig.correspondent(1), Correspondent(rig, PeerId(99), 4, "127.0.0.66")
        peer.establish()
        rig.tell(SetAdmission(bytes(32), bytes(32), bytes(32)))
        attacker = Attacker(rng, peer)
        sent, halfway = 0, 0
        while sent < DATAGRAMS:
            batch = attacker.batch()
            sent += len(batch)
            sender = rng.choice([peer, peer, stranger])
            if batch[0] and len(batch) * len(batch[0]) < 65_000 and rng.random() < 0.6:
                sender.send_merged(batch)
            else:
                sender.send(*batch)
            rig.turn(2)
            rig.delivered.clear()
            rig.events.clear()
            # Whatever is authentic moves the endpoint; the peer's own socket has it back.
            list(peer.receive())
            if sent > DATAGRAMS // 2 and not halfway:
                halfway = _resident_kib()
        rig.settle()
        if DATAGRAMS >= 1_000_000:
            assert _resident_kib() - halfway < 4096
        answers = [data for data, _, _ in stranger.receive() if data[:1] in (b"\1", b"\2", b"\3")]
        assert answers == []
        stranger.socket.close()

        rig.delivered.clear()
        peer.send(peer.packet_from(FLOW.packet(b"still here")))
        rig.until(lambda: FLOW.packet(b"still here") in rig.delivered, "the last packet")


def _resident_kib() -> int:
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * (resource.getpagesize() // 1024)
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
