"""Datagrams from the socket: what is accepted, in which order it is judged, what follows."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.api import (
    Activity,
    Counters,
    CreatePeer,
    DataReceived,
    DataSent,
    DestroyPeer,
    EndpointRoamed,
    EraseKeys,
    HandshakeReceived,
    HandshakeWanted,
    InsertPrefix,
    InstallKeypair,
    KeypairConfirmed,
    KeypairGone,
    PeerId,
    Role,
    SendHandshake,
    SendKeepalive,
    SetAdmission,
    SetPeerEndpoint,
    Touch,
    Watch,
)
from nvpn.datapath.python.core import Core
from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint, Source
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.wire.constants import COOKIE_REPLY_BURST, REJECT_AFTER_MESSAGES
from nvpn.wire.crypto import cookie_key, mac, mac1_key
from nvpn.wire.messages import (
    CookieReply,
    Initiation,
    Response,
    before_mac1,
    parse_handshake,
)
from tests.support.cores import THEM, Ends, endpoint, ipv4, ipv6, only
from tests.support.vectors import unhex, vectors

ELSEWHERE = endpoint("198.51.100.7:4242")


def receive(
    ends: Ends, datagram: bytes, at: Endpoint = Ends.alice_at, tos: int = 0
) -> list[bytes]:
    """Hand a datagram to Bob; returns what he writes to his TUN device."""
    ends.bob.receive(datagram, at, ends.now, tos=tos)
    return ends.bob.take_inner()


def sealed_raw(ends: Ends, plain: bytes, counter: int | None = None) -> bytes:
    """Alice's datagram around any plaintext, well-formed or not, under any counter."""
    current = ends.alice.peers[THEM].slots.current
    assert current is not None
    if counter is None:
        counter = current.reserve(1, ends.now)
    body = bytearray(len(plain) + 16)
    nonce = bytes(4) + counter.to_bytes(8, "little")
    current.seal(nonce, plain, None, body)
    return current.header + nonce[4:] + bytes(body)


def session_of_the_vectors() -> Ends:
    """Bob is the responder of the vectors, in session with their initiator."""
    ends = Ends(session=False)
    session = vectors()["handshakes"][1]
    theirs, ours, public = unhex(
        session,
        "transport_key_initiator_to_responder",
        "transport_key_responder_to_initiator",
        "responder_static_public",
    )
    ends.tell(
        ends.bob,
        SetAdmission(mac1_key(public), cookie_key(public), bytes(32)),
        InsertPrefix(THEM, Prefix.parse("10.9.0.1/32")),
        InstallKeypair(
            THEM,
            Role.RESPONDER,
            0xAABBCCDD,
            0x11223344,
            bytearray(ours),
            bytearray(theirs),
            ends.now,
        ),
    )
    return ends


# --- what is accepted -----------------------------------------------------------------


@pytest.mark.parametrize(
    "vector",
    [v for v in vectors()["transport"] if v["direction"] == "i->r"],
    ids=lambda v: v["what"],
)
def test_each_transport_vector_is_opened_and_trimmed(vector: dict[str, object]) -> None:
    ends = session_of_the_vectors()
    inner, message = unhex(vector, "inner", "message")
    assert receive(ends, message) == ([inner] if inner else [])
    assert not ends.bob.drops()
    assert receive(ends, message) == []
    assert ends.bob.drops() == {DropReason.REPLAYED: 1}


@pytest.mark.parametrize("vector", vectors()["must_drop"], ids=lambda v: v["what"])
def test_what_must_be_dropped_has_no_effect(vector: dict[str, str]) -> None:
    ends = session_of_the_vectors()
    (packet,) = unhex(vector, "packet")
    before = ends.bob.peers[THEM].slots.next
    assert receive(ends, packet, ELSEWHERE) == []
    assert ends.bob.take_datagrams() == []
    # With a good mac1 it takes the protocol to tell; everything else ends here.
    is_for_protocol = "mac1 valid" in vector["what"] or "mac1 made valid" in vector["what"]
    is_ours = vector["what"] != "response, empty tag flipped, mac1 valid"
    events = ends.bob.take_events()
    if is_for_protocol and is_ours:
        assert events == [
            HandshakeReceived(packet, ELSEWHERE._replace(learned_at=ends.now), ends.now)
        ]
    else:
        assert events == []
        assert sum(ends.bob.drops().values()) == 1
    assert ends.bob.counters(THEM) == Counters()
    assert ends.bob.activity(THEM) == Activity()
    assert ends.bob.peers[THEM].slots.next is before
    assert ends.bob.peers[THEM].endpoint == ends.alice_at


def test_a_keepalive_is_counted_and_delivers_nothing() -> None:
    ends = Ends()
    before = ends.bob.counters(THEM)
    ends.tell(ends.alice, SendKeepalive(THEM))
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_inner() == []
    assert ends.bob.take_events() == []
    assert ends.bob.counters(THEM) == before._replace(
        rx_bytes=before.rx_bytes + 32, rx_packets=before.rx_packets + 1
    )


def test_a_handshake_and_ten_pings_count_as_in_the_kernel() -> None:
    ends = Ends(session=False)
    ends.tell(ends.bob, Touch(THEM, 148, ends.now))
    ends.tell(ends.alice, SendHandshake(THEM, bytes(148)))
    for_alice, for_bob = ends.keypairs()
    ends.tell(ends.bob, for_bob, SendHandshake(THEM, bytes(92)))
    ends.alice.send_inner(ipv4(payload=bytes(64)), ends.now)
    ends.tell(ends.alice, Touch(THEM, 92, ends.now), for_alice)
    for _ in range(9):
        ends.alice.send_inner(ipv4(payload=bytes(64)), ends.now)
    # 84-byte pings become 96 + 32 on the wire.
    assert ends.alice.counters(THEM).tx_bytes == 148 + 10 * 128 == 1428
    assert ends.alice.counters(THEM).rx_bytes == 92
    assert ends.bob.counters(THEM)[:2] == (148, 92)


# --- the order of the checks ----------------------------------------------------------


def test_what_is_no_whole_message_is_malformed() -> None:
    ends = Ends()
    for datagram in (b"", b"\4", b"\4\0\0\0", b"\4\0\0\0" + bytes(27), b"\4\1\0\0" + bytes(60)):
        receive(ends, datagram)
    assert ends.bob.drops() == {DropReason.MALFORMED: 5}


def test_the_index_is_looked_up_first() -> None:
    ends = Ends()
    datagram = bytearray(ends.seal(ipv4()))
    datagram[4:8] = b"\xff" * 4
    ends.now += 500 * SECOND
    receive(ends, bytes(datagram))
    assert ends.bob.drops() == {DropReason.UNKNOWN_INDEX: 1}


def test_age_is_judged_before_the_tag() -> None:
    ends = Ends()
    good = ends.seal(ipv4(payload=b"1"))
    late = ends.seal(ipv4(payload=b"2"))
    ends.now += 180 * SECOND - 1
    assert receive(ends, good)
    ends.now += 1
    receive(ends, late)
    receive(ends, late[:-1] + b"\0")
    assert ends.bob.drops() == {DropReason.KEY_EXPIRED: 2}


@pytest.mark.parametrize("counter", [REJECT_AFTER_MESSAGES, 2**64 - 1])
def test_a_counter_at_the_limit_is_refused_though_it_is_authentic(counter: int) -> None:
    ends = Ends()
    receive(ends, sealed_raw(ends, ipv4(), counter))
    assert ends.bob.drops() == {DropReason.KEY_EXPIRED: 1}
    assert receive(ends, sealed_raw(ends, ipv4(), REJECT_AFTER_MESSAGES - 1))


def test_a_replay_is_judged_before_the_tag() -> None:
    ends = Ends()
    datagram = ends.seal(ipv4())
    receive(ends, datagram)
    receive(ends, datagram[:-1] + bytes([datagram[-1] ^ 1]))
    assert ends.bob.drops() == {DropReason.REPLAYED: 1}


def test_a_forged_counter_does_not_move_the_window() -> None:
    ends = Ends()
    forged = bytearray(ends.seal(ipv4()))
    forged[8:16] = (REJECT_AFTER_MESSAGES - 1).to_bytes(8, "little")
    receive(ends, bytes(forged))
    assert ends.bob.drops() == {DropReason.BAD_TAG: 1}
    assert receive(ends, ends.seal(ipv4()))


@pytest.mark.parametrize("bit", range(0, 8 * (32 + 32), 7))
def test_no_flipped_bit_is_accepted(bit: int) -> None:
    ends = Ends()
    datagram = bytearray(ends.seal(ipv4()))
    datagram[bit // 8] ^= 1 << bit % 8
    before = ends.bob.counters(THEM), ends.bob.activity(THEM)
    assert receive(ends, bytes(datagram), ELSEWHERE) == []
    assert sum(ends.bob.drops().values()) == 1
    assert (ends.bob.counters(THEM), ends.bob.activity(THEM)) == before
    assert ends.bob.take_events() == []
    assert ends.bob.take_datagrams() == []


@pytest.mark.parametrize("shift", [64, 9000])
def test_reordered_packets_are_each_delivered_once(shift: int) -> None:
    ends = Ends()
    datagrams = [ends.seal(ipv4(payload=n.to_bytes(2, "big"))) for n in range(2000)]
    rng = random.Random(shift)
    order = sorted(range(2000), key=lambda n: n + rng.randrange(shift))
    delivered = [packet for n in order for packet in receive(ends, datagrams[n])]
    again = [packet for n in order for packet in receive(ends, datagrams[n])]
    assert len(delivered) == len(set(delivered)) == 2000
    assert again == []
    assert ends.bob.drops() == {DropReason.REPLAYED: 2000}


# --- what is inside -------------------------------------------------------------------


@pytest.mark.parametrize(
    "plain",
    [b"\0", bytes(16), b"\x45" + bytes(31), ipv4(payload=b"abc")[:-1], b"\x75" + ipv4()[1:]],
)
def test_an_authentic_packet_with_a_bad_inside_is_dropped_but_counts(plain: bytes) -> None:
    ends = Ends()
    assert receive(ends, sealed_raw(ends, plain), ELSEWHERE) == []
    assert ends.bob.drops() == {DropReason.BAD_INNER: 1}
    assert ends.bob.peers[THEM].endpoint is not None
    assert ends.bob.peers[THEM].endpoint.remote == ELSEWHERE.remote
    assert DataReceived(THEM) in ends.bob.take_events()


@pytest.mark.parametrize("packet", [ipv4("10.0.0.3"), ipv6("fd00::3"), ipv4("10.0.0.2")])
def test_a_source_that_is_not_the_peers_is_dropped(packet: bytes) -> None:
    ends = Ends()
    assert receive(ends, sealed_raw(ends, packet)) == []
    assert ends.bob.drops() == {DropReason.SOURCE_NOT_ALLOWED: 1}


def test_the_owner_of_a_supernet_cannot_speak_for_a_subnet_of_another() -> None:
    ends = Ends()
    other = PeerId(2)
    ends.tell(
        ends.bob,
        CreatePeer(other),
        InsertPrefix(THEM, Prefix.parse("10.0.0.0/8")),
        InsertPrefix(other, Prefix.parse("10.7.0.0/16")),
    )
    assert receive(ends, sealed_raw(ends, ipv4("10.6.0.1")))
    assert receive(ends, sealed_raw(ends, ipv4("10.7.0.1"))) == []
    assert ends.bob.drops() == {DropReason.SOURCE_NOT_ALLOWED: 1}


def test_a_packet_is_cut_to_its_own_length() -> None:
    ends = Ends()
    for packet in (ipv4(payload=b"x"), ipv6(payload=b"y" * 9)):
        assert receive(ends, sealed_raw(ends, packet + b"\xaa" * 100)) == [packet]


def test_congestion_outside_shows_inside() -> None:
    ends = Ends()
    for make in (ipv4, ipv6):
        datagram = ends.seal(make(tos=2, payload=b"data"))
        assert receive(ends, datagram, tos=3) == [make(tos=3, payload=b"data")]


def test_congestion_that_the_packet_cannot_show_drops_it() -> None:
    ends = Ends()
    assert receive(ends, ends.seal(ipv4()), tos=3) == []
    assert ends.bob.drops() == {DropReason.BAD_INNER: 1}


# --- sessions -------------------------------------------------------------------------


def test_the_first_packet_under_next_promotes_it_and_sets_waiting_packets_free() -> None:
    ends = Ends(session=False)
    ends.bob.send_inner(ipv4("10.0.0.2", "10.0.0.1"), ends.now)
    ends.bob.take_events()
    ends.establish()
    confirming = ends.alice.take_datagrams()
    ends.deliver(ends.bob, confirming[0])
    index = 0xB0000001
    assert ends.bob.take_events() == [
        KeypairConfirmed(THEM, index, ends.now),
        DataSent(THEM),
    ]
    assert len(ends.bob.take_datagrams()) == 1
    ends.alice.send_inner(ipv4(), ends.now)
    ends.carry(ends.alice, ends.bob)
    assert only(ends.bob.take_events(), KeypairConfirmed) == []


def test_a_forged_packet_under_next_promotes_nothing() -> None:
    ends = Ends(session=False)
    ends.establish()
    (confirming,) = ends.alice.take_datagrams()
    receive(ends, confirming.datagram[:-1] + b"\0")
    assert ends.bob.take_events() == []
    assert ends.bob.peers[THEM].slots.current is None


def test_packets_under_the_previous_key_are_still_accepted() -> None:
    ends = Ends()
    old = [ends.seal(ipv4(payload=bytes([n]))) for n in range(3)]
    ends.establish()
    assert receive(ends, old[0])
    ends.settle()
    assert receive(ends, old[1])
    ends.establish()
    ends.settle()
    assert receive(ends, old[2]) == []
    assert ends.bob.drops() == {DropReason.UNKNOWN_INDEX: 1}


def test_each_keypair_is_reported_gone_exactly_once() -> None:
    ends = Ends(session=False)
    gone: dict[str, list[int]] = {"alice": [], "bob": []}
    for _ in range(6):
        ends.establish()
        ends.carry(ends.alice, ends.bob)
        for name, core in (("alice", ends.alice), ("bob", ends.bob)):
            events = only(core.take_events(), KeypairGone)
            gone[name] += [event.our_index for event in events if isinstance(event, KeypairGone)]
    assert gone["alice"] == [0xA0000000 + n for n in (1, 2, 3, 4)]
    assert gone["bob"] == [0xB0000000 + n for n in (1, 2, 3, 4)]
    assert len(ends.alice.receivers) == len(ends.bob.receivers) == 2


def test_an_initiator_that_only_receives_renews_once_at_165_seconds() -> None:
    ends = Ends()
    start, told = ends.now, []
    for second in (100, 130, 164, 165, 166, 179):
        ends.now = start + second * SECOND
        datagram = ends.seal(ipv4("10.0.0.2", "10.0.0.1"), ends.bob)
        ends.alice.receive(datagram, ends.bob_at, ends.now)
        if only(ends.alice.take_events(), HandshakeWanted):
            told.append(second)
    assert told == [165]


def test_a_responder_that_only_receives_renews_nothing() -> None:
    ends = Ends()
    ends.now += 170 * SECOND
    receive(ends, ends.seal(ipv4()))
    assert only(ends.bob.take_events(), HandshakeWanted) == []


def test_a_handshake_message_renews_nothing() -> None:
    ends = Ends()
    ends.now += 170 * SECOND
    ends.tell(ends.alice, Touch(THEM, 148, ends.now), SendHandshake(THEM, bytes(92)))
    assert ends.alice.take_events() == []


# --- roaming --------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [b"", ipv4(), b"\0" * 16])
def test_any_authentic_packet_moves_the_endpoint(plain: bytes) -> None:
    ends = Ends()
    here = ELSEWHERE._replace(source=Source(b"\xc0\0\2\2", 5))
    receive(ends, sealed_raw(ends, plain), here)
    moved = here._replace(learned_at=ends.now)
    assert EndpointRoamed(THEM, moved) in ends.bob.take_events()
    ends.tell(ends.bob, SendKeepalive(THEM))
    assert [sent.endpoint for sent in ends.bob.take_datagrams()] == [moved]


def test_a_replayed_packet_does_not_move_the_endpoint() -> None:
    ends = Ends()
    datagram = ends.seal(ipv4())
    receive(ends, datagram)
    receive(ends, datagram, ELSEWHERE)
    assert only(ends.bob.take_events(), EndpointRoamed) == []
    assert ends.bob.peers[THEM].endpoint == ends.alice_at


def test_staying_where_it_is_is_no_event() -> None:
    ends = Ends()
    for _ in range(3):
        receive(ends, ends.seal(ipv4()))
    assert only(ends.bob.take_events(), EndpointRoamed) == []


def test_our_own_address_follows_silently() -> None:
    ends = Ends()
    for number in (1, 2):
        source = Source(bytes((192, 0, 2, number)), 3)
        receive(ends, ends.seal(ipv4()), ends.alice_at._replace(source=source))
        known = ends.bob.peers[THEM].endpoint
        assert known is not None
        assert known.source == source
    assert only(ends.bob.take_events(), EndpointRoamed) == []


def test_of_two_endpoints_the_one_learned_later_wins() -> None:
    ends = Ends()
    seen_before = endpoint("203.0.113.1:1")._replace(learned_at=ends.now)
    ends.now += SECOND
    receive(ends, ends.seal(ipv4()))
    ends.tell(ends.bob, SetPeerEndpoint(THEM, seen_before))
    assert ends.bob.peers[THEM].endpoint == ends.alice_at
    ends.now += SECOND
    seen_after = seen_before._replace(learned_at=ends.now)
    ends.tell(ends.bob, SetPeerEndpoint(THEM, seen_after))
    assert ends.bob.peers[THEM].endpoint == seen_after


# --- instants and watches -------------------------------------------------------------


def test_instants_tell_what_is_unanswered() -> None:
    ends = Ends()
    t0 = ends.now

    def at(second: int) -> None:
        ends.now = t0 + second * SECOND

    at(1)
    ends.alice.send_inner(ipv4(), ends.now)
    at(2)
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.activity(THEM)[:2] == (t0 + 1 * SECOND, 0)
    assert ends.alice.activity(THEM).last_sent_at == t0 + 2 * SECOND
    ends.carry(ends.alice, ends.bob)
    assert ends.bob.activity(THEM) == Activity(
        0, t0 + 2 * SECOND, t0 + 2 * SECOND, 0, t0 + 2 * SECOND
    )
    at(3)
    ends.tell(ends.bob, SendKeepalive(THEM))
    assert ends.bob.activity(THEM).data_received_at == 0
    assert ends.bob.activity(THEM).data_sent_at == 0
    ends.carry(ends.bob, ends.alice)
    assert ends.alice.activity(THEM) == Activity(0, 0, 0, t0 + 2 * SECOND, t0 + 3 * SECOND)
    at(4)
    ends.alice.send_inner(ipv4(), ends.now)
    ends.tell(ends.alice, Touch(THEM, 148, ends.now))
    assert ends.alice.activity(THEM)[:2] == (0, 0)


def test_each_direction_is_told_once_until_it_is_watched_or_answered() -> None:
    ends = Ends()
    for _ in range(5):
        ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_events() == [DataSent(THEM)]
    ends.alice.watch(THEM, Watch.DATA_SENT, True)
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_events() == []
    # The timer fired, and gave up its watch: the next packet must be told.
    ends.alice.watch(THEM, Watch.DATA_SENT, False)
    ends.alice.send_inner(ipv4(), ends.now)
    ends.alice.send_inner(ipv4(), ends.now)
    assert ends.alice.take_events() == [DataSent(THEM)]

    ends.carry(ends.alice, ends.bob)
    assert ends.bob.take_events() == [DataReceived(THEM)]
    ends.bob.watch(THEM, Watch.DATA_RECEIVED, True)
    receive(ends, ends.seal(ipv4()))
    assert ends.bob.take_events() == []
    ends.bob.watch(THEM, Watch.DATA_RECEIVED, False)
    receive(ends, ends.seal(ipv4()))
    receive(ends, ends.seal(ipv4()))
    assert ends.bob.take_events() == [DataReceived(THEM)]


def test_a_keepalive_is_no_data_in_either_direction() -> None:
    ends = Ends()
    ends.tell(ends.alice, SendKeepalive(THEM))
    ends.carry(ends.alice, ends.bob)
    assert ends.alice.take_events() == ends.bob.take_events() == []
    assert ends.alice.activity(THEM).data_sent_at == 0
    assert ends.bob.activity(THEM).data_received_at == 0


def test_of_an_unknown_peer_all_is_zero() -> None:
    core = Core(mtu=1420, random=bytes)
    nobody = PeerId(9)
    core.watch(nobody, Watch.DATA_SENT, True)
    core.forget_source(nobody)
    assert core.activity(nobody) == Activity()
    assert core.counters(nobody) == Counters()


# --- handshake messages ---------------------------------------------------------------


def initiation() -> bytes:
    return bytes.fromhex(vectors()["handshakes"][1]["initiation"])


def test_an_admitted_message_goes_up_with_where_it_came_from() -> None:
    ends = session_of_the_vectors()
    receive(ends, initiation(), ELSEWHERE)
    assert ends.bob.take_events() == [
        HandshakeReceived(initiation(), ELSEWHERE._replace(learned_at=ends.now), ends.now)
    ]
    assert not ends.bob.drops()


def test_a_flood_is_asked_for_cookies_and_never_grows_the_queue() -> None:
    ends = session_of_the_vectors()
    for _ in range(3000):
        receive(ends, initiation(), ELSEWHERE)
    replies = ends.bob.take_datagrams()
    assert ends.bob.events.queued_handshakes == 128
    assert len(replies) == COOKIE_REPLY_BURST // 2, "one source has half of the ration"
    assert {len(reply.datagram) for reply in replies} == {64}
    assert {(reply.endpoint, reply.tos, reply.peer) for reply in replies} == {(ELSEWHERE, 0, None)}
    assert ends.bob.drops() == {DropReason.COOKIE_REQUIRED: 3000 - 128}


def answer(kind: int, index: int) -> bytes:
    """A response (2), past mac1, or a cookie reply (3), to the message with that index."""
    if kind == 3:
        return b"\3\0\0\0" + index.to_bytes(4, "little") + bytes(56)
    (public,) = unhex(vectors()["handshakes"][1], "responder_static_public")
    unsigned = Response(7, index, bytes(32), bytes(16)).pack()
    mac1 = mac(mac1_key(PublicKey(public)), before_mac1(unsigned))
    return Response(7, index, bytes(32), bytes(16), mac1).pack()


@pytest.mark.parametrize("kind", [2, 3])
def test_an_answer_to_no_message_of_ours_is_dropped_at_once(kind: int) -> None:
    ends = session_of_the_vectors()
    for index in range(2000):
        receive(ends, answer(kind, index), ELSEWHERE)
    assert ends.bob.events.queued_handshakes == 0
    assert ends.bob.take_events() == []
    assert ends.bob.drops() == {DropReason.UNKNOWN_INDEX: 2000}
    receive(ends, initiation(), ELSEWHERE)
    assert len(only(ends.bob.take_events(), HandshakeReceived)) == 1, "nobody is under load"


@pytest.mark.parametrize("kind", [2, 3])
def test_only_the_latest_initiation_may_be_answered_and_only_until_it_is(kind: int) -> None:
    ends = session_of_the_vectors()
    for index in (11, 12):
        sent = Initiation(index, bytes(32), bytes(48), bytes(28)).pack()
        ends.tell(ends.bob, SendHandshake(THEM, sent))
    receive(ends, answer(kind, 11), ELSEWHERE)
    assert ends.bob.take_events() == []
    receive(ends, answer(kind, 12), ELSEWHERE)
    assert len(ends.bob.take_events()) == 1

    install, _ = ends.keypairs()
    ends.tell(ends.bob, replace(install, our_index=12))
    ends.tell(ends.bob, EraseKeys(THEM))
    ends.bob.take_events()
    receive(ends, answer(kind, 12), ELSEWHERE)
    assert ends.bob.take_events() == []


def test_a_removed_peer_expects_no_answer() -> None:
    ends = session_of_the_vectors()
    sent = Initiation(12, bytes(32), bytes(48), bytes(28)).pack()
    ends.tell(ends.bob, SendHandshake(THEM, sent), DestroyPeer(THEM))
    receive(ends, answer(3, 12), ELSEWHERE)
    assert ends.bob.take_events() == []


def test_a_flood_of_cookie_replies_to_a_message_of_ours_is_no_load() -> None:
    ends = session_of_the_vectors()
    for _ in range(2000):
        receive(ends, answer(3, 0xAABBCCDD), ELSEWHERE)  # our index in the session
    assert ends.bob.events.queued_handshakes == 0
    assert ends.bob.drops() == {DropReason.QUEUE_FULL: 2000 - 64}
    receive(ends, initiation(), ELSEWHERE)
    assert [type(parse_handshake(e.datagram)) for e in handshakes(ends, 1)] == [
        CookieReply,
        Initiation,
    ]


def handshakes(ends: Ends, most: int) -> list[HandshakeReceived]:
    events = ends.bob.take_events(max_handshakes=most)
    return [event for event in events if isinstance(event, HandshakeReceived)]


def test_without_a_private_key_handshakes_are_dropped() -> None:
    ends = session_of_the_vectors()
    ends.tell(ends.bob, SetAdmission(None, None, None))
    receive(ends, initiation(), ELSEWHERE)
    assert ends.bob.take_events() == []
    assert sum(ends.bob.drops().values()) == 1


# --- whatever the network sends -------------------------------------------------------


@given(st.binary(max_size=300), st.sampled_from((b"", b"\4\0\0\0\1\0\0\xb0", b"\1\0\0\0")))
def test_no_bytes_raise_or_have_an_effect(tail: bytes, head: bytes) -> None:
    ends = Ends()
    before = ends.bob.counters(THEM), ends.bob.activity(THEM), ends.bob.peers[THEM].endpoint
    assert receive(ends, head + tail, ELSEWHERE, tos=3) == []
    after = ends.bob.counters(THEM), ends.bob.activity(THEM), ends.bob.peers[THEM].endpoint
    assert after == before
    assert ends.bob.take_datagrams() == []
    assert ends.bob.take_events() == []
    assert sum(ends.bob.drops().values()) == 1


@given(st.binary(max_size=200), st.integers(0, 3))
def test_no_authentic_bytes_raise(plain: bytes, tos: int) -> None:
    ends = Ends()
    receive(ends, sealed_raw(ends, plain), ELSEWHERE, tos)
    ends.bob.send_inner(plain, ends.now)
    if plain:
        assert DataReceived(THEM) in ends.bob.take_events()


def test_a_hostile_peer_cannot_grow_what_is_kept() -> None:
    ends = Ends()
    rng = random.Random(11)
    for _ in range(5000):
        at = endpoint(f"198.51.100.{rng.randrange(256)}:{rng.randrange(65536)}")
        plain = rng.choice((b"", ipv4(), rng.randbytes(rng.randrange(64))))
        receive(ends, sealed_raw(ends, plain), at)
    assert len(ends.bob.take_events()) == 2
    assert ends.bob.take_datagrams() == []
    assert len(ends.bob.receivers) == 1
