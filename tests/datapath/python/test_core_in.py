"""Datagrams from the socket: what is accepted, in which order it is judged, what follows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.api import Activity, Counters
from nvpn.datapath.commands import (
    CreatePeer,
    InsertPrefix,
    PeerId,
    SendHandshake,
    SendKeepalive,
    Touch,
)
from nvpn.datapath.events import DataReceived, HandshakeReceived
from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.prefixes import Prefix
from nvpn.wire.constants import REJECT_AFTER_MESSAGES
from tests.support.cores import THEM, Ends, endpoint, ipv4, ipv6
from tests.support.incoming import (
    ELSEWHERE,
    receive,
    sealed_raw,
    session_of_the_vectors,
)
from tests.support.vectors import unhex, vectors

# --- what is accepted ------------------------------------------------------------------


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


# --- the order of the checks -----------------------------------------------------------


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


# --- what is inside --------------------------------------------------------------------


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


# --- whatever the network sends --------------------------------------------------------


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
