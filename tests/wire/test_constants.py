"""The numbers against the vectors, the hashes against their standards."""

from __future__ import annotations

from nvpn.wire import constants
from nvpn.wire.crypto import hash_
from tests.support.vectors import vectors


def test_the_numbers_are_those_of_the_paper() -> None:
    given = vectors()["constants"]

    assert given["construction"].encode() == constants.CONSTRUCTION
    assert given["identifier"].encode() == constants.IDENTIFIER
    assert given["label_mac1"].encode() == constants.LABEL_MAC1
    assert given["label_cookie"].encode() == constants.LABEL_COOKIE
    assert int(given["rekey_after_messages"]) == constants.REKEY_AFTER_MESSAGES
    assert int(given["reject_after_messages"]) == constants.REJECT_AFTER_MESSAGES
    assert given["sizes"]["initiation"] == constants.INITIATION_SIZE
    assert given["sizes"]["response"] == constants.RESPONSE_SIZE
    assert given["sizes"]["cookie"] == constants.COOKIE_REPLY_SIZE
    assert given["sizes"]["transport_min"] == constants.MIN_TRANSPORT_SIZE


def test_initial_chaining_key_and_hash_follow_from_the_two_strings() -> None:
    given = vectors()["constants"]
    chaining_key = hash_(constants.CONSTRUCTION)

    assert chaining_key.hex() == given["initial_chaining_key"]
    assert hash_(chaining_key + constants.IDENTIFIER).hex() == given["initial_hash"]


def test_a_receiving_initiator_renews_in_time_for_two_attempts() -> None:
    assert constants.REKEY_AFTER_TIME_RECEIVING == 165 * 10**9
    assert constants.ERASE_KEYS_AFTER_TIME == 540 * 10**9
    assert constants.UNDER_LOAD_QUEUED == 128
