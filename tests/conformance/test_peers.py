"""Whom every datapath believes, where it looks for them, and what it says of them."""

from __future__ import annotations

import os
import random

import pytest

from nvpn.datapath.api import Counters, Watch
from nvpn.datapath.commands import (
    InsertPrefix,
    PeerId,
    ReplaceSockets,
    SendHandshake,
    SendKeepalive,
    SetAdmission,
    SetPeerEndpoint,
)
from nvpn.datapath.events import DataReceived, DataSent, EndpointRoamed
from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.prefixes import Prefix
from nvpn.transport.udp import open_udp
from tests.support.cores import ipv4
from tests.support.datapaths import Correspondent, Rig
from tests.support.talk import (
    coming_from,
    families,
    to,
)

# --- what must not get in --------------------------------------------------------------


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


# --- where peers are -------------------------------------------------------------------


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


# --- what the protocol watches ---------------------------------------------------------


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
