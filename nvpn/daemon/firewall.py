"""The firewall tables of one tunnel: noted on disk before they are made, replaced in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from nvpn.daemon.leftovers import Leftovers
from nvpn.errors import PlatformError
from nvpn.netconf.firewall import (
    GuardFacts,
    SwitchFacts,
    guard_rules,
    guard_table,
    iptables_rules,
    kill_switch_rules,
    switch_table,
)
from nvpn.netconf.linux_firewall import (
    apply_iptables,
    apply_ruleset,
    has_iptables,
    has_nft,
    remove_iptables,
    remove_table,
)

_T = TypeVar("_T")

FIREWALL: Final = "firewall"
"""The kind of leftovers: names of nft tables of the family inet, or :data:`IPTABLES`."""

IPTABLES: Final = "iptables"
"""Stands for our rules in iptables. No table of ours is called so."""


class Run(Protocol):
    """Calls in the network namespace of the interface, and returns what that returns."""

    def __call__(self, call: Callable[[], _T], /) -> _T:
        """Raises what the call raises."""


class TunnelFirewall:
    """The guard against spoofed packets, and the kill switch.

    What a killed daemon of the name has left, as far as nobody cleared it away, is taken
    over: so there is no moment without it.
    """

    def __init__(
        self, name: str, leftovers: Leftovers, *, run: Run, warn: Callable[[str], None]
    ) -> None:
        self._name = name
        self._leftovers = leftovers
        self._run = run
        self._warn = warn
        self._noted = _read(leftovers.pending().get(FIREWALL))
        self._texts: dict[str, str] = {}
        self._has_warned = False

    def set_guard(self, facts: GuardFacts) -> None:
        """Keep spoofed packets out. Without nft or iptables that is a warning; never raises."""
        try:
            if has_nft():
                self._set(guard_table(self._name), guard_rules(facts))
                return
        except PlatformError as error:
            reason = str(error)
        else:
            reason = "neither nft nor iptables is installed"
        try:
            if self._set_iptables(facts):
                return
        except PlatformError as error:
            reason = str(error)
        if not self._has_warned:
            self._has_warned = True
            self._warn(
                f"{self._name}: packets to its addresses are accepted from any network: {reason}"
            )

    def drop_guard(self) -> None:
        """Take it away. Raises PlatformError."""
        self._drop(guard_table(self._name))
        self._drop(IPTABLES)

    def set_switch(self, facts: SwitchFacts) -> None:
        """Let nothing out but through the tunnel and to the LAN. Raises PlatformError."""
        try:
            self._set(switch_table(self._name), kill_switch_rules(facts))
        except PlatformError as error:
            raise PlatformError(
                f"set up the kill switch of {self._name}",
                errno=error.errno,
                hint=error.hint + ("" if has_nft() else "; it needs nftables"),
            ) from None

    def drop_switch(self) -> None:
        """Take it away. Raises PlatformError."""
        self._drop(switch_table(self._name))

    def distrust(self) -> None:
        """Others may have removed what we set: the next time it is set again, as it is."""
        self._texts.clear()

    def _set(self, table: str, text: str) -> None:
        if self._texts.get(table) == text:
            return
        was_noted = table in self._noted
        self._note(table)
        try:
            self._run(lambda: apply_ruleset(text))
        except PlatformError:
            if not was_noted:
                self._forget(table)  # refused as a whole
            raise
        self._texts[table] = text

    def _set_iptables(self, facts: GuardFacts) -> bool:
        wanted = sorted({4 if len(address) == 4 else 6 for address in facts.addresses})
        texts = {version: iptables_rules(facts, version) for version in wanted}
        if not all(map(has_iptables, texts)):
            return False
        if self._texts.get(IPTABLES) == str(texts):
            return True
        self._note(IPTABLES)
        self._run(lambda: remove_iptables(self._name))
        for version, text in texts.items():
            self._run(lambda text=text, version=version: apply_iptables(text, version))  # type: ignore[misc]
        self._texts[IPTABLES] = str(texts)
        return True

    def _drop(self, table: str) -> None:
        if table not in self._noted:
            return
        self._run(lambda: _remove(table, self._name))
        self._texts.pop(table, None)
        self._forget(table)

    def _note(self, table: str) -> None:
        if table not in self._noted:
            self._noted.append(table)
            self._leftovers.note(FIREWALL, self._noted)

    def _forget(self, table: str) -> None:
        self._noted.remove(table)
        if self._noted:
            self._leftovers.note(FIREWALL, self._noted)
        else:
            self._leftovers.forget(FIREWALL)


def undo_firewall(name: str, value: Any) -> None:
    """Remove the firewall tables that a dead daemon noted. Raises PlatformError."""
    # Only what could be ours: somebody may have written into the file.
    for table in _read(value):
        if table in (guard_table(name), switch_table(name), IPTABLES):
            _remove(table, name)


def _remove(table: str, name: str) -> None:
    if table == IPTABLES:
        remove_iptables(name)
    else:
        remove_table(table)


def _read(value: Any) -> list[str]:
    return [table for table in value if isinstance(table, str)] if isinstance(value, list) else []
