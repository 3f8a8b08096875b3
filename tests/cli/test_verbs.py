from __future__ import annotations

import pytest

from nvpn.cli.verbs import FOREIGN_WORDS, VERBS, closest, find_verb, verb_words


@pytest.mark.parametrize(
    ("word", "verb"),
    [
        ("shwo", "show"),
        ("sho", "show"),
        ("SHOW", "show"),
        ("shows", "show"),
        ("dwon", "down"),
        ("upp", "up"),
        ("relaod", "reload"),
        ("rel", "reload"),
        ("relod", "reload"),
        ("genky", "genkey"),
        ("genpks", "genpsk"),
        ("pukbey", "pubkey"),
        ("chekc", "check"),
        ("dmeo", "demo"),
        ("stauts", "status"),
        ("hepl", "help"),
        ("devcie", "device"),
    ],
)
def test_a_slip_of_the_fingers_is_recognised(word: str, verb: str) -> None:
    assert closest(word, verb_words()) == verb


@pytest.mark.parametrize(
    "word", ["wg", "us", "hq", "eu", "vpn", "office", "home", "berlin", "mullvad", "tun", "relay"]
)
def test_a_name_is_not_taken_for_a_slip(word: str) -> None:
    assert closest(word, verb_words()) is None


def test_every_verb_is_found_by_its_name_and_its_aliases() -> None:
    for verb in VERBS:
        for word in (verb.name, *verb.aliases):
            assert find_verb(word) is verb


def test_no_foreign_word_is_a_verb_of_ours() -> None:
    assert not set(FOREIGN_WORDS) & set(verb_words())


def test_every_verb_is_explained_by_examples_that_begin_with_a_command() -> None:
    for verb in VERBS:
        assert verb.description.endswith("."), verb.name
        assert verb.examples, verb.name
        for command, purpose in verb.examples:
            assert "nvpn" in command
            assert purpose
