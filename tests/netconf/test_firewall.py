"""The firewall as text; that nft takes it is shown in test_linux_firewall.py."""

from __future__ import annotations

from nvpn.model.prefixes import Prefix, parse_address
from nvpn.netconf.firewall import (
    GuardFacts,
    SwitchFacts,
    guard_rules,
    guard_table,
    iptables_removal,
    iptables_rules,
    kill_switch_rules,
    switch_table,
)

GUARD = GuardFacts(
    "wg0", 7, "wg0", (parse_address("10.9.0.1"), parse_address("fd09::1")), (51820,)
)


def test_the_guard_replaces_itself_and_drops_what_came_another_way() -> None:
    assert guard_rules(GUARD) == (
        "add table inet nvpn-wg0\n"
        "delete table inet nvpn-wg0\n"
        "table inet nvpn-wg0 {\n"
        "\tchain preraw {\n"
        "\t\ttype filter hook prerouting priority raw; policy accept;\n"
        "\t\tiif != 7 ip daddr 10.9.0.1 fib saddr type != local drop\n"
        "\t\tiif != 7 ip6 daddr fd09::1 fib saddr type != local drop\n"
        "\t}\n"
        "\tchain premangle {\n"
        "\t\ttype filter hook prerouting priority mangle; policy accept;\n"
        "\t\tmeta l4proto udp ct mark { 51820 } meta mark set ct mark\n"
        "\t}\n"
        "\tchain postmangle {\n"
        "\t\ttype filter hook postrouting priority mangle; policy accept;\n"
        "\t\tmeta l4proto udp meta mark { 51820 } ct mark set meta mark\n"
        "\t}\n"
        "}\n"
    )


def test_the_kill_switch_knows_the_lan_and_believes_in_no_enormous_one() -> None:
    lan = {"192.168.1.0/24", "10.0.0.0/8", "0.0.0.0/1", "fd11::/64", "2000::/3"}

    text = kill_switch_rules(SwitchFacts("wg0", (1, 2), frozenset(map(Prefix.parse, lan))))

    assert "elements = { 10.0.0.0/8, 192.168.1.0/24 }" in text
    assert "elements = { fd11::/64 }" in text
    assert "meta mark { 1, 2 } accept" in text
    assert text.count("policy drop") == 2


def test_a_kill_switch_without_marks_and_lan_has_no_empty_sets_of_elements() -> None:
    text = kill_switch_rules(SwitchFacts("wg0", ()))

    assert "elements" not in text
    assert "meta mark" not in text


def test_tables_of_any_two_interfaces_have_different_names() -> None:
    names = ["wg0", "wg0-switch", "wg0=", "wg0+", "wg0.3d", "wg0-3d"]

    tables = [table(name) for name in names for table in (guard_table, switch_table)]

    assert len(set(tables)) == len(tables)


def test_the_same_guard_for_iptables_is_found_again_by_its_comment() -> None:
    text = iptables_rules(GUARD, 6)

    assert text == (
        "*raw\n"
        "-I PREROUTING ! -i wg0 -d fd09::1 -m addrtype ! --src-type LOCAL -j DROP"
        ' -m comment --comment "nvpn rule for wg0"\n'
        "COMMIT\n"
        "*mangle\n"
        "-I POSTROUTING -m mark --mark 51820 -p udp -j CONNMARK --save-mark"
        ' -m comment --comment "nvpn rule for wg0"\n'
        "-I PREROUTING -m connmark --mark 51820 -p udp -j CONNMARK --restore-mark"
        ' -m comment --comment "nvpn rule for wg0"\n'
        "COMMIT\n"
    )
    saved = (
        "# made by iptables-save\n"
        "*raw\n"
        ":PREROUTING ACCEPT [0:0]\n"
        '-A PREROUTING ! -i wg0 -m comment --comment "nvpn rule for wg0" -j DROP\n'
        '-A PREROUTING ! -i wg01 -m comment --comment "nvpn rule for wg01" -j DROP\n'
        "COMMIT\n"
    )

    assert iptables_removal(saved, "wg0") == (
        '*raw\n-D PREROUTING ! -i wg0 -m comment --comment "nvpn rule for wg0" -j DROP\nCOMMIT\n'
    )
    assert iptables_removal(saved, "wg1") == ""
