"""Packets that wait: 128 a peer, 32 MiB a device."""

from __future__ import annotations

from nvpn.datapath.staging import MAX_STAGED_BYTES, StagedPackets, StagingBudget


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(2, "big") for number in range(count)]


def test_of_200_packets_the_newest_128_are_kept_in_order() -> None:
    staged = StagedPackets(StagingBudget())
    dropped = sum(staged.push(packet) for packet in numbered(200))
    assert dropped == 72
    assert staged.take() == numbered(200)[72:]
    assert staged.take() == []


def test_the_device_has_room_for_32_mebibytes() -> None:
    assert StagingBudget().limit == MAX_STAGED_BYTES == 32 * 1024 * 1024


def test_a_full_device_takes_from_the_peer_that_asks_for_more() -> None:
    budget = StagingBudget(limit=1000)
    greedy, modest = StagedPackets(budget), StagedPackets(budget)
    assert modest.push(bytes(100)) == 0
    assert sum(greedy.push(bytes(300)) for _ in range(3)) == 0
    assert greedy.push(bytes(301)) == 2
    assert [len(packet) for packet in greedy.take()] == [300, 301]
    assert [len(packet) for packet in modest.take()] == [100]
    assert budget.used == 0


def test_a_peer_with_nothing_to_give_loses_the_new_packet() -> None:
    budget = StagingBudget(limit=1000)
    first, second = StagedPackets(budget), StagedPackets(budget)
    first.push(bytes(900))
    assert second.push(bytes(200)) == 1
    assert len(second) == 0
    assert len(first) == 1


def test_a_packet_larger_than_the_budget_empties_only_its_own_queue() -> None:
    budget = StagingBudget(limit=1000)
    staged = StagedPackets(budget)
    staged.push(bytes(500))
    assert staged.push(bytes(2000)) == 2
    assert budget.used == 0
