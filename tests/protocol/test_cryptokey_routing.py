"""Whose prefix it is."""

from __future__ import annotations

import random

from nvpn.datapath.commands import PeerId
from nvpn.model.prefixes import Prefix
from nvpn.protocol.cryptokey_routing import CryptokeyRouting

ALICE, BOB = PeerId(1), PeerId(2)
ONE, TWO, THREE = (Prefix.parse(text) for text in ("10.0.0.0/8", "10.1.0.0/16", "fd00::/8"))


def test_a_prefix_moves_to_whoever_gets_it_last() -> None:
    routing = CryptokeyRouting()
    assert routing.insert(ALICE, ONE)
    assert routing.insert(BOB, ONE)
    assert routing.prefixes(ALICE) == ()
    assert routing.prefixes(BOB) == (ONE,)


def test_having_it_already_changes_nothing() -> None:
    routing = CryptokeyRouting()
    routing.insert(ALICE, ONE)
    routing.insert(ALICE, TWO)
    assert not routing.insert(ALICE, ONE)
    assert routing.prefixes(ALICE) == (ONE, TWO)


def test_only_the_owner_loses_it() -> None:
    routing = CryptokeyRouting()
    routing.insert(ALICE, ONE)
    assert not routing.delete(BOB, ONE)
    assert not routing.delete(ALICE, TWO)
    assert routing.delete(ALICE, ONE)
    assert routing.prefixes(ALICE) == ()


def test_a_forgotten_peer_leaves_nothing_behind() -> None:
    routing = CryptokeyRouting()
    routing.insert(ALICE, ONE)
    routing.insert(BOB, THREE)
    routing.forget(ALICE)
    routing.forget(ALICE)
    assert routing.prefixes(ALICE) == ()
    assert routing.insert(BOB, ONE)
    assert routing.prefixes(BOB) == (THREE, ONE)


def test_it_agrees_with_a_plain_dictionary() -> None:
    rng = random.Random(1)
    routing = CryptokeyRouting()
    model: dict[Prefix, PeerId] = {}
    prefixes = [Prefix.of(bytes([10, n, 0, 0]), 16) for n in range(20)]
    for _ in range(3_000):
        peer, prefix = PeerId(rng.randrange(4)), rng.choice(prefixes)
        if rng.random() < 0.6:
            assert routing.insert(peer, prefix) == (model.get(prefix) != peer)
            model[prefix] = peer
        elif rng.random() < 0.9:
            assert routing.delete(peer, prefix) == (model.get(prefix) == peer)
            if model.get(prefix) == peer:
                del model[prefix]
        else:
            routing.forget(peer)
            model = {where: who for where, who in model.items() if who != peer}
        for number in range(4):
            owned = {where for where, who in model.items() if who == number}
            assert set(routing.prefixes(PeerId(number))) == owned
