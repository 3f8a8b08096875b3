"""What every datapath must do, driven through its descriptors alone.

The same sentences hold for each implementation and for each of its ways through the
kernel: a datapath that is not here has not been shown to be one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Iterator

import pytest

from nvpn.datapath.api import (
    Activity,
    Counters,
    DataReceived,
    DataSent,
    DestroyPeer,
    DeviceGone,
    DropStaged,
    EndpointRoamed,
    EraseKeys,
    HandshakeReceived,
    HandshakeWanted,
    InsertPrefix,
    KeypairConfirmed,
    KeypairGone,
    PeerId,
    ReplaceSockets,
    Role,
    SendHandshake,
    SendKeepalive,
    SetAdmission,
    SetMtu,
    SetPeerEndpoint,
    StopSending,
    Watch,
    Why,
)
from nvpn.datapath.ports import NO_OFFLOADS
from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.prefixes import Prefix
from nvpn.transport.udp import open_udp
from nvpn.wire.crypto import mac
from tests.support.cores import ipv4, ipv6
from tests.support.datapaths import SETUPS, Correspondent, Rig, Setup
from tests.support.segments import ACK, FLOWS, PSH, Flow

setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
families = pytest.mark.parametrize("version", [4, 6], ids=["outside ipv4", "outside ipv6"])


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig(request.param) as made:
        yield made


def to(number: int, size: int = 64, version: int = 4) -> bytes:
    """A packet from the host to correspondent ``number``."""
    data = random.Random(size).randbytes(size)
    if version == 4:
        return ipv4("10.0.0.1", f"10.0.{number}.2", data)
    return ipv6("fd00::1", f"fd00:{number}::2", data)


def coming_from(number: int, size: int = 64, version: int = 4, tos: int = 0) -> bytes:
    """A packet from correspondent ``number`` to the host."""
    data = random.Random(size).randbytes(size)
    if version == 4:
        return ipv4(f"10.0.{number}.2", "10.0.0.1", data, tos=tos)
    return ipv6(f"fd00:{number}::2", "fd00::1", data, tos=tos)


# --- packets --------------------------------------------------------------------------


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


# --- sessions -------------------------------------------------------------------------


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


# --- what must not get in -------------------------------------------------------------


def test_replays_are_dropped_in_whatever_company(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    datagrams = [peer.packet_from(coming_from(1, 1000)) for _ in range(20)]
    peer.send_merged(datagrams)
    rig.take(20)
    peer.send_merged(datagrams)
    peer.send(*datagrams)
    rig.until(lambda: rig.datapath.drops().get(DropReason.REPLAYED, 0) == 40, "the drop of 40")
    rig.settle()
    assert rig.delivered == []


def test_reordered_packets_are_accepted_once(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    packets = [coming_from(1, 400 + number) for number in range(100)]
    datagrams = [peer.packet_from(packet) for packet in packets]
    order = random.Random(5).sample(range(100), 100)
    peer.send(*(datagrams[i] for i in order))
    assert rig.take(100) == [packets[i] for i in order]


def test_forged_packets_change_nothing(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    before = rig.datapath.activity(peer.peer), rig.datapath.counters(peer.peer)
    forger = Correspondent(rig, PeerId(99), 4, "127.0.0.66")
    genuine = peer.packet_from(coming_from(1, 500))
    for position in (16, 100, -1):
        forged = bytearray(genuine)
        forged[position] ^= 1
        forger.send(bytes(forged))
    rig.until(lambda: rig.datapath.drops().get(DropReason.BAD_TAG, 0) == 3, "the drop of 3")
    rig.settle()
    assert (rig.datapath.activity(peer.peer), rig.datapath.counters(peer.peer)) == before
    assert rig.events == []
    assert forger.silent()
    forger.socket.close()
    peer.send(genuine)
    assert rig.take(1) == [coming_from(1, 500)]


def test_a_peer_may_only_speak_for_addresses_routed_to_it(rig: Rig) -> None:
    owner, subnet = rig.correspondent(1), rig.correspondent(2)
    rig.tell(InsertPrefix(owner.peer, Prefix.parse("10.0.0.0/8")))
    owner.establish()
    subnet.establish()
    owner.send(owner.packet_from(coming_from(2)))
    owner.send(owner.packet_from(ipv4("192.0.2.1", "10.0.0.1")))
    owner.send(owner.seal(b"\x45" * 64), owner.seal(b"\x00" * 16))
    owner.send(owner.packet_from(coming_from(7)))
    assert rig.take(1) == [coming_from(7)]
    assert rig.datapath.drops() == {DropReason.SOURCE_NOT_ALLOWED: 2, DropReason.BAD_INNER: 2}


@families
def test_strangers_get_no_answer_and_cause_no_error(rig: Rig, version: int) -> None:
    peer = rig.correspondent(1, version)
    peer.establish()
    rig.tell(SetAdmission(bytes(32), bytes(32), bytes(32)))
    stranger = Correspondent(rig, PeerId(99), version, "")
    rng = random.Random(11)
    sizes = [*range(200), 1452, 9000, 60_000, 65_507 if version == 4 else 65_527]
    for size in sizes:
        data = bytearray(rng.randbytes(size))
        if size >= 4 and size % 3:
            data[:4] = bytes([rng.randrange(1, 5), 0, 0, 0])
        stranger.send(bytes(data))
        if size % 20 == 0:
            rig.turn()
    rig.until(lambda: sum(rig.datapath.drops().values()) >= len(sizes), "the drop of all")
    assert sum(rig.datapath.drops().values()) == len(sizes)
    assert stranger.silent()
    stranger.socket.close()
    peer.send(peer.packet_from(coming_from(1)))
    assert rig.take(1) == [coming_from(1)]


# --- where peers are ------------------------------------------------------------------


@families
def test_an_authentic_packet_from_elsewhere_moves_the_endpoint(rig: Rig, version: int) -> None:
    peer = rig.correspondent(1, version)
    peer.establish()
    peer.move()
    rig.now += SECOND
    peer.send(peer.packet_from(coming_from(1)))
    roamed = rig.take_event(EndpointRoamed)
    assert isinstance(roamed, EndpointRoamed)
    assert roamed.endpoint.remote == peer.endpoint.remote
    assert roamed.endpoint.learned_at == rig.now
    rig.send(to(1))
    peer.take_plain(1)


def test_a_peer_may_change_its_family(rig: Rig) -> None:
    peer = rig.correspondent(1, 4)
    peer.establish()
    for version in (6, 4, 6):
        peer.version = version
        peer.move()
        peer.send_merged([peer.packet_from(coming_from(1, 300)) for _ in range(5)])
        rig.take(5)
        rig.send(to(1))
        peer.take_plain(1)


def test_new_sockets_carry_on_where_the_old_ones_stopped(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    old, rig.sockets = rig.sockets, open_udp()
    try:
        rig.tell(ReplaceSockets(rig.sockets.ipv4, rig.sockets.ipv6))
        rig.send(to(1))
        ((datagram, sender, _),) = peer.take(1)
        assert peer.open(datagram)
        assert sender.port == rig.sockets.port
        peer.send(peer.packet_from(coming_from(1)))
        assert rig.take(1) == [coming_from(1)]
        rig.tell(ReplaceSockets(-1, -1))
        rig.send(to(1))
        assert peer.silent()
        assert rig.datapath.drops() == {DropReason.SEND_FAILED: 1}
        rig.tell(ReplaceSockets(rig.sockets.ipv4, rig.sockets.ipv6))
        os.fstat(old.ipv4)
    finally:
        old.close()


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_that_nobody_is_routed_is_refused_to_its_sender(rig: Rig, version: int) -> None:
    packet = to(200, 64, version)
    rig.send(packet)
    (answer,) = rig.take(1)
    assert packet in answer
    assert rig.datapath.drops() == {DropReason.NO_ROUTE: 1}


# --- handshakes -----------------------------------------------------------------------


def initiation(key: bytes, seed: int = 1) -> bytes:
    """148 bytes that pass admission, and nothing more."""
    body = b"\1\0\0\0" + random.Random(seed).randbytes(112)
    return body + mac(key, body) + bytes(16)


MAC1_KEY = hashlib.blake2s(b"mac1").digest()
ADMIT = SetAdmission(MAC1_KEY, bytes(32), bytes(32))


@families
def test_a_handshake_message_is_handed_up_with_where_it_came_from(rig: Rig, version: int) -> None:
    rig.tell(ADMIT)
    peer = rig.correspondent(1, version)
    message = initiation(MAC1_KEY)
    target = "127.0.0.5" if version == 4 else "::1"
    peer.send(message, to=target)
    event = rig.take_event(HandshakeReceived)
    assert isinstance(event, HandshakeReceived)
    assert event.datagram == message
    assert event.received_at == rig.now
    assert event.endpoint.remote == peer.endpoint.remote
    assert event.endpoint.source is not None
    assert len(event.endpoint.source.address) == (4 if version == 4 else 16)
    if version == 4:
        assert event.endpoint.source.address == bytes([127, 0, 0, 5])


def test_a_handshake_message_among_data_is_found(rig: Rig) -> None:
    rig.tell(ADMIT)
    peer = rig.correspondent()
    peer.establish()
    packet = coming_from(1, 148 - 32 - 20)
    datagrams = [peer.seal(packet) for _ in range(10)]
    assert {len(datagram) for datagram in datagrams} == {148}
    datagrams[4] = initiation(MAC1_KEY)
    peer.send_merged(datagrams)
    rig.take_event(HandshakeReceived)
    assert rig.take(9) == [packet] * 9


@families
def test_handshakes_leave_as_they_are_with_their_own_class(rig: Rig, version: int) -> None:
    peer = rig.correspondent(1, version)
    rig.tell(SendHandshake(peer.peer, b"\1" + bytes(147)))
    ((datagram, _, tos),) = peer.take(1)
    assert datagram == b"\1" + bytes(147)
    assert tos == 0x88
    assert rig.datapath.counters(peer.peer).tx_bytes == 148


def test_a_keypair_is_in_place_before_the_response_that_announces_it(rig: Rig) -> None:
    peer = rig.correspondent()
    rig.tell(peer.keypair(Role.RESPONDER), SendHandshake(peer.peer, b"\2" + bytes(91)))
    peer.take(1)
    peer.send(peer.packet_from(coming_from(1)))
    assert rig.take(1) == [coming_from(1)]


def test_a_flood_of_handshakes_does_not_stop_packets(rig: Rig) -> None:
    rig.tell(ADMIT)
    peer = rig.correspondent()
    peer.establish()
    flooder = Correspondent(rig, PeerId(99), 4, "127.0.0.66")
    flooder.send(*(initiation(MAC1_KEY, seed) for seed in range(300)))
    peer.send(*(peer.packet_from(coming_from(1, 100 + n)) for n in range(50)))
    rig.take(50)
    rig.settle()
    handshakes = [event for event in rig.events if isinstance(event, HandshakeReceived)]
    assert max(rig.taken) <= 16, "few at a time: each costs the protocol a millisecond"
    assert handshakes
    flooder.socket.close()


# --- what the protocol watches --------------------------------------------------------


def test_data_is_reported_once_until_somebody_watches_it(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    rig.settle()
    rig.events.clear()
    for _ in range(20):
        rig.send(to(1))
    peer.take(20)
    assert rig.take_event(DataSent) == DataSent(peer.peer)
    assert rig.events == []
    assert rig.datapath.activity(peer.peer).data_sent_at == rig.now

    rig.datapath.watch(peer.peer, Watch.DATA_SENT, True)
    rig.now += SECOND
    peer.send(*(peer.packet_from(coming_from(1)) for _ in range(20)))
    rig.take(20)
    assert rig.take_event(DataReceived) == DataReceived(peer.peer)
    activity = rig.datapath.activity(peer.peer)
    assert (activity.data_sent_at, activity.data_received_at) == (0, rig.now)
    rig.send(to(1))
    peer.take(1)
    rig.settle()
    assert rig.events == []

    rig.datapath.watch(peer.peer, Watch.DATA_SENT, False)
    rig.send(to(1))
    assert rig.take_event(DataSent) == DataSent(peer.peer)


def test_keepalives_are_no_data(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    rig.settle()
    rig.events.clear()
    rig.now += SECOND
    peer.send(peer.seal(b""))
    rig.until(lambda: rig.datapath.activity(peer.peer).last_received_at == rig.now)
    assert rig.datapath.activity(peer.peer).data_received_at == 0
    assert rig.delivered == []
    assert rig.events == []


def test_traffic_is_counted_as_it_is_on_the_wire(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    for _ in range(10):
        rig.send(to(1, 80))
    peer.take(10)
    peer.send_merged([peer.packet_from(coming_from(1, 200)) for _ in range(10)])
    rig.take(10)
    padded_in, padded_out = 224 + 32, 112 + 32
    assert rig.datapath.counters(peer.peer) == Counters(
        rx_bytes=10 * padded_in, tx_bytes=32 + 10 * padded_out, rx_packets=10, tx_packets=11
    )


def test_what_the_socket_did_not_take_is_no_traffic(rig: Rig) -> None:
    peer = rig.correspondent()
    peer.establish()
    before = rig.datapath.counters(peer.peer)
    broadcast = Endpoint.parse("255.255.255.255:9")  # which a socket must be allowed to use
    rig.tell(SetPeerEndpoint(peer.peer, broadcast._replace(learned_at=rig.now + 1)))
    for _ in range(10):
        rig.send(to(1, 80))
    rig.tell(SendKeepalive(peer.peer), SendHandshake(peer.peer, b"\1" + bytes(147)))
    rig.settle()
    assert rig.datapath.drops()[DropReason.SEND_FAILED] == 12
    assert rig.datapath.counters(peer.peer) == before


# --- the end --------------------------------------------------------------------------


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
