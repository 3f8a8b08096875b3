"""Packets from the TUN device: where they go, how they are sealed, what waits."""

from __future__ import annotations

import pytest

from nvpn.datapath.commands import (
    DestroyPeer,
    DropStaged,
    EraseKeys,
    InsertPrefix,
    InstallKeypair,
    PeerId,
    ReplaceSockets,
    Role,
    SendHandshake,
    SendKeepalive,
    SetMtu,
    SetPeerEndpoint,
    StopSending,
)
from nvpn.datapath.events import DataSent, HandshakeWanted, KeypairGone, Why
from nvpn.datapath.icmp import unreachable
from nvpn.datapath.python.core import Outgoing
from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Source
from nvpn.model.prefixes import Prefix
from nvpn.wire.constants import REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES
from tests.support.cores import THEM, Ends, endpoint, ipv4, ipv6, only
from tests.support.vectors import unhex, vectors

NO_KEY = HandshakeWanted(THEM, Why.NO_KEY)


# --- sealing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vector",
    [v for v in vectors()["transport"] if v["direction"] == "i->r"],
    ids=lambda v: v["what"],
)
def test_each_transport_vector_leaves_byte_for_byte(vector: dict[str, object]) -> None:
    ends = Ends(session=False)
    session = vectors()["handshakes"][1]
    ours, theirs = unhex(
        session, "transport_key_initiator_to_responder", "transport_key_responder_to_initiator"
    )
    inner, message = unhex(vector, "inner", "message")
    install = InstallKeypair(
        THEM, Role.INITIATOR, 1, 0xAABBCCDD, bytearray(ours), bytearray(theirs), ends.now
    )
    ends.tell(
        ends.alice,
        InsertPrefix(THEM, Prefix.parse("10.9.0.2/32")),
        SetMtu(int(str(vector["mtu"]))),
        install,
    )
    ends.alice.take_datagrams()
    current = ends.alice.peers[THEM].slots.current
    assert current is not None
    current.next_counter = int(str(vector["counter"]))
    if inner:
        ends.alice.send_inner(inner, ends.now)
    else:
        ends.tell(ends.alice, SendKeepalive(THEM))
    (sent,) = ends.alice.take_datagrams()
    assert sent.datagram == message


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 1371, 1372, 1379, 1380, 2000, 65000])
def test_what_alice_sends_bob_gets(make: object, size: int) -> None:
    ends = Ends()
    packet = make(payload=(bytes(range(256)) * 256)[:size], protocol=17)  # type: ignore[operator]
    ends.alice.send_inner(packet, ends.now)
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == [packet]
    assert not ends.alice.drops()
    assert not ends.bob.drops()


def test_lengths_on_the_wire_are_padded_within_the_mtu() -> None:
    ends = Ends(mtu=1420)
    sizes = [len(ends.seal(ipv4(payload=bytes(n - 20)))) for n in (20, 61, 1409, 1420)]
    assert sizes == [32 + 32, 64 + 32, 1420 + 32, 1420 + 32]
    ends.tell(ends.alice, SetMtu(1299))
    assert len(ends.seal(ipv4(payload=bytes(1297 - 20)))) == 1299 + 32


def test_a_memoryview_is_as_good_as_bytes_and_is_not_kept() -> None:
    ends = Ends()
    packet = ipv4(payload=b"before")
    buffer = bytearray(packet)
    ends.alice.send_inner(memoryview(buffer), ends.now)
    buffer[:] = bytes(len(buffer))
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == [packet]


@pytest.mark.parametrize(("inner", "outer"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_data_hides_its_class_and_shows_its_mark(inner: int, outer: int) -> None:
    ends = Ends()
    for make in (ipv4, ipv6):
        ends.alice.send_inner(make(tos=0xB8 | inner), ends.now)
    assert [sent.tos for sent in ends.alice.take_datagrams()] == [outer, outer]


def test_handshakes_are_marked_af41_and_keepalives_are_not() -> None:
    ends = Ends()
    ends.tell(ends.alice, SendHandshake(THEM, bytes(148)), SendKeepalive(THEM))
    handshake, keepalive = ends.alice.take_datagrams()
    assert handshake == Outgoing(ends.bob_at, bytes(148), 0x88, THEM)
    assert (len(keepalive.datagram), keepalive.tos) == (32, 0)


# --- nowhere to go --------------------------------------------------------------------


@pytest.mark.parametrize("packet", [ipv4(destination="10.0.0.3"), ipv6(destination="fd00::3")])
def test_without_a_route_the_sender_is_told(packet: bytes) -> None:
    ends = Ends()
    ends.alice.send_inner(packet, ends.now)
    assert ends.alice.take_datagrams() == []
    assert ends.alice.take_inner() == [unreachable(packet)]
    assert ends.alice.drops() == {DropReason.NO_ROUTE: 1}


def test_without_an_endpoint_the_sender_is_told_and_nothing_waits() -> None:
    ends = Ends()
    ends.tell(ends.alice, SetPeerEndpoint(THEM, None))
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_inner() == [unreachable(ipv4())]
    assert ends.alice.drops() == {DropReason.NO_ENDPOINT: 1}
    assert ends.alice.take_events() == []
    ends.tell(ends.alice, SendKeepalive(THEM), SendHandshake(THEM, bytes(148)))
    assert ends.alice.take_datagrams() == []


def test_unreachables_are_rationed_and_drops_are_all_counted() -> None:
    ends = Ends()
    for _ in range(500):
        ends.alice.send_inner(ipv4(destination="10.9.9.9"), ends.now)
    assert len(ends.alice.take_inner()) == 50
    assert ends.alice.drops() == {DropReason.NO_ROUTE: 500}


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(100), b"\xff" * 100, ipv4()[:19]])
def test_what_is_not_ip_is_dropped(packet: bytes) -> None:
    ends = Ends()
    ends.alice.send_inner(packet, ends.now)
    assert ends.alice.drops() == {DropReason.BAD_INNER: 1}
    assert ends.alice.take_datagrams() == []


def test_what_no_datagram_can_hold_is_dropped() -> None:
    ends = Ends(mtu=65535)
    largest = 65507 - 32
    ends.alice.send_inner(ipv4(payload=bytes(65472 - 20)), ends.now)
    assert [len(sent.datagram) for sent in ends.alice.take_datagrams()] == [65472 + 32]
    ends.alice.send_inner(ipv4(payload=bytes(largest + 1 - 20)), ends.now)
    assert ends.alice.take_datagrams() == []
    assert ends.alice.drops() == {DropReason.TOO_BIG: 1}
    ends.tell(
        ends.alice,
        SetPeerEndpoint(THEM, endpoint("[2001:db8::2]:1")._replace(learned_at=ends.now)),
    )
    ends.alice.send_inner(ipv4(payload=bytes(65488 - 20)), ends.now)
    assert [len(sent.datagram) for sent in ends.alice.take_datagrams()] == [65488 + 32]


# --- waiting for a key ----------------------------------------------------------------


def test_without_a_key_packets_wait_and_a_handshake_is_wanted_once() -> None:
    ends = Ends(session=False)
    packets = [ipv4(payload=bytes([n])) for n in range(5)]
    for packet in packets:
        ends.alice.send_inner(packet, ends.now)
    assert ends.alice.take_datagrams() == []
    assert ends.alice.take_events() == [NO_KEY]

    ends.establish()
    sent = ends.carry(ends.alice, ends.bob)
    assert len(sent) == 5
    assert ends.bob.take_inner() == packets
    assert ends.alice.take_events() == [DataSent(THEM)]


def test_with_nothing_staged_a_new_session_is_confirmed_by_one_keepalive() -> None:
    ends = Ends(session=False)
    ends.establish()
    assert [len(sent.datagram) for sent in ends.alice.take_datagrams()] == [32]
    assert ends.alice.take_events() == []
    assert ends.bob.take_datagrams() == []


def test_of_200_packets_the_newest_128_leave_in_order() -> None:
    ends = Ends(session=False)
    packets = [ipv4(payload=n.to_bytes(2, "big")) for n in range(200)]
    for packet in packets:
        ends.alice.send_inner(packet, ends.now)
    ends.establish()
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == packets[72:]
    assert ends.alice.drops() == {DropReason.STAGING_FULL: 72}


def test_a_responder_does_not_send_before_the_session_is_confirmed() -> None:
    ends = Ends(session=False)
    ends.bob.send_inner(ipv4("10.0.0.2", "10.0.0.1"), ends.now)
    assert ends.bob.take_events() == [NO_KEY]
    ends.establish()
    ends.bob.send_inner(ipv6("fd00::2", "fd00::1"), ends.now)
    assert ends.bob.take_datagrams() == []

    ends.carry(ends.alice, ends.bob)
    assert len(ends.carry(ends.bob, ends.alice)) == 2
    assert ends.alice.take_inner() == [
        ipv4("10.0.0.2", "10.0.0.1"),
        ipv6("fd00::2", "fd00::1"),
    ]


def test_giving_up_drops_what_waits_and_the_next_packet_asks_again() -> None:
    ends = Ends(session=False)
    for _ in range(3):
        ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_events() == [NO_KEY]
    ends.tell(ends.alice, DropStaged(THEM))
    assert ends.alice.drops() == {DropReason.HANDSHAKE_FAILED: 3}
    ends.alice.send_inner(ipv4(payload=b"anew"), ends.now)
    assert ends.alice.take_events() == [NO_KEY]
    ends.establish()
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == [ipv4(payload=b"anew")]


def test_a_keepalive_without_a_key_wants_a_handshake() -> None:
    ends = Ends(session=False)
    ends.tell(ends.alice, SendKeepalive(THEM), SendKeepalive(THEM))
    assert ends.alice.take_events() == [NO_KEY]
    assert ends.alice.take_datagrams() == []


def test_an_endpoint_that_comes_late_sets_waiting_packets_free() -> None:
    ends = Ends(session=False)
    ends.alice.send_inner(ipv4(), ends.now)
    ends.tell(ends.alice, SetPeerEndpoint(THEM, None))
    ends.establish()
    assert ends.alice.take_datagrams() == []
    ends.tell(ends.alice, SetPeerEndpoint(THEM, ends.bob_at))
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == [ipv4()]


# --- the age of a key, and its counter ------------------------------------------------


def test_at_180_seconds_packets_are_staged_and_a_handshake_is_wanted() -> None:
    ends = Ends()
    ends.now += 180 * SECOND - 1
    ends.alice.send_inner(ipv4(), ends.now)
    assert len(ends.alice.take_datagrams()) == 1
    ends.alice.take_events()
    ends.now += 1
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_datagrams() == []
    assert ends.alice.take_events() == [NO_KEY]


def test_the_initiator_renews_at_the_first_send_after_120_seconds() -> None:
    ends = Ends()
    wanted = []
    for second in (119, 120, 121, 130, 150):
        at = ends.now + second * SECOND
        for sender, other in ((ends.alice, "10.0.0.2"), (ends.bob, "10.0.0.1")):
            sender.send_inner(ipv4(destination=other), at)
            wanted.append((second, only(sender.take_events(), HandshakeWanted)))
    assert [entry for entry in wanted if entry[1]] == [
        (120, [HandshakeWanted(THEM, Why.OLD_SENDING)])
    ]


def test_a_keepalive_counts_as_sending() -> None:
    ends = Ends()
    ends.now += 120 * SECOND
    ends.tell(ends.alice, SendKeepalive(THEM))
    assert ends.alice.take_events() == [HandshakeWanted(THEM, Why.OLD_SENDING)]


def test_after_2_to_the_60_messages_either_side_renews_once() -> None:
    ends = Ends()
    for core, other in ((ends.alice, "10.0.0.2"), (ends.bob, "10.0.0.1")):
        current = core.peers[THEM].slots.current
        assert current is not None
        current.next_counter = REKEY_AFTER_MESSAGES - 1
        told = []
        for _ in range(4):
            core.send_inner(ipv4(destination=other), ends.now)
            told.append(only(core.take_events(), HandshakeWanted))
        assert told == [[], [HandshakeWanted(THEM, Why.MANY_MESSAGES)], [], []]


def test_at_the_last_counter_nothing_is_sealed_any_more() -> None:
    ends = Ends()
    current = ends.alice.peers[THEM].slots.current
    assert current is not None
    current.next_counter = REJECT_AFTER_MESSAGES - 1
    for _ in range(3):
        ends.alice.send_inner(ipv4(), ends.now)
    assert len(ends.alice.take_datagrams()) == 1
    assert current.next_counter == REJECT_AFTER_MESSAGES
    assert len(ends.alice.peers[THEM].staged) == 2
    assert NO_KEY in ends.alice.take_events()


def test_when_our_key_changes_sending_stops_and_receiving_goes_on() -> None:
    ends = Ends()
    late = ends.seal(ipv4("10.0.0.2", "10.0.0.1"), ends.bob)
    _, for_next = ends.keypairs()
    ends.tell(ends.alice, for_next, StopSending(THEM))
    assert ends.alice.take_events() == [KeypairGone(THEM, for_next.our_index)]
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_datagrams() == []
    assert ends.alice.take_events() == [NO_KEY]
    ends.alice.receive(late, ends.bob_at, ends.now)
    assert len(ends.alice.take_inner()) == 1


def test_erased_keys_are_zeroed_and_reported() -> None:
    ends = Ends(session=False)
    for_alice, _ = ends.keypairs()
    ends.tell(ends.alice, for_alice)
    ends.alice.take_datagrams()
    ends.tell(ends.alice, EraseKeys(THEM))
    assert ends.alice.take_events() == [KeypairGone(THEM, for_alice.our_index)]
    assert for_alice.send_key == for_alice.receive_key == bytes(32)
    assert ends.alice.receivers == {}
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_events() == [NO_KEY]


def test_a_destroyed_peer_leaves_nothing() -> None:
    ends = Ends(session=False)
    for_alice, _ = ends.keypairs()
    ends.alice.send_inner(ipv4(), ends.now)
    _, for_next = ends.keypairs()
    ends.tell(ends.alice, for_alice, for_next)
    ends.alice.take_datagrams()
    ends.alice.take_events()
    ends.tell(ends.alice, SetPeerEndpoint(THEM, ends.bob_at), DestroyPeer(THEM))
    assert ends.alice.take_events() == []
    for install in (for_alice, for_next):
        assert install.send_key == install.receive_key == bytes(32)
    assert (ends.alice.receivers, ends.alice.peers, len(ends.alice.routes)) == ({}, {}, 0)
    assert ends.alice._staging.used == 0
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.drops() == {DropReason.NO_ROUTE: 1}


def test_what_names_an_unknown_peer_is_ignored_and_its_keys_are_zeroed() -> None:
    ends = Ends(session=False)
    nobody = PeerId(99)
    install = InstallKeypair(
        nobody, Role.INITIATOR, 1, 2, bytearray(b"k" * 32), bytearray(b"k" * 32), ends.now
    )
    ends.tell(
        ends.alice,
        install,
        SendKeepalive(nobody),
        SendHandshake(nobody, bytes(148)),
        InsertPrefix(nobody, Prefix.parse("10.9.0.0/16")),
        DestroyPeer(nobody),
    )
    assert install.send_key == install.receive_key == bytes(32)
    assert ends.alice.take_datagrams() == []
    assert ends.alice.take_events() == []
    assert len(ends.alice.routes) == 2


def test_closing_zeroes_every_key() -> None:
    ends = Ends(session=False)
    for_alice, _ = ends.keypairs()
    ends.tell(ends.alice, for_alice)
    ends.alice.close()
    assert for_alice.send_key == for_alice.receive_key == bytes(32)


# --- our own address ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["retry", "sockets", "error"])
def test_a_sticky_source_is_given_up(how: str) -> None:
    ends = Ends()
    sticky = ends.bob_at._replace(source=Source(b"\xc0\0\2\1", 3), learned_at=ends.now)
    ends.tell(ends.alice, SetPeerEndpoint(THEM, sticky), SendHandshake(THEM, bytes(148)))
    assert [sent.endpoint for sent in ends.alice.take_datagrams()] == [sticky]
    if how == "retry":
        ends.tell(ends.alice, SendHandshake(THEM, bytes(148), forget_source=True))
    elif how == "sockets":
        ends.tell(ends.alice, ReplaceSockets(-1, -1), SendHandshake(THEM, bytes(148)))
    else:
        ends.alice.forget_source(THEM)
        ends.tell(ends.alice, SendHandshake(THEM, bytes(148)))
    (sent,) = ends.alice.take_datagrams()
    assert sent.endpoint.source is None
    assert sent.endpoint.remote == ends.bob_at.remote
