"""What every datapath must do, driven through its descriptors alone.

The same sentences hold for each implementation and for each of its ways through the
kernel: a datapath that is not here has not been shown to be one.
"""

from __future__ import annotations

import errno
import os
import random

import pytest

from nvpn.datapath.api import Activity, Counters
from nvpn.datapath.commands import (
    DestroyPeer,
    DropStaged,
    EraseKeys,
    InsertPrefix,
    Role,
    SendKeepalive,
    SetMtu,
    StopSending,
)
from nvpn.datapath.events import DeviceGone, HandshakeWanted, KeypairConfirmed, KeypairGone, Why
from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.prefixes import Prefix
from tests.support.cores import ipv4
from tests.support.datapaths import NO_OFFLOADS, SETUPS, Rig, Setup
from tests.support.segments import ACK, FLOWS, PSH, Flow
from tests.support.talk import (
    coming_from,
    families,
    setups,
    to,
)

# --- packets ---------------------------------------------------------------------------


@families
def test_packets_of_every_size_pass_in_both_directions(rig: Rig, version: int) -> None:
    peer = rig.correspondent(1, version)
    peer.establish()
    for inside in (4, 6):
        sizes = [*range(0, 100, 7), 500, 1000, 1379, 1380, 1400 if inside == 4 else 1380]
        for size in sizes:
            packet = to(1, size, inside)
            rig.send(packet)
            (plain,) = peer.take_plain(1)
            assert plain[: len(packet)] == packet
            assert len(plain) == min(1420, -(-len(packet) // 16) * 16)
            assert not any(plain[len(packet) :])

            packet = coming_from(1, size, inside)
            peer.send(peer.packet_from(packet))
            assert rig.take(1) == [packet]
    assert rig.datapath.drops() == {}


@families
def test_a_burst_keeps_its_order_in_both_directions(rig: Rig, version: int) -> None:
    peer = rig.correspondent(1, version)
    peer.establish()
    packets = [to(1, size) for size in [1300] * 30 + [20, 1300] * 10 + [700] * 30]
    for packet in packets:
        rig.send(packet)
    plains = peer.take_plain(len(packets))
    assert [plain[: len(packet)] for plain, packet in zip(plains, packets, strict=True)] == packets

    packets = [coming_from(1, size) for size in [1300] * 30 + [20, 1300] * 10 + [700] * 30]
    peer.send(*map(peer.packet_from, packets))
    assert rig.take(len(packets)) == packets


@families
@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_superpackets_leave_as_the_packets_they_stand_for(version: int, flow: Flow) -> None:
    for setup in SETUPS:
        if not setup.vnet_hdr:
            continue
        with Rig(setup) as rig:
            peer = rig.correspondent(1, version)
            peer.establish()
            rig.tell(
                InsertPrefix(peer.peer, Prefix.parse("10.0.0.0/24")),
                InsertPrefix(peer.peer, Prefix.parse("fd00::/64")),
            )
            gso_size = 1420 - flow.head_size
            data = random.Random(1).randbytes(gso_size * 44 + 100)
            header, packet = flow.superpacket(data, gso_size, flags=ACK | PSH)
            rig.send(packet, header)
            packets = flow.segments(data, gso_size, flags=ACK | PSH)
            plains = peer.take_plain(45)
            assert plains == [one + bytes(-len(one) % 16 * (len(one) < 1420)) for one in packets]


@families
@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_a_train_in_one_read_arrives_whole_and_in_order(
    rig: Rig, version: int, flow: Flow
) -> None:
    peer = rig.correspondent(1, version)
    peer.establish()
    back = Flow.of(
        flow.version,
        flow.protocol,
        source="10.0.1.2" if flow.version == 4 else "fd00:1::2",
        destination="10.0.0.1" if flow.version == 4 else "fd00::1",
    )
    packets = back.segments(random.Random(2).randbytes(1300 * 40), 1300)
    peer.send_merged([peer.packet_from(packet) for packet in packets])
    assert rig.take(40) == packets


def test_peers_of_both_families_and_many_addresses_are_never_mistaken(rig: Rig) -> None:
    """With merged datagrams on both sides: source data belongs to every segment."""
    peers = [
        rig.correspondent(number, version, host)
        for number, (version, host) in enumerate(
            [(4, "127.0.0.1"), (6, "::1"), (4, "127.0.0.9"), (6, "::1")], start=1
        )
    ]
    targets = ["127.0.0.1", "::1", "127.0.0.2", "::1"]
    for peer in peers:
        peer.establish()
    for round_ in range(3):
        for number, (peer, target) in enumerate(zip(peers, targets, strict=True), start=1):
            packets = [coming_from(number, 1000 + round_) for _ in range(8)]
            peer.send_merged([peer.packet_from(packet) for packet in packets], to=target)
            assert rig.take(8) == packets
        for number in range(1, 5):
            for _ in range(5):
                rig.send(to(number, 900))
        for peer, target in zip(peers, targets, strict=True):
            for datagram, sender, _ in peer.take(5):
                assert peer.open(datagram)
                # The address that the peer's packets came to is the one they are answered from.
                assert str(sender).rpartition(":")[0].strip("[]") == target
    assert rig.datapath.drops() == {}


@families
def test_congestion_marks_cross_in_both_directions(rig: Rig, version: int) -> None:
    peer = rig.correspondent(1, version)
    peer.establish()
    for inner, outer in ((0, 0), (1, 1), (2, 2), (3, 2), (0xB8, 0), (0xBA, 2)):
        rig.send(ipv4("10.0.0.1", "10.0.1.2", b"x" * 50, tos=inner))
        ((_, _, tos),) = peer.take(1)
        assert tos == outer
    peer.send(peer.packet_from(coming_from(1, tos=2)), tos=3)
    (packet,) = rig.take(1)
    assert packet == coming_from(1, tos=3)
    peer.send(peer.packet_from(coming_from(1, tos=0)), tos=3)
    rig.until(lambda: rig.datapath.drops() != {}, "the drop")
    assert rig.datapath.drops() == {DropReason.BAD_INNER: 1}


def test_padding_follows_the_mtu(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    for mtu in (100, 111, 1420):
        rig.tell(SetMtu(mtu))
        rig.send(to(1, 79))
        assert [len(plain) for plain in peer.take_plain(1)] == [min(112, mtu)]


# --- sessions --------------------------------------------------------------------------


def test_without_a_key_packets_wait_and_the_newest_leave_in_order(rig: Rig) -> None:
    peer = rig.correspondent()
    packets = [to(1, 100 + number) for number in range(200)]
    for packet in packets:
        rig.send(packet)
    assert rig.take_event(HandshakeWanted) == HandshakeWanted(peer.peer, Why.NO_KEY)
    rig.settle()
    assert rig.events == [], "it is said once"
    rig.tell(peer.keypair())
    plains = peer.take_plain(128)
    assert [plain[:20] for plain in plains] == [packet[:20] for packet in packets[-128:]]
    assert rig.datapath.drops() == {DropReason.STAGING_FULL: 72}
    assert peer.silent()


def test_a_handshake_given_up_drops_what_waits_and_may_be_asked_for_again(rig: Rig) -> None:
    peer = rig.correspondent()
    rig.send(to(1))
    rig.take_event(HandshakeWanted)
    rig.tell(DropStaged(peer.peer))
    assert rig.datapath.drops() == {DropReason.HANDSHAKE_FAILED: 1}
    rig.send(to(1))
    rig.take_event(HandshakeWanted)


def test_a_responder_waits_for_the_first_packet_and_then_sends_what_waits(rig: Rig) -> None:
    peer = rig.correspondent()
    rig.send(to(1, 77))
    rig.take_event(HandshakeWanted)
    rig.tell(peer.keypair(Role.RESPONDER))
    assert peer.silent()
    peer.send(peer.seal(b""))
    confirmed = rig.take_event(KeypairConfirmed)
    assert confirmed == KeypairConfirmed(peer.peer, peer.their_index, rig.now)
    assert peer.take_plain(1)[0][:97] == to(1, 77)
    rig.settle()
    assert rig.delivered == []


def test_old_keys_neither_send_nor_receive(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    rig.now += 120 * SECOND
    rig.send(to(1))
    peer.take_plain(1)
    assert rig.take_event(HandshakeWanted) == HandshakeWanted(peer.peer, Why.OLD_SENDING)
    rig.now += 45 * SECOND
    peer.send(peer.packet_from(coming_from(1)))
    rig.take(1)
    assert rig.take_event(HandshakeWanted) == HandshakeWanted(peer.peer, Why.OLD_RECEIVING)
    rig.now += 15 * SECOND
    peer.send(peer.packet_from(coming_from(1)))
    rig.until(lambda: rig.datapath.drops() != {}, "the drop")
    assert rig.datapath.drops() == {DropReason.KEY_EXPIRED: 1}
    rig.send(to(1))
    assert peer.silent()


def test_a_keypair_that_goes_is_zeroed_and_its_index_told(rig: Rig) -> None:
    peer = rig.correspondent()
    first = peer.keypair()
    rig.tell(first)
    peer.take_plain(1)
    rig.tell(EraseKeys(peer.peer))
    assert rig.take_event(KeypairGone) == KeypairGone(peer.peer, first.our_index)
    assert not any(first.send_key) and not any(first.receive_key)
    peer.send(peer.packet_from(coming_from(1)))
    rig.until(lambda: rig.datapath.drops() != {}, "the drop")
    assert rig.datapath.drops() == {DropReason.UNKNOWN_INDEX: 1}


def test_a_stopped_key_still_receives(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    rig.tell(StopSending(peer.peer))
    rig.send(to(1))
    rig.take_event(HandshakeWanted)
    assert peer.silent()
    peer.send(peer.packet_from(coming_from(1)))
    assert rig.take(1) == [coming_from(1)]


def test_after_a_removal_is_acknowledged_nothing_of_the_peer_is_left(rig: Rig) -> None:
    peer = rig.correspondent()
    install = peer.keypair()
    rig.tell(install)
    peer.take_plain(1)
    for _ in range(50):
        rig.send(to(1))
        peer.send(peer.packet_from(coming_from(1)))
    rig.tell(DestroyPeer(peer.peer))
    assert not any(install.send_key) and not any(install.receive_key)
    list(peer.receive())
    rig.delivered.clear()
    rig.send(to(1))
    assert peer.silent()
    assert rig.datapath.counters(peer.peer) == Counters()
    assert rig.datapath.activity(peer.peer) == Activity()


def test_keepalives_are_sealed_on_request(rig: Rig) -> None:
    peer = rig.correspondent()
    rig.tell(SendKeepalive(peer.peer))
    assert rig.take_event(HandshakeWanted) == HandshakeWanted(peer.peer, Why.NO_KEY)
    peer.establish()
    rig.tell(SendKeepalive(peer.peer))
    assert peer.take_plain(1) == [b""]


def test_counters_never_repeat_under_a_key(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    for number in range(300):
        rig.send(to(1, 40 + number % 3))
    datagrams = [datagram for datagram, _, _ in peer.take(300)]
    counters = [int.from_bytes(datagram[8:16], "little") for datagram in datagrams]
    assert counters == list(range(1, 301))


# --- the end ---------------------------------------------------------------------------


def test_a_deleted_device_is_reported_once_and_not_read_again(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    rig.delete_device()
    gone = rig.take_event(DeviceGone)
    assert gone == DeviceGone(errno.ENODEV)
    peer.send(peer.packet_from(coming_from(1)))
    rig.settle()
    assert rig.events == [] or not any(isinstance(one, DeviceGone) for one in rig.events)


def test_a_closed_datapath_has_zeroed_its_keys_and_left_its_descriptors_open(rig: Rig) -> None:
    peer = rig.correspondent()
    install = peer.keypair()
    rig.tell(install)
    peer.take_plain(1)
    rig.datapath.close()
    assert not any(install.send_key) and not any(install.receive_key)
    for fd in (rig.tun.fd, rig.sockets.ipv4):
        os.fstat(fd)
    rig.send(to(1))
    peer.send(peer.packet_from(coming_from(1)))
    assert peer.silent()
    assert rig.delivered == []
    acknowledged: list[None] = []
    rig.datapath.apply([SendKeepalive(peer.peer)], lambda: acknowledged.append(None))
    rig.until(lambda: bool(acknowledged))
    rig.datapath.close()


@setups
def test_it_says_what_it_uses(setup: Setup) -> None:
    with Rig(setup) as rig:
        assert rig.datapath.describe().startswith(f"{setup.implementation} (")
        if not setup.vnet_hdr:
            assert "TSO" not in rig.datapath.describe()
        if setup.offloads == NO_OFFLOADS:
            assert rig.datapath.describe() == f"{setup.implementation} (no offloads)"
