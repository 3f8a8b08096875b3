"""Peers that are reached by a descriptor instead of UDP, whatever is at its other end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from nvpn.datapath.commands import (
    AddPath,
    RemovePath,
    SendHandshake,
    SetAdmission,
    SetPeerEndpoint,
)
from nvpn.datapath.events import EndpointRoamed, HandshakeReceived
from nvpn.errors import DropReason
from nvpn.model.endpoint import Endpoint
from tests.support.datapaths import SETUPS, Correspondent, Rig
from tests.support.talk import MAC1_KEY, coming_from, initiation, to

PATH = 7
HERE = Endpoint(b"", 0, path=PATH)


class Relay:
    """The other end of a path, with a peer behind it."""

    def __init__(self, rig: Rig, path: int = PATH) -> None:
        self.rig = rig
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setblocking(False)
        self.far.setblocking(False)
        rig.tell(AddPath(path, self.near.fileno()))

    def received(self) -> list[bytes]:
        """What the datapath has sent here."""
        self.rig.settle()
        datagrams = []
        while True:
            try:
                datagram = self.far.recv(1 << 16)
            except BlockingIOError:
                return datagrams
            datagrams.append(datagram)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig(request.param) as made:
        yield made


@pytest.fixture
def relay(rig: Rig) -> Iterator[Relay]:
    made = Relay(rig)
    yield made
    rig.datapath.close()
    made.close()


def behind(relay: Relay) -> Correspondent:
    """A peer with a session, at the other end."""
    peer = relay.rig.correspondent()
    relay.rig.tell(SetPeerEndpoint(peer.peer, HERE._replace(learned_at=relay.rig.now)))
    relay.rig.tell(peer.keypair())
    assert [peer.open(one) for one in relay.received()] == [b""]
    return peer


def test_packets_pass_in_both_directions(rig: Rig, relay: Relay) -> None:
    peer = behind(relay)
    for size in (0, 100, 1380):
        packets = [to(1, size) for _ in range(5)]
        for packet in packets:
            rig.send(packet)
        plains = [peer.open(datagram) for datagram in relay.received()]
        assert [plain[: len(packets[0])] for plain in plains] == packets
        packets = [coming_from(1, size + n) for n in range(5)]
        for packet in packets:
            relay.far.send(peer.packet_from(packet))
        assert rig.take(5) == packets
    assert rig.datapath.drops() == {}
    assert peer.silent(), "nothing goes to UDP"


def test_a_peer_that_comes_by_a_path_is_answered_there(rig: Rig, relay: Relay) -> None:
    peer = rig.correspondent()
    peer.establish()
    relay.far.send(peer.packet_from(coming_from(1)))
    roamed = rig.take_event(EndpointRoamed)
    assert isinstance(roamed, EndpointRoamed)
    assert roamed.endpoint == HERE._replace(learned_at=rig.now)
    rig.send(to(1))
    (datagram,) = relay.received()
    assert peer.open(datagram)
    assert peer.silent()

    peer.send(peer.packet_from(coming_from(1)))
    rig.take(2)
    rig.send(to(1))
    peer.take_plain(1)
    assert relay.received() == []


def test_handshakes_pass_in_both_directions(rig: Rig, relay: Relay) -> None:
    peer = behind(relay)
    rig.tell(SetAdmission(MAC1_KEY, bytes(32), bytes(32)))
    rig.tell(SendHandshake(peer.peer, b"\1" + bytes(147)))
    assert relay.received() == [b"\1" + bytes(147)]
    relay.far.send(initiation(MAC1_KEY))
    event = rig.take_event(HandshakeReceived)
    assert isinstance(event, HandshakeReceived)
    assert event.endpoint == HERE._replace(learned_at=rig.now)


def test_a_flood_by_a_path_is_asked_for_cookies_there(rig: Rig, relay: Relay) -> None:
    rig.tell(SetAdmission(MAC1_KEY, bytes(32), bytes(32)))
    rig.datapath.on_events = None
    for seed in range(200):
        relay.far.send(initiation(MAC1_KEY, seed))
        if seed % 50 == 0:
            rig.settle()
    replies = relay.received()
    assert replies
    assert {(len(reply), reply[0]) for reply in replies} == {(64, 3)}


def test_a_path_that_is_full_drops_and_counts_and_stops_nobody(rig: Rig, relay: Relay) -> None:
    behind(relay)
    for number in range(2000):
        rig.send(to(1, 1000))
        if number % 100 == 0:
            rig.settle()
    rig.settle()
    lost = rig.datapath.drops()[DropReason.SEND_FAILED]
    assert lost
    assert len(relay.received()) + lost == 2000
    other = rig.correspondent(2)
    other.establish()
    rig.send(to(2))
    other.take_plain(1)


def test_a_path_whose_other_end_is_closed_is_left_alone(rig: Rig, relay: Relay) -> None:
    behind(relay)
    relay.far.close()
    rig.settle()
    rig.send(to(1))
    rig.until(lambda: rig.datapath.drops() != {}, "the drop")
    assert rig.datapath.drops() == {DropReason.SEND_FAILED: 1}
    other = rig.correspondent(2)
    other.establish()
    other.send(other.packet_from(coming_from(2)))
    rig.take(1)


def test_a_path_that_was_removed_is_neither_read_nor_written(rig: Rig, relay: Relay) -> None:
    peer = behind(relay)
    rig.tell(RemovePath(PATH))
    rig.send(to(1))
    assert relay.received() == []
    assert rig.datapath.drops() == {DropReason.SEND_FAILED: 1}
    relay.far.send(peer.packet_from(coming_from(1)))
    rig.settle()
    assert rig.delivered == []
    os.fstat(relay.near.fileno())
    rig.tell(RemovePath(PATH), RemovePath(99))

    again = Relay(rig)
    rig.send(to(1))
    assert len(again.received()) == 1
    rig.tell(RemovePath(PATH))
    again.close()


def test_paths_and_sockets_are_not_mistaken(rig: Rig, relay: Relay) -> None:
    relays = [relay, Relay(rig, 8), Relay(rig, 9)]
    peers = [rig.correspondent(number) for number in range(1, 4)]
    for peer, path in zip(peers, (7, 8, 9), strict=True):
        endpoint = Endpoint(b"", 0, path=path, learned_at=rig.now)
        rig.tell(SetPeerEndpoint(peer.peer, endpoint), peer.keypair())
    for each in relays:
        each.received()
    rig.tell(RemovePath(8))
    for number in range(1, 4):
        rig.send(to(number))
    assert [len(each.received()) for each in relays] == [1, 0, 1]
    relays[2].far.send(peers[2].packet_from(coming_from(3)))
    assert rig.take(1) == [coming_from(3)]
    rig.tell(RemovePath(9))
    relays[1].close()
    relays[2].close()
