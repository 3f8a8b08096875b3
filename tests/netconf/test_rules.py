"""Policy rules on paper: a small model of ``ip rule`` says where packets go."""

from __future__ import annotations

import itertools

import pytest

from nvpn.errors import PlatformError
from nvpn.netconf.api import MAIN_TABLE
from nvpn.netconf.rules import (
    FIRST_MARK,
    WHOLE_MARK,
    Rule,
    choose_mark,
    plan_escape,
    plan_rules,
    tunnel_marks,
)

LOCAL, DEFAULT = 255, 253
HOST = (Rule(4, 0, LOCAL), Rule(4, 32766, MAIN_TABLE), Rule(4, 32767, DEFAULT))
LAN, OUTSIDE = "lan", "outside"


class Machine:
    """Rules and default routes of a host with an uplink, and tunnels that come and go."""

    def __init__(self, *extra: Rule) -> None:
        self.rules = [*HOST, *extra]
        self.blocks: dict[int, tuple[Rule, ...]] = {}
        self.tables = {MAIN_TABLE: "uplink"}

    def up(self, mark: int) -> None:
        self.tables[mark] = f"tunnel {mark}"
        self.blocks[mark] = plan_rules(self.rules, version=4, mark=mark)
        for rule in self.blocks[mark]:
            self.rules.append(rule)
            self.look_at_all()

    def down(self, mark: int) -> None:
        for rule in reversed(self.blocks.pop(mark)):
            self.rules.remove(rule)
            self.look_at_all()
        del self.tables[mark]

    def wg_quick_up(self, mark: int) -> None:
        """Two rules, each above all others."""
        self.tables[mark] = f"tunnel {mark}"
        for inverted in (True, False):
            priority = min(rule.priority for rule in self.rules if rule.priority) - 1
            if inverted:
                rule = Rule(4, priority, mark, mark=mark, mask=WHOLE_MARK, is_inverted=True)
            else:
                rule = Rule(4, priority, MAIN_TABLE, suppress_prefixlength=0)
            self.rules.append(rule)

    def way(self, mark: int, destination: str = OUTSIDE) -> str:
        """Where a packet of that mark goes, as fib_rules_lookup() decides it."""
        ordered = sorted(self.rules, key=lambda rule: rule.priority)
        position = 0
        while position < len(ordered):
            rule = ordered[position]
            position += 1
            if (mark & rule.mask == rule.mark) is rule.is_inverted:
                continue
            if rule.goto:
                assert rule.goto > rule.priority
                position = next(
                    number for number, target in enumerate(ordered) if target.priority == rule.goto
                )
            elif rule.table == MAIN_TABLE and destination == LAN:
                return LAN
            elif rule.table in self.tables and rule.suppress_prefixlength is None:
                return self.tables[rule.table]
        raise AssertionError("no way")

    def journey(self, mark: int = 0, destination: str = OUTSIDE) -> list[str]:
        """All that a packet goes through until it is on a wire; no place twice."""
        ways = [self.way(mark, destination)]
        while ways[-1].startswith("tunnel"):
            assert len(ways) == len(set(ways)), f"a circle: {ways}"
            ways.append(self.way(int(ways[-1].split()[1])))
        return ways

    def look_at_all(self) -> None:
        """Whatever the rules are at this moment, nobody goes around in circles."""
        for mark in (0, *self.tables):
            self.journey(0 if mark == MAIN_TABLE else mark)
            assert self.journey(0, LAN) == [LAN]


def test_a_first_tunnel_has_the_rules_of_wg_quick_at_priorities_of_its_own() -> None:
    assert plan_rules(HOST, version=4, mark=51820) == (
        Rule(4, 32764, MAIN_TABLE, suppress_prefixlength=0),
        Rule(4, 32765, 51820, mark=51820, mask=WHOLE_MARK, is_inverted=True),
    )


def test_a_second_tunnel_is_above_and_lets_the_packets_of_the_first_pass() -> None:
    first = plan_rules(HOST, version=4, mark=51820)

    second = plan_rules((*HOST, *first), version=4, mark=51821)

    assert second == (
        Rule(4, 32763),
        Rule(4, 32760, mark=51820, mask=WHOLE_MARK, goto=32763),
        Rule(4, 32761, MAIN_TABLE, suppress_prefixlength=0),
        Rule(4, 32762, 51821, mark=51821, mask=WHOLE_MARK, is_inverted=True),
    )


def test_the_rules_of_the_other_family_do_not_count() -> None:
    other = [Rule(6, 5, MAIN_TABLE), Rule(6, 9, 7, mark=7, mask=WHOLE_MARK, is_inverted=True)]

    assert plan_rules((*HOST, *other), version=4, mark=9) == plan_rules(HOST, version=4, mark=9)


def test_rules_of_the_administrator_are_below_ours() -> None:
    wanted = plan_rules((*HOST, Rule(4, 100, 12, has_more=True)), version=4, mark=9)

    assert [rule.priority for rule in wanted] == [98, 99]


def test_no_room_above_the_others_is_told() -> None:
    with pytest.raises(PlatformError) as caught:
        plan_rules((*HOST, Rule(4, 2, 12)), version=4, mark=9)

    assert str(caught.value) == (
        "cannot add policy rules; there is no room above priority 2; see: ip rule"
    )
    assert len(plan_rules((*HOST, Rule(4, 3, 12)), version=4, mark=9)) == 2


def test_one_tunnel_takes_all_but_the_lan_and_its_own_packets() -> None:
    machine = Machine()

    machine.up(51820)

    assert machine.journey() == ["tunnel 51820", "uplink"]
    assert machine.journey(0, LAN) == [LAN]


@pytest.mark.parametrize("ups", list(itertools.permutations((1, 2, 3))))
@pytest.mark.parametrize("downs", list(itertools.permutations((1, 2, 3))))
def test_three_tunnels_are_nested_in_the_order_in_which_they_came(
    ups: tuple[int, ...], downs: tuple[int, ...]
) -> None:
    machine = Machine()
    running: list[int] = []

    for mark in ups:
        machine.up(mark)
        running.insert(0, mark)
        assert machine.journey() == [*(f"tunnel {mark}" for mark in running), "uplink"]
    for mark in downs:
        machine.down(mark)
        running.remove(mark)
        assert machine.journey() == [*(f"tunnel {mark}" for mark in running), "uplink"]
    assert machine.rules == [*HOST]


@pytest.mark.parametrize("gone", (1, 2, 3))
def test_a_tunnel_that_comes_again_is_on_top(gone: int) -> None:
    machine = Machine()
    for mark in (1, 2, 3):
        machine.up(mark)

    machine.down(gone)
    machine.up(gone)

    assert machine.journey()[0] == f"tunnel {gone}"
    assert machine.journey()[-1] == "uplink"


def test_a_new_mark_takes_over_without_a_circle_and_without_a_way_past_the_tunnel() -> None:
    machine = Machine()
    machine.up(7)

    machine.up(8)
    assert machine.journey()[0] == "tunnel 8"
    machine.down(7)

    assert machine.journey() == ["tunnel 8", "uplink"]


def test_a_tunnel_of_wg_quick_carries_ours_that_comes_later() -> None:
    machine = Machine()
    machine.wg_quick_up(51820)

    machine.up(9)

    assert machine.journey() == ["tunnel 9", "tunnel 51820", "uplink"]


@pytest.mark.parametrize("below", ((), (1,), (1, 2)))
def test_a_tunnel_of_wg_quick_that_comes_later_gets_an_escape_for_our_packets(
    below: tuple[int, ...],
) -> None:
    machine = Machine()
    for mark in (*below, 9):
        machine.up(mark)
    before = machine.journey()
    assert plan_escape(machine.rules, machine.blocks[9]) is None
    machine.wg_quick_up(51820)
    with pytest.raises(AssertionError, match="a circle"):
        machine.journey()

    for mark in (*below, 9):
        escape = plan_escape(machine.rules, machine.blocks[mark])
        assert escape is not None
        machine.rules.append(escape)
        machine.blocks[mark] = (escape, *machine.blocks[mark])

    assert machine.journey() == ["tunnel 51820", *before]
    assert all(plan_escape(machine.rules, block) is None for block in machine.blocks.values())


def test_the_marks_of_tunnels_are_those_that_lead_past_their_own_table() -> None:
    rules = [
        *HOST,
        Rule(4, 9, 7, mark=7, mask=WHOLE_MARK, is_inverted=True),
        Rule(4, 10, 8, mark=8, mask=WHOLE_MARK),
        Rule(4, 11, 12, mark=9, mask=WHOLE_MARK, is_inverted=True),
        Rule(6, 12, 13, mark=13, mask=WHOLE_MARK, is_inverted=True),
    ]

    assert tunnel_marks(rules) == {7, 13}


def test_a_mark_is_chosen_that_no_rule_and_no_route_knows() -> None:
    rules = [
        *HOST,
        Rule(4, 9, MAIN_TABLE, mark=FIRST_MARK, mask=WHOLE_MARK),
        Rule(6, 9, FIRST_MARK + 1),
    ]

    assert choose_mark(HOST, lambda table: False) == FIRST_MARK
    assert choose_mark(rules, lambda table: table == FIRST_MARK + 2) == FIRST_MARK + 3


def test_a_mark_is_not_chosen_that_looks_like_somebody_else_s() -> None:
    somebody = Rule(4, 9, 12, mark=0xCA00, mask=0xFF00)

    assert choose_mark([*HOST, somebody], lambda table: False) == 0xCB00


def test_no_mark_at_all_is_told_with_a_remedy() -> None:
    with pytest.raises(PlatformError) as caught:
        choose_mark([*HOST, Rule(4, 9, 12, mark=0x8000, mask=0x8000)], lambda table: False)

    assert str(caught.value) == (
        "cannot choose a firewall mark; 51820 to 65535 are taken by rules or tables; set fwmark"
    )
