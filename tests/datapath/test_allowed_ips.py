"""Cryptokey routing, against a linear list in which the longest prefix wins.

``python -m tests.datapath.test_allowed_ips`` prints what look-ups cost.
"""

from __future__ import annotations

import gc
import os
import random
import timeit
import tracemalloc
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.allowed_ips import AllowedIps
from nvpn.model.prefixes import Prefix, parse_address
from tests.support.vectors import vectors

EDGE_LENGTHS = {4: (0, 1, 8, 24, 31, 32), 6: (0, 1, 31, 32, 63, 64, 65, 127, 128)}
BITS = {4: 32, 6: 128}


class Oracle:
    def __init__(self) -> None:
        self.owners: dict[Prefix, str] = {}

    def remove(self, prefix: Prefix, peer: str) -> bool:
        if self.owners.get(prefix) != peer:
            return False
        del self.owners[prefix]
        return True

    def remove_peer(self, peer: str) -> None:
        self.owners = {prefix: owner for prefix, owner in self.owners.items() if owner != peer}

    def lookup(self, version: int, address: int) -> str | None:
        host = Prefix(version, address, BITS[version])
        matching = [prefix for prefix in self.owners if prefix.covers(host)]
        return self.owners[max(matching, key=lambda p: p.length)] if matching else None

    def prefixes(self, peer: str) -> set[Prefix]:
        return {prefix for prefix, owner in self.owners.items() if owner == peer}


def lookup(table: AllowedIps[Any], address: str) -> Any:
    packed = parse_address(address)
    return table.lookup(4 if len(packed) == 4 else 6, int.from_bytes(packed, "big"))


def table_of(**prefixes: str) -> AllowedIps[str]:
    table: AllowedIps[str] = AllowedIps()
    for peer, texts in prefixes.items():
        for text in texts.split():
            table.insert(Prefix.parse(text, default_length=True), peer)
    return table


@pytest.mark.parametrize("case", vectors()["allowed_ips"], ids=lambda case: str(case["seed"]))
def test_each_vector_gives_the_same_owners(case: dict[str, Any]) -> None:
    table: AllowedIps[int] = AllowedIps()
    for kind, text, peer in case["ops"]:
        if kind == "add":
            table.insert(Prefix.parse(text), peer)
        elif kind == "del":
            table.remove(Prefix.parse(text), peer)
        else:
            table.remove_peer(peer)
    for address, owner in case["lookups"]:
        assert lookup(table, address) == owner, address


def test_the_longest_prefix_wins_in_both_families() -> None:
    table = table_of(
        wide="0.0.0.0/0 ::/0",
        net="10.0.0.0/8 fd00::/8",
        host="10.1.2.3 fd00::1",
        odd="10.1.2.2/31",
    )
    assert lookup(table, "10.1.2.3") == "host"
    assert lookup(table, "10.1.2.2") == "odd"
    assert lookup(table, "10.1.2.4") == "net"
    assert lookup(table, "11.0.0.0") == "wide"
    assert lookup(table, "fd00::1") == "host"
    assert lookup(table, "fd00::2") == "net"
    assert lookup(table, "fe80::1") == "wide"


def test_the_families_do_not_mix() -> None:
    table = table_of(a="::/0")
    assert lookup(table, "10.0.0.1") is None
    table = table_of(a="0.0.0.0/0")
    assert lookup(table, "::10.0.0.1") is None


def test_a_prefix_moves_to_its_last_owner() -> None:
    table = table_of(a="10.0.0.0/8 10.1.0.0/16")
    table.insert(Prefix.parse("10.1.0.0/16"), "b")
    assert lookup(table, "10.1.0.1") == "b"
    assert table.prefixes("a") == (Prefix.parse("10.0.0.0/8"),)
    assert table.prefixes("b") == (Prefix.parse("10.1.0.0/16"),)


def test_inserting_twice_is_inserting_once() -> None:
    table = table_of(a="10.0.0.0/8 10.0.0.0/8")
    assert len(table) == 1
    assert table.remove(Prefix.parse("10.0.0.0/8"), "a")
    assert lookup(table, "10.0.0.1") is None


def test_only_its_owner_can_remove_a_prefix() -> None:
    table = table_of(a="10.0.0.0/8", b="10.1.0.0/16")
    assert not table.remove(Prefix.parse("10.0.0.0/8"), "b")
    assert not table.remove(Prefix.parse("10.0.0.0/9"), "a")
    assert not table.remove(Prefix.parse("10.0.0.0/8"), "stranger")
    assert lookup(table, "10.0.0.1") == "a"


def test_removing_a_peer_uncovers_what_lay_under_it() -> None:
    table = table_of(a="10.0.0.0/8", b="10.1.0.0/16 10.1.2.0/24 fd00::/8")
    table.remove_peer("b")
    table.remove_peer("stranger")
    assert lookup(table, "10.1.2.3") == "a"
    assert lookup(table, "fd00::1") is None
    assert table.prefixes("b") == ()


def test_each_peer_is_told_its_own_prefixes() -> None:
    table = table_of(a="10.0.0.0/8 fd00::/64 192.0.2.1", b="172.16.0.0/12")
    assert [str(prefix) for prefix in table.prefixes("a")] == [
        "10.0.0.0/8",
        "fd00::/64",
        "192.0.2.1/32",
    ]
    assert set(table) == {(p, o) for o in "ab" for p in table.prefixes(o)}


@pytest.mark.parametrize("version", [4, 6])
def test_a_chain_as_deep_as_the_address_is_long(version: int) -> None:
    bits = BITS[version]
    deep = random.Random(5).getrandbits(bits)
    table: AllowedIps[int] = AllowedIps()
    packed = deep.to_bytes(bits // 8, "big")
    order = list(range(bits + 1))
    random.Random(6).shuffle(order)
    for length in order:
        table.insert(Prefix.of(packed, length), length)
    # The address that leaves the chain after ``length`` bits.
    for length in range(bits):
        assert table.lookup(version, deep ^ 1 << (bits - 1 - length)) == length
    assert table.lookup(version, deep) == bits
    for length in order:
        table.remove_peer(length)
        expected = next((n for n in range(bits, -1, -1) if table.prefixes(n)), None)
        assert table.lookup(version, deep) == expected


def test_memory_is_back_after_removal() -> None:
    def fill(table: AllowedIps[int]) -> None:
        rng = random.Random(7)
        for peer in range(40):
            for _ in range(250):
                version = rng.choice((4, 6))
                bits = BITS[version]
                raw = rng.getrandbits(bits).to_bytes(bits // 8, "big")
                table.insert(Prefix.of(raw, rng.randrange(bits + 1)), peer)

    table: AllowedIps[int] = AllowedIps()
    fill(table)
    for peer in range(40):
        table.remove_peer(peer)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fill(table)
        full = tracemalloc.get_traced_memory()[0]
        for peer in range(40):
            table.remove_peer(peer)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(table) == 0
    assert full - before > 1_000_000
    assert after - before < (full - before) / 50


def test_a_hundred_thousand_prefixes_on_one_peer() -> None:
    table: AllowedIps[str] = AllowedIps()
    for second in range(255):
        for third in range(256):
            table.insert(Prefix.of(bytes((10, second, third, 0)), 24), "big")
            table.insert(Prefix.of(bytes((0xFD, second, third)) + bytes(13), 24), "big")
    assert len(table) == 255 * 256 * 2
    assert lookup(table, "10.254.255.9") == "big"
    assert lookup(table, "10.255.0.0") is None
    assert len(table.prefixes("big")) == len(table)
    table.remove_peer("big")
    assert len(table) == 0


def test_a_lookup_amid_a_move_sees_the_old_owner_or_the_new_one() -> None:
    class Spy(str):
        """Looks the prefix up at every comparison and hash, from within the change."""

        def __hash__(self) -> int:
            seen.append(table.lookup(4, address))
            return super().__hash__()

        def __eq__(self, other: object) -> bool:
            seen.append(table.lookup(4, address))
            return super().__eq__(other)

    seen: list[Any] = []
    address = 0x0A000001
    prefix = Prefix.parse("10.0.0.0/24")
    table: AllowedIps[Any] = AllowedIps()
    old, new = Spy("old"), Spy("new")
    table.insert(Prefix.parse("0.0.0.0/0"), "default")
    table.insert(prefix, old)
    seen.clear()
    table.insert(prefix, new)
    assert {str(owner) for owner in seen} <= {"old", "new"}
    assert seen
    seen.clear()
    table.remove(prefix, new)
    assert {str(owner) for owner in seen} <= {"new", "default"}


@given(st.data())
def test_a_prefix_is_found_by_exactly_the_addresses_in_it(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from((4, 6)))
    bits = BITS[version]
    network = data.draw(st.integers(0, (1 << bits) - 1))
    length = data.draw(st.integers(0, bits))
    prefix = Prefix.of(network.to_bytes(bits // 8, "big"), length)
    table: AllowedIps[str] = AllowedIps()
    table.insert(prefix, "a")
    address = network ^ data.draw(st.integers(0, (1 << bits) - 1)) >> data.draw(
        st.integers(0, bits)
    )
    covered = prefix.covers(Prefix(version, address, bits))
    assert table.lookup(version, address) == ("a" if covered else None)


@pytest.mark.once
def test_random_changes_agree_with_the_oracle() -> None:
    # NVPN_FUZZ_STEPS=1000000 for a long run.
    steps = int(os.environ.get("NVPN_FUZZ_STEPS", "100000"))
    seed = int(os.environ.get("NVPN_FUZZ_SEED", "1"))
    rng = random.Random(seed)
    peers = "abcdefgh"
    table: AllowedIps[str] = AllowedIps()
    oracle = Oracle()
    # Long shared prefixes: random addresses alone almost never nest.
    roots = {version: [rng.getrandbits(bits) for _ in range(3)] for version, bits in BITS.items()}

    def address(version: int) -> int:
        bits = BITS[version]
        keep = rng.randrange(bits + 1)
        return rng.choice(roots[version]) ^ rng.getrandbits(bits) >> keep

    def prefix(version: int) -> Prefix:
        bits = BITS[version]
        length = (
            rng.choice(EDGE_LENGTHS[version]) if rng.random() < 0.4 else rng.randrange(bits + 1)
        )
        return Prefix.of(address(version).to_bytes(bits // 8, "big"), length)

    for step in range(steps):
        version, peer, kind = rng.choice((4, 6)), rng.choice(peers), rng.random()
        where = (seed, step)
        if kind < 0.30:
            new = prefix(version)
            table.insert(new, peer)
            oracle.owners[new] = peer
        elif kind < 0.45 and oracle.owners:
            # Someone's prefix: half of the time its owner removes it, else another tries.
            some = next(iter(oracle.owners)) if rng.random() < 0.5 else prefix(version)
            owner = oracle.owners.get(some, peer) if rng.random() < 0.7 else peer
            assert table.remove(some, owner) is oracle.remove(some, owner), where
        elif kind < 0.455:
            table.remove_peer(peer)
            oracle.remove_peer(peer)
        elif kind < 0.46:
            assert set(table.prefixes(peer)) == oracle.prefixes(peer), where
            assert len(table) == len(oracle.owners), where
        else:
            target = address(version)
            assert table.lookup(version, target) == oracle.lookup(version, target), where
    for peer in peers:
        table.remove_peer(peer)
    assert len(table) == 0
    assert not table._families[4].levels
    assert not table._families[6].levels


def _look_up_all(table: AllowedIps[int], version: int, targets: list[int]) -> None:
    for target in targets:
        table.lookup(version, target)


def _print_costs() -> None:
    rng = random.Random(1)
    host = rng.getrandbits(128)
    cases = {
        "3 hosts": (4, [(rng.getrandbits(32), 32) for _ in range(3)]),
        "1,000 hosts": (4, [(rng.getrandbits(32), 32) for _ in range(1000)]),
        "65,000 /24": (4, [(10 << 24 | i << 8, 24) for i in range(65_000)]),
        "5,000 of /8 to /32": (
            4,
            [(10 << 24 | rng.getrandbits(24), rng.randrange(8, 33)) for _ in range(5000)],
        ),
        "2,100 of /0 /48 /64 /128": (
            6,
            [
                (rng.getrandbits(128), length)
                for length in (0, *[48] * 100, *[64] * 1000, *[128] * 999)
            ],
        ),
        "all 129 lengths, shortest hit": (6, [(host, length) for length in range(129)]),
    }
    for name, (version, networks) in cases.items():
        table: AllowedIps[int] = AllowedIps()
        bits = BITS[version]
        for number, (network, length) in enumerate(networks):
            table.insert(Prefix.of(network.to_bytes(bits // 8, "big"), length), number)
        targets = [rng.choice(networks)[0] for _ in range(1000)]
        if name.startswith("all"):
            targets = [host ^ 1 << 127] * 1000
        taken = min(timeit.repeat(partial(_look_up_all, table, version, targets), number=10))
        print(f"IPv{version} {name:32} {taken * 1e5:8.0f} ns")


if __name__ == "__main__":
    _print_costs()
