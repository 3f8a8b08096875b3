"""Handshake messages pass every datapath whole, in both directions, and at no packet's expense."""

from __future__ import annotations

from nvpn.datapath.commands import PeerId, ReplaceSockets, Role, SendHandshake
from nvpn.datapath.events import HandshakeReceived
from tests.support.datapaths import Correspondent, Rig
from tests.support.talk import (
    ADMIT,
    MAC1_KEY,
    coming_from,
    families,
    initiation,
)


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


def test_copies_of_a_handshake_go_to_other_places_and_the_endpoint_stays(rig: Rig) -> None:
    peer, other, third = rig.correspondent(1), rig.correspondent(2), rig.correspondent(3, 6)
    message = b"\1" + bytes(147)
    rig.tell(SendHandshake(peer.peer, message, also=(other.endpoint, third.endpoint)))
    for somebody in (peer, other, third):
        ((datagram, _, tos),) = somebody.take(1)
        assert (datagram, tos) == (message, 0x88)
    assert rig.datapath.counters(peer.peer).tx_bytes == 3 * 148
    assert rig.datapath.counters(other.peer).tx_bytes == 0

    rig.tell(SendHandshake(peer.peer, message))
    peer.take(1)
    rig.settle()
    assert not list(other.receive()) and not list(third.receive())


def test_a_copy_for_a_family_without_a_socket_is_a_drop_and_costs_the_others_nothing(
    rig: Rig,
) -> None:
    peer, other = rig.correspondent(1), rig.correspondent(2)
    unreachable = rig.correspondent(3, 6).endpoint
    rig.tell(ReplaceSockets(rig.sockets.ipv4, -1))
    message = b"\1" + bytes(147)
    rig.tell(SendHandshake(peer.peer, message, also=(unreachable, other.endpoint)))
    peer.take(1)
    other.take(1)
    rig.settle()
    assert sum(rig.datapath.drops().values()) == 1


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
