"""Policy rules and tables of the real kernel, in a network namespace of the test's own."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from nvpn.errors import PlatformError
from nvpn.model.prefixes import Prefix
from nvpn.netconf.linux_rules import LinuxRules, read_rule
from nvpn.netconf.rules import WHOLE_MARK, Rule, plan_rules
from nvpn.overlay.linux import open_tun
from tests.support.own_namespace import in_new_namespace


def run(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


@in_new_namespace
@pytest.mark.parametrize("version", (4, 6))
def test_a_whole_block_comes_is_read_back_and_goes(version: int) -> None:
    kernel = LinuxRules()
    before = run(f"ip -{version} rule")
    other = Rule(version, 30000, 7000, mark=7000, mask=WHOLE_MARK, is_inverted=True)
    kernel.add(other)
    block = plan_rules(kernel.rules(version), version=version, mark=51820)

    for rule in (*block, *block):
        kernel.add(rule)

    assert [rule for rule in kernel.rules(version) if rule in block] == sorted(
        block, key=lambda rule: rule.priority
    )
    assert [line for line in run(f"ip -{version} rule").splitlines() if "proto" in line] == [
        "29996:\tfrom all fwmark 0x1b58 goto 29999 proto 110",
        "29997:\tfrom all lookup main suppress_prefixlength 0 proto 110",
        "29998:\tnot from all fwmark 0xca6c lookup 51820 proto 110",
        "29999:\tfrom all nop proto 110",
        "30000:\tnot from all fwmark 0x1b58 lookup 7000 proto 110",
    ]
    for rule in (*block, other, *block):
        kernel.remove(rule)
    assert run(f"ip -{version} rule") == before


@in_new_namespace
def test_a_rule_of_somebody_else_at_the_same_place_is_left_alone() -> None:
    kernel = LinuxRules()
    run("ip rule add priority 99 table main suppress_prefixlength 0")
    run("ip rule add priority 99 from 10.0.0.0/8 lookup 12")

    kernel.remove(Rule(4, 99, 254, suppress_prefixlength=0))  # not of our protocol
    kernel.remove(Rule(4, 99, 12))

    assert len([rule for rule in kernel.rules(4) if rule.priority == 99]) == 2
    assert [rule.has_more for rule in kernel.rules(4) if rule.table == 12] == [True]


@in_new_namespace
def test_rules_of_wg_quick_are_understood() -> None:
    kernel = LinuxRules()
    run("ip rule add not fwmark 51820 table 51820")
    run("ip rule add table main suppress_prefixlength 0")
    run("ip rule add priority 5 fwmark 0x10/0xf0 iif lo prohibit")

    assert kernel.rules(4)[1:4] == [
        Rule(4, 5, mark=0x10, mask=0xF0, has_more=True),
        Rule(4, 32764, 254, suppress_prefixlength=0),
        Rule(4, 32765, 51820, mark=51820, mask=WHOLE_MARK, is_inverted=True),
    ]


@in_new_namespace
@pytest.mark.parametrize("version", (4, 6))
@pytest.mark.parametrize("table", (200, 51820))
def test_a_claimed_table_has_an_end_that_outlives_the_interface(version: int, table: int) -> None:
    kernel = LinuxRules()
    tun = open_tun("r5t0")
    run("ip link set r5t0 up")
    assert not kernel.is_used(table)

    assert kernel.claim(version, table)
    assert not kernel.claim(version, table)
    run(f"ip -{version} route add default dev r5t0 table {table}")
    os.close(tun.fd)

    assert kernel.is_used(table)
    (route,) = json.loads(run(f"ip -{version} -j route show table {table}"))
    assert (route["type"], route["dst"]) == ("unreachable", "default")
    kernel.release(version, table)
    kernel.release(version, table)
    assert not kernel.is_used(table)


@in_new_namespace
def test_the_local_networks_are_those_on_a_wire_without_a_router() -> None:
    kernel = LinuxRules()
    tun = open_tun("r5t0")
    run("ip link add r5v0 type veth peer name r5v1")
    for link in ("r5t0", "r5v0", "r5v1"):
        run(f"ip link set {link} up")
    run("ip address add 10.1.0.1/24 dev r5v0")
    run("ip address add fd01::1/64 dev r5v0 nodad")
    run("ip address add 10.2.0.1/24 dev r5t0")
    run("ip route add 10.3.0.0/16 via 10.1.0.2")
    run("ip route add default via 10.1.0.2")
    run("ip route add 10.4.0.0/16 dev r5v0 table 12")
    run("ip route add unreachable 10.5.0.0/16")
    run("ip route add 10.6.0.0/16 nexthop via 10.1.0.2 nexthop via 10.1.0.3")

    networks = {str(prefix) for prefix in kernel.local_networks()}

    assert networks == {"10.1.0.0/24", "fd01::/64"}
    os.close(tun.fd)
    assert kernel.local_networks() == {Prefix.parse("10.1.0.0/24"), Prefix.parse("fd01::/64")}


@in_new_namespace
def test_a_refusal_is_one_sentence() -> None:
    kernel = LinuxRules()

    with pytest.raises(PlatformError) as caught:
        kernel.add(Rule(4, 9, goto=5))

    assert str(caught.value).startswith("cannot add policy rule 9: ")


@pytest.mark.parametrize("length", range(60))
def test_a_message_cut_short_is_no_rule_or_a_poorer_one(length: int) -> None:
    whole = bytes(16) + bytes([2, 0, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0])
    whole += (8).to_bytes(2, "little") + (6).to_bytes(2, "little") + (99).to_bytes(4, "little")
    whole += bytes(3) + b"\xff" * 20

    rule = read_rule(whole[:length])

    assert rule is None if length < 28 else rule is not None
