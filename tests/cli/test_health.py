from __future__ import annotations

import pytest

from nvpn.cli.health import (
    Health,
    clean,
    handshake_age,
    peer_health,
    peer_label,
    peer_problems,
    short_bytes,
    short_duration,
    tunnel_problems,
)
from nvpn.control.records import LeaseRecord, ServerRecord
from nvpn.errors import DropReason
from tests.support.records import NOW, peer, tunnel

NEVER = (0, 0)


@pytest.mark.parametrize(
    ("age", "health"),
    [(0, Health.FRESH), (179, Health.FRESH), (180, Health.STALE), (10**8, Health.STALE)],
)
def test_a_handshake_is_fresh_for_as_long_as_a_session_lives(age: int, health: Health) -> None:
    assert peer_health(peer(last_handshake=(NOW - age, 0)), NOW) is health


def test_a_peer_without_a_handshake_is_neither() -> None:
    assert peer_health(peer(last_handshake=NEVER), NOW) is Health.NEVER


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({}, []),
        # Silence alone is no fault: nobody may have had anything to say.
        ({"last_handshake": (NOW - 7200, 0)}, []),
        ({"last_handshake": NEVER, "rx_bytes": 0, "tx_bytes": 0}, []),
        (
            {"endpoint": "", "last_handshake": NEVER},
            ["no endpoint: it cannot be reached until it calls here itself"],
        ),
        (
            {"handshake_attempts": 7},
            [
                "7 handshakes without an answer from 192.0.2.1:51820: is it up, "
                "does it know our key, does a firewall let UDP through?"
            ],
        ),
        ({"handshake_attempts": 1}, []),
        (
            {"last_handshake": NEVER, "rx_bytes": 0, "tx_bytes": 148},
            ["no answer from 192.0.2.1:51820 yet"],
        ),
        (
            {"last_handshake": (NOW - 900, 0), "persistent_keepalive": 25},
            ["no handshake for 15 min, although a keepalive goes out every 25 s"],
        ),
        (
            {"last_handshake": (NOW + 60, 0)},
            ["the last handshake lies in the future: the clock was set back"],
        ),
        ({"allowed_ips": []}, ["no allowed IPs: nothing is sent to it or accepted from it"]),
    ],
)
def test_what_is_wrong_with_a_peer(values: dict[str, object], sentences: list[str]) -> None:
    assert peer_problems(peer(**values), NOW) == sentences


def test_a_healthy_tunnel_has_no_problems() -> None:
    assert tunnel_problems(tunnel(peer())) == []


def test_an_interface_without_key_or_peers_says_so() -> None:
    assert tunnel_problems(tunnel(private_key="", _public_key="")) == [
        "no private key: no handshake is possible",
        "no peers",
    ]


def test_a_server_without_clients_is_well_unless_it_cannot_have_any() -> None:
    assert tunnel_problems(tunnel(server=ServerRecord("a file", is_reachable=True))) == []
    assert tunnel_problems(tunnel(server=ServerRecord("etcd at h:1", is_reachable=False))) == [
        "no new clients and no new leases: etcd at h:1 does not answer"
    ]


def test_drops_are_told_once_they_tell_something() -> None:
    assert tunnel_problems(tunnel(peer(), drops={"bad-tag": 2, "malformed": 10**6})) == []
    (sentence,) = tunnel_problems(tunnel(peer(), drops={"bad-tag": 1234}))
    assert sentence.startswith("dropped 1,234 messages that could not be authenticated")


def test_a_single_packet_that_came_back_tells_of_a_loop() -> None:
    (sentence,) = tunnel_problems(tunnel(peer(), drops={"routing-loop": 1}))
    assert "leads into this tunnel" in sentence


# Of these a count alone says nothing that somebody could act on.
WEATHER = {
    # From strangers, or from the past: nothing is wrong here.
    DropReason.MALFORMED,
    DropReason.NOT_EXPECTED,
    DropReason.TOO_SOON,
    DropReason.WEAK_KEY,
    DropReason.UNKNOWN_INDEX,
    DropReason.KEY_EXPIRED,
    DropReason.REPLAYED,
    DropReason.BAD_INNER,
    # The program that sends them is told by ICMP, or the peer's own line tells.
    DropReason.NO_ROUTE,
    DropReason.NO_ENDPOINT,
    DropReason.STAGING_FULL,
    DropReason.HANDSHAKE_FAILED,
    DropReason.TOO_BIG,
}


@pytest.mark.parametrize("reason", DropReason)
def test_every_reason_has_a_sentence_unless_nobody_could_act_on_it(reason: DropReason) -> None:
    sentences = tunnel_problems(tunnel(peer(), drops={reason.value: 10**9}))
    assert len(sentences) == (reason not in WEATHER)
    assert all(sentence.startswith("dropped 1,000,000,000 ") for sentence in sentences)


def test_a_peer_is_called_by_its_name_or_by_the_beginning_of_its_key() -> None:
    assert peer_label(peer(name="laptop")) == "laptop"
    assert peer_label(peer(number=2**255 + 1)) == "gAAAAAAA…"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"),
     (48 * 3600 - 1, "47 h"), (48 * 3600, "2 d"), (10**9, "11574 d")],
)  # fmt: skip
def test_durations_are_one_unit(seconds: int, text: str) -> None:
    assert short_duration(seconds) == text


@pytest.mark.parametrize(
    ("then", "text"),
    [(0, "never"), (NOW, "now"), (NOW - 1, "1 s ago"), (NOW + 1, "in the future")],
)
def test_the_age_of_a_handshake(then: int, text: str) -> None:
    assert handshake_age(peer(last_handshake=(then, 0)), NOW) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1024, "1.00 KiB"), (10234, "9.99 KiB"),
     (10235, "10.0 KiB"), (102348, "99.9 KiB"), (102400, "100 KiB"), (1023487, "999 KiB"),
     (1023488, "0.98 MiB"), (2**30, "1.00 GiB"), (2**64 - 1, "16384 PiB")],
)  # fmt: skip
def test_sizes_are_three_digits_and_a_unit(count: int, text: str) -> None:
    assert short_bytes(count) == text


def test_nothing_from_a_file_can_steer_the_terminal() -> None:
    assert clean("Büro 3 – 東京") == "Büro 3 – 東京"
    assert clean("a\x1b[2Jb\r\nc\u202e") == "a?[2Jb??c?"


def test_a_client_that_is_away_is_no_problem() -> None:
    away = peer(endpoint="", allowed_ips=[], last_handshake=(0, 0))
    assert len(peer_problems(away, NOW)) == 2
    away.owner = "lease"
    assert peer_problems(away, NOW) == []


def test_a_client_without_a_lease_says_why_and_when_it_asks_again() -> None:
    lease = LeaseRecord("waiting", trouble="vpn does not answer", asks_in=54)
    waiting = tunnel(peer(), lease=lease)
    assert tunnel_problems(waiting) == ["no lease (vpn does not answer): asks again in 54 s"]
    waiting.lease = LeaseRecord("asking")
    assert tunnel_problems(waiting) == ["no lease: a server is being asked"]
    waiting.lease = LeaseRecord("leased", asks_in=54)
    assert tunnel_problems(waiting) == []


def test_a_clients_second_server_is_sent_nothing_and_that_is_no_problem() -> None:
    assert peer_problems(peer(allowed_ips=[]), NOW, may_be_leased=True) == []
