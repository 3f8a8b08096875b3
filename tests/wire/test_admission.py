from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.errors import DropReason
from nvpn.model.clock import MILLISECOND, SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.wire.admission import Accepted, Admission, Answered, Dropped, SourceLimiter, Verdict
from nvpn.wire.constants import (
    COOKIE_REPLY_BURST,
    LIMITED_BURST,
    MAX_LIMITED_SOURCES,
    UNDER_LOAD_QUEUED,
)
from nvpn.wire.crypto import cookie_for, cookie_key, mac, mac1_key
from nvpn.wire.messages import CookieReply, parse_handshake
from tests.support.vectors import handshake_vector, unhex, vectors

IDLE = 0
BUSY = UNDER_LOAD_QUEUED
NOW = 1_000 * SECOND
SOURCE = Endpoint(bytes([192, 0, 2, 7]), 51820)
SECRET = b"s" * 32
VECTOR = handshake_vector("psk zero")
RESPONDER = PublicKey.from_hex(VECTOR["responder_static_public"])
INITIATOR = PublicKey.from_hex(VECTOR["initiator_static_public"])
INITIATION, RESPONSE = unhex(VECTOR, "initiation", "response")


def admission_of(public: PublicKey, secret: bytes = SECRET) -> Admission:
    admission = Admission()
    admission.configure(mac1_key(public), cookie_key(public), secret)
    return admission


def judge(
    admission: Admission,
    datagram: bytes,
    *,
    source: Endpoint = SOURCE,
    queued: int = IDLE,
    now: int = NOW,
    nonce: bytes = b"n" * 24,
) -> Verdict:
    def random(size: int) -> bytes:
        assert size == len(nonce)
        return nonce

    return admission.judge(datagram, source, queued=queued, now=now, random=random)


def with_cookie(message: bytes, cookie: bytes) -> bytes:
    return message[:-16] + mac(cookie, message[:-16])


# --- macs -----------------------------------------------------------------------------


def test_messages_with_a_valid_mac1_are_accepted_when_idle() -> None:
    assert judge(admission_of(RESPONDER), INITIATION) == Accepted()
    assert judge(admission_of(INITIATOR), RESPONSE) == Accepted()


def test_a_message_to_somebody_else_has_a_bad_mac1() -> None:
    assert judge(admission_of(INITIATOR), INITIATION) == Dropped(DropReason.BAD_MAC1)
    assert judge(admission_of(RESPONDER), RESPONSE) == Dropped(DropReason.BAD_MAC1)


@pytest.mark.parametrize("position", range(4, 132))
def test_every_byte_up_to_mac1_counts(position: int) -> None:
    flipped = bytearray(INITIATION)
    flipped[position] ^= 1
    for queued in (IDLE, BUSY):
        verdict = judge(admission_of(RESPONDER), bytes(flipped), queued=queued)
        assert verdict == Dropped(DropReason.BAD_MAC1)


def test_mac2_may_hold_anything_when_idle() -> None:
    assert judge(admission_of(RESPONDER), INITIATION[:-16] + b"x" * 16) == Accepted()


def test_without_a_private_key_everything_is_dropped() -> None:
    admission = admission_of(RESPONDER)
    admission.configure(None, None, None)
    for datagram in (INITIATION, RESPONSE, b"\3\0\0\0" + bytes(60)):
        for queued in (IDLE, BUSY):
            verdict = judge(admission, datagram, queued=queued)
            assert verdict == Dropped(DropReason.NOT_EXPECTED)


@pytest.mark.parametrize("vector", vectors()["must_drop"], ids=lambda vector: vector["what"])
def test_what_must_be_dropped_gets_no_answer(vector: dict[str, str]) -> None:
    (packet,) = unhex(vector, "packet")
    to = INITIATOR if vector["what"].startswith("response") else RESPONDER
    what = vector["what"]

    verdict = judge(admission_of(to), packet)

    if "mac1 valid" in what or "mac1 made valid" in what:
        assert verdict == Accepted()  # nothing but opening it shows that it is forged
    elif "mac1" in what and "reserved" not in what:
        assert verdict == Dropped(DropReason.BAD_MAC1)
    else:
        assert verdict == Dropped(DropReason.MALFORMED)


def test_cookie_replies_are_accepted_by_their_shape_alone() -> None:
    reply = b"\3\0\0\0" + bytes(60)
    assert judge(admission_of(RESPONDER), reply, queued=BUSY) == Accepted()
    assert judge(admission_of(RESPONDER), reply + b"x") == Dropped(DropReason.MALFORMED)


# --- under load -----------------------------------------------------------------------


def test_load_begins_at_an_eighth_of_the_queue_and_is_remembered_for_a_second() -> None:
    admission = Admission()
    assert not admission.under_load(127, NOW)
    assert admission.under_load(128, NOW)
    assert admission.under_load(0, NOW + SECOND - 1)
    assert not admission.under_load(0, NOW + SECOND)


def test_load_that_goes_on_is_remembered_from_its_end() -> None:
    admission = Admission()
    admission.under_load(128, NOW)
    admission.under_load(500, NOW + SECOND // 2)
    assert admission.under_load(0, NOW + SECOND)
    assert not admission.under_load(0, NOW + SECOND + SECOND // 2)


def test_junk_does_not_count_as_load() -> None:
    admission = admission_of(RESPONDER)
    judge(admission, INITIATION[:-32] + bytes(32), queued=BUSY)
    assert judge(admission, INITIATION, queued=IDLE, now=NOW + 1) == Accepted()


def source_of(vector: dict[str, Any]) -> Endpoint:
    (raw,) = unhex(vector, "source_bytes")
    return Endpoint(raw[:-2], int.from_bytes(raw[-2:], "big"))


@pytest.mark.parametrize("vector", vectors()["cookies"], ids=lambda vector: vector["source"])
def test_cookie_replies_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    secret, nonce, reply, aad = unhex(vector, "secret", "nonce", "reply", "aad_mac1")
    to_response = "note" in vector
    candidates = [
        unhex(v, "response" if to_response else "initiation") for v in vectors()["handshakes"]
    ]
    (message,) = next(raw for raw in candidates if raw[0][-32:-16] == aad)
    admission = admission_of(INITIATOR if to_response else RESPONDER, secret)

    verdict = judge(admission, message, source=source_of(vector), queued=BUSY, nonce=nonce)

    assert verdict == Answered(reply)


@pytest.mark.parametrize(
    "vector",
    [vector for vector in vectors()["cookies"] if "retry" in vector],
    ids=lambda vector: vector["source"],
)
def test_a_retry_with_the_cookie_passes_from_its_own_source_only(vector: dict[str, Any]) -> None:
    (secret,) = unhex(vector, "secret")
    (retry,) = unhex(vector["retry"], "initiation")
    source = source_of(vector)

    assert judge(admission_of(RESPONDER, secret), retry, source=source, queued=BUSY) == Accepted()
    for elsewhere in (
        source._replace(port=source.port ^ 1),
        source._replace(address=source.address[:-1] + b"\x99"),
    ):
        verdict = judge(admission_of(RESPONDER, secret), retry, source=elsewhere, queued=BUSY)
        assert isinstance(verdict, Answered)


def test_a_cookie_of_an_earlier_secret_is_answered_with_a_new_one() -> None:
    message = with_cookie(INITIATION, cookie_for(b"old" + bytes(29), SOURCE))
    assert isinstance(judge(admission_of(RESPONDER), message, queued=BUSY), Answered)


def test_a_cookie_reply_is_smaller_than_what_it_answers() -> None:
    for public, message in ((RESPONDER, INITIATION), (INITIATOR, RESPONSE)):
        verdict = judge(admission_of(public), message, queued=BUSY)
        assert isinstance(verdict, Answered)
        assert len(verdict.cookie_reply) < len(message)
        reply = parse_handshake(verdict.cookie_reply)
        assert isinstance(reply, CookieReply)
        assert reply.receiver == int.from_bytes(message[4:8], "little")


def test_a_source_with_a_cookie_is_still_limited() -> None:
    admission = admission_of(RESPONDER)
    message = with_cookie(INITIATION, cookie_for(SECRET, SOURCE))
    verdicts = [judge(admission, message, queued=BUSY) for _ in range(6)]
    assert verdicts == [Accepted()] * 5 + [Dropped(DropReason.RATE_LIMITED)]


def asked(admission: Admission, count: int, *, now: int = NOW, sources: int = 1) -> int:
    """How many of so many initiations, from so many addresses, get a cookie reply."""
    return sum(
        isinstance(
            judge(
                admission,
                INITIATION,
                source=Endpoint((0x0A000000 + number % sources).to_bytes(4, "big"), 9),
                queued=BUSY,
                now=now,
            ),
            Answered,
        )
        for number in range(count)
    )


def test_a_flood_from_one_source_uses_up_half_of_the_cookie_replies() -> None:
    admission = admission_of(RESPONDER)
    assert asked(admission, 5_000) == COOKIE_REPLY_BURST // 2
    other = judge(admission, INITIATION, queued=BUSY)
    assert isinstance(other, Answered), "another source has its share"


def test_cookie_replies_are_rationed_over_all_sources() -> None:
    admission = admission_of(RESPONDER)
    assert asked(admission, 5_000, sources=5_000) == COOKIE_REPLY_BURST
    later = NOW + 10 * MILLISECOND
    assert asked(admission, 5_000, now=later, sources=5_000) == 50, "5,000 a second"


def test_a_source_whose_allowance_is_gone_is_served_while_there_is_plenty() -> None:
    admission = admission_of(RESPONDER)
    asked(admission, LIMITED_BURST + 50)
    assert asked(admission, 1) == 1


def test_a_message_that_gets_no_cookie_reply_is_counted_all_the_same() -> None:
    admission = admission_of(RESPONDER)
    asked(admission, 5_000, sources=5_000)
    verdict = judge(admission, INITIATION, queued=BUSY)
    assert verdict == Dropped(DropReason.COOKIE_REQUIRED)


def test_without_randomness_there_is_silence_and_no_exception() -> None:
    def broken(size: int) -> bytes:
        raise OSError("entropy")

    verdict = admission_of(RESPONDER).judge(
        INITIATION, SOURCE, queued=BUSY, now=NOW, random=broken
    )
    assert verdict == Dropped(DropReason.COOKIE_REQUIRED)


@given(
    body=st.binary(max_size=200),
    kind=st.integers(0, 5),
    queued=st.integers(0, 1024),
    address=st.sampled_from([b"", bytes(4), bytes(16)]),
)
def test_no_bytes_raise_and_no_stranger_is_answered(
    body: bytes, kind: int, queued: int, address: bytes
) -> None:
    datagram = bytes([kind, 0, 0, 0]) + body
    verdict = judge(admission_of(RESPONDER), datagram, source=Endpoint(address, 1), queued=queued)
    assert not isinstance(verdict, Answered)


@given(size=st.sampled_from([64, 92, 148]), kind=st.integers(1, 3), seed=st.randoms())
def test_no_well_shaped_stranger_is_answered(size: int, kind: int, seed: Any) -> None:
    datagram = bytes([kind, 0, 0, 0]) + seed.randbytes(size - 4)
    assert not isinstance(judge(admission_of(RESPONDER), datagram, queued=BUSY), Answered)


def test_datagrams_may_be_views_into_a_larger_buffer() -> None:
    view = memoryview(b"junk" + INITIATION + b"junk")[4:-4]
    assert judge(admission_of(RESPONDER), view) == Accepted()
    assert isinstance(judge(admission_of(RESPONDER), view, queued=BUSY), Answered)


# --- the limiter ----------------------------------------------------------------------


def v6(text: str) -> Endpoint:
    return Endpoint.parse(f"[{text}]:1")


@pytest.mark.parametrize("source", [SOURCE, v6("2001:db8::7")], ids=str)
def test_five_at_once_then_one_each_fifty_milliseconds(source: Endpoint) -> None:
    limiter = SourceLimiter()
    assert [limiter.admit(source, NOW) for _ in range(6)] == [True] * 5 + [False]
    later = NOW + 50 * MILLISECOND
    assert [limiter.admit(source, later) for _ in range(2)] == [True, False]
    later += 100 * MILLISECOND
    assert [limiter.admit(source, later) for _ in range(3)] == [True, True, False]


def test_the_allowance_never_grows_beyond_a_burst() -> None:
    limiter = SourceLimiter()
    limiter.admit(SOURCE, NOW)
    much_later = NOW + 3600 * SECOND
    assert sum(limiter.admit(SOURCE, much_later) for _ in range(100)) == 5


def test_sources_are_single_ipv4_addresses_and_ipv6_networks_of_64_bits() -> None:
    limiter = SourceLimiter()
    for source in (SOURCE, v6("2001:db8::1")):
        while limiter.admit(source, NOW):
            pass

    assert not limiter.admit(SOURCE._replace(port=9), NOW)
    assert not limiter.admit(v6("2001:db8::ffff:1"), NOW)
    assert limiter.admit(SOURCE._replace(address=bytes([192, 0, 2, 8])), NOW)
    assert limiter.admit(v6("2001:db8:0:1::1"), NOW)


def test_a_refused_message_costs_its_source_nothing() -> None:
    limiter = SourceLimiter()
    for _ in range(1000):
        limiter.admit(SOURCE, NOW)
    assert limiter.admit(SOURCE, NOW + 50 * MILLISECOND)


def test_the_table_is_bounded_and_empties_by_itself() -> None:
    limiter = SourceLimiter()
    for number in range(MAX_LIMITED_SOURCES + 1000):
        source = Endpoint(number.to_bytes(4, "big"), 1)
        assert limiter.admit(source, NOW) is (number < MAX_LIMITED_SOURCES)
    known, new = Endpoint(bytes(4), 1), Endpoint(b"\xff" * 4, 1)
    assert limiter.admit(known, NOW)
    assert not limiter.admit(new, NOW)
    assert len(limiter) == MAX_LIMITED_SOURCES

    assert limiter.admit(new, NOW + SECOND)
    assert len(limiter) == 1


def test_sweeping_forgets_no_debt() -> None:
    swept, other = SourceLimiter(), Endpoint(bytes(4), 1)
    swept.admit(other, NOW)
    just_before = NOW + SECOND - MILLISECOND
    while swept.admit(SOURCE, just_before):
        pass
    assert not swept.admit(SOURCE, NOW + SECOND)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=60))
def test_the_limiter_is_a_token_bucket(gaps_ms: list[int]) -> None:
    limiter, tokens, now = SourceLimiter(), 250 * MILLISECOND, NOW
    for gap in gaps_ms:
        now += gap * MILLISECOND
        tokens = min(250 * MILLISECOND, tokens + gap * MILLISECOND)
        allowed = tokens >= 50 * MILLISECOND
        if allowed:
            tokens -= 50 * MILLISECOND
        assert limiter.admit(SOURCE, now) is allowed
