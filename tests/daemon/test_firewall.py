"""A tunnel's firewall tables: noted before they are made, and only ours are ever removed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nvpn.daemon.firewall import FIREWALL, TunnelFirewall, undo_firewall
from nvpn.daemon.leftovers import Leftovers
from nvpn.errors import PlatformError
from nvpn.model.prefixes import parse_address
from nvpn.netconf.firewall import GuardFacts, SwitchFacts
from tests.support.own_namespace import in_new_namespace

GUARD = GuardFacts("wg0", 1, "wg0", (parse_address("10.9.0.1"),), (7,))
SWITCH = SwitchFacts("wg0", (7,))


def tables() -> list[str]:
    done = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True)
    return [line.split()[-1] for line in done.stdout.splitlines()]


def make(leftovers: Leftovers, warnings: list[str]) -> TunnelFirewall:
    return TunnelFirewall("wg0", leftovers, run=lambda call: call(), warn=warnings.append)


@in_new_namespace
def test_each_table_is_noted_while_it_is_there(tmp_path: Path) -> None:
    leftovers, warnings = Leftovers(str(tmp_path / "l")), []
    firewall = make(leftovers, warnings)

    firewall.set_switch(SWITCH)
    firewall.set_guard(GUARD)
    assert tables() == leftovers.pending()[FIREWALL] == ["nvpn-wg0/switch", "nvpn-wg0"]
    firewall.drop_guard()
    assert tables() == leftovers.pending()[FIREWALL] == ["nvpn-wg0/switch"]
    firewall.drop_switch()
    firewall.drop_switch()

    assert tables() == []
    assert FIREWALL not in leftovers.pending()
    assert warnings == []


@in_new_namespace
def test_what_a_dead_daemon_left_is_taken_over(tmp_path: Path) -> None:
    make(Leftovers(str(tmp_path / "l")), []).set_switch(SWITCH)

    firewall = make(Leftovers(str(tmp_path / "l")), [])
    assert tables() == ["nvpn-wg0/switch"]
    firewall.drop_switch()

    assert tables() == []


@in_new_namespace
def test_what_is_refused_is_not_noted(tmp_path: Path) -> None:
    leftovers, warnings = Leftovers(str(tmp_path / "l")), []
    firewall = make(leftovers, warnings)

    with pytest.raises(PlatformError, match="set up the kill switch of wg0"):
        firewall.set_switch(SwitchFacts("wg0", (-1,)))

    assert leftovers.pending() == {}


@in_new_namespace
def test_only_tables_of_this_name_are_removed_whatever_the_file_says() -> None:
    subprocess.run(["nft", "add", "table", "inet", "r5other"], check=True)
    subprocess.run(["nft", "add", "table", "inet", "nvpn-wg0"], check=True)

    undo_firewall("wg0", ["r5other", "nvpn-wg0", "nvpn-wg1", 7, None])
    undo_firewall("wg0", "r5other")

    assert tables() == ["r5other"]
