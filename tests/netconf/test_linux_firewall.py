"""What nft makes of our text, in a network namespace of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from nvpn.errors import PlatformError
from nvpn.model.prefixes import Prefix, parse_address
from nvpn.netconf import linux_firewall
from nvpn.netconf.firewall import (
    GuardFacts,
    SwitchFacts,
    guard_rules,
    guard_table,
    iptables_rules,
    kill_switch_rules,
    switch_table,
)
from tests.support.own_namespace import in_new_namespace

STRANGE = "w=+._-g"


def tables() -> list[str]:
    done = subprocess.run(["nft", "-j", "list", "tables"], check=True, capture_output=True)
    entries = json.loads(done.stdout)["nftables"]
    return sorted(entry["table"]["name"] for entry in entries if "table" in entry)


@in_new_namespace
@pytest.mark.parametrize("name", ("wg0", STRANGE, "0.-", "1_x"))
def test_guard_and_switch_load_replace_themselves_and_go_again(name: str) -> None:
    lan = frozenset(map(Prefix.parse, ("10.0.0.0/8", "10.1.0.0/16", "fd01::/64")))
    facts = GuardFacts(name, 1, name, (parse_address("10.9.0.1"), parse_address("fd09::1")), (7,))

    for marks in ((7,), (7, 8)):
        linux_firewall.apply_ruleset(guard_rules(facts))
        linux_firewall.apply_ruleset(kill_switch_rules(SwitchFacts(name, marks, lan)))

    assert tables() == sorted([guard_table(name), switch_table(name)])
    for table in (guard_table(name), switch_table(name), switch_table(name)):
        linux_firewall.remove_table(table)
    assert tables() == []


@in_new_namespace
def test_what_nft_refuses_is_told_in_its_words_and_changes_nothing() -> None:
    linux_firewall.apply_ruleset("add table inet r5kept")

    with pytest.raises(PlatformError) as caught:
        linux_firewall.apply_ruleset("delete table inet r5kept\nadd rule inet r5none x accept")

    assert str(caught.value).startswith("cannot change the firewall; nft says: ")
    assert "\n" not in str(caught.value)
    assert tables() == ["r5kept"]


def test_a_program_is_looked_for_in_absolute_places_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ip6tables-restore"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ":.:")
    monkeypatch.setattr(linux_firewall, "_SBIN", "/nonexistent")
    assert not linux_firewall.has_iptables(6)
    with pytest.raises(PlatformError, match="ip6tables-restore is not installed"):
        linux_firewall.apply_iptables("", 6)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert linux_firewall.has_iptables(6)


def test_iptables_gets_our_text_and_loses_what_it_saved_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By stand-ins that keep what they are given: iptables is seldom there beside nft."""
    facts = GuardFacts("wg0", 1, "wg0", (parse_address("10.9.0.1"),), (7,))
    for program in ("iptables", "ip6tables"):
        restore, save = tmp_path / f"{program}-restore", tmp_path / f"{program}-save"
        restore.write_text(
            f'#!/bin/sh\nprintf "%s " "$@" >{restore}.args\n/bin/cat >{restore}.in\n'
        )
        save.write_text(f"#!/bin/sh\n/bin/sed 's/^-I/-A/' {restore}.in 2>/dev/null || :\n")
        for path in (restore, save):
            path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    linux_firewall.apply_iptables(iptables_rules(facts, 4), 4)

    given = tmp_path / "iptables-restore.in"
    assert given.read_text() == iptables_rules(facts, 4)
    assert (tmp_path / "iptables-restore.args").read_text() == "-n "
    linux_firewall.remove_iptables("wg0")
    assert given.read_text() == iptables_rules(facts, 4).replace("-I ", "-D ")
    assert not (tmp_path / "ip6tables-restore.in").exists()
    os.unlink(given)
    linux_firewall.remove_iptables("wg0")
    assert not given.exists()
