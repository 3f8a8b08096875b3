"""Where a tunnel's packets go, and who keeps out what must not come in or get past it.

Default routes are reached by policy rules (:mod:`nvpn.netconf.rules`). Whatever changes, the
new way is complete before the rule that leads there, and the old one goes last. The table of
the default route ends with "unreachable", so that nothing goes past the tunnel while its
interface is down either.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Final

from nvpn.config.model import TunnelConfig
from nvpn.daemon.firewall import Run, TunnelFirewall, undo_firewall
from nvpn.daemon.leftovers import Leftovers
from nvpn.daemon.routing_lock import routing_lock
from nvpn.daemon.routing_target import Target, explain_unheard_resolver
from nvpn.errors import PlatformError
from nvpn.model.prefixes import Prefix
from nvpn.netconf.api import Link
from nvpn.netconf.firewall import GuardFacts, SwitchFacts
from nvpn.netconf.linux import LinuxNetconf
from nvpn.netconf.linux_rules import NO_FAMILY, LinuxRules
from nvpn.netconf.linux_sysctl import heed_marks_of_arrivals
from nvpn.netconf.rules import Rule, choose_mark, plan_escape, plan_rules, tunnel_marks

__all__ = ["Routing", "Run", "undo_firewall", "undo_rules"]

_log: Final = logging.getLogger(__name__)

RULES: Final = "rules"
"""The kind of leftovers: ``rules`` as they are, ``ends``: (IP version, table)."""

_VERSIONS: Final = (4, 6)
_DOWN: Final = frozenset({errno.ENETDOWN, errno.ENODEV})


class Routing:
    """Policy rules, tables, the guard against spoofed packets, and the kill switch.

    Args:
        netconf: of the interface's namespace.
        is_apart: the interface is in another namespace than its UDP sockets, so that a
            default route cannot take our own packets with it.
    """

    def __init__(
        self,
        netconf: LinuxNetconf,
        link_name: str,
        leftovers: Leftovers,
        *,
        warn: Callable[[str], None],
        is_apart: bool,
        run: Run,
    ) -> None:
        self._netconf = netconf
        self._name = link_name
        self._leftovers = leftovers
        self._warn = warn
        self._is_apart = is_apart
        self._run = run
        self._firewall = TunnelFirewall(link_name, leftovers, run=run, warn=warn)
        self._opened: LinuxRules | None = None
        self._link: Link | None = None
        self._in_force = Target()
        self._chosen = 0
        # What is there now, by (table, prefix), (version, table) and (version, mark).
        self._routes: set[tuple[int, Prefix]] = set()
        self._ends: set[tuple[int, int]] = set()
        self._blocks: dict[tuple[int, int], tuple[Rule, ...]] = {}

    def choose_mark(self, config: TunnelConfig) -> int:
        """The mark of our outer packets.

        As configured, else chosen when a default route or the kill switch needs one, else 0.
        A chosen one is kept, and its table taken, so that nobody else chooses it.

        Raises:
            PlatformError: all are taken, …
        """
        interface = config.interface
        if interface.fwmark or self._is_apart:
            return interface.fwmark
        if not Target.of(config, mark=0, is_apart=False).versions and not interface.kill_switch:
            return 0
        if not self._chosen:
            self._chosen = self._claim_mark()
        return self._chosen

    def guard(self, config: TunnelConfig) -> None:
        """The kill switch, before anything else. Raises PlatformError."""
        if not config.interface.kill_switch:
            return
        mark = self.choose_mark(config)
        self._set_switch({mark} | self._in_force.marks)
        if sentence := explain_unheard_resolver(config, self._kernel.local_networks()):
            self._warn(sentence)

    def apply(self, config: TunnelConfig, link: Link, *, mark: int) -> None:
        """Table routes, anti-spoofing, default routes and rules.

        Raises:
            PlatformError: after taking its own back.
        """
        self.change(config, link, mark=mark)()

    def change(self, config: TunnelConfig, link: Link, *, mark: int) -> Callable[[], None]:
        """Add what is new; the returned function removes what is old.

        Until that is called, :meth:`go_back` removes what is new instead.

        Raises:
            PlatformError: having undone what it added.
        """
        self._link = link
        target = Target.of(config, mark=mark, is_apart=self._is_apart)
        with contextlib.ExitStack() as undo:
            undo.callback(self._reduce, self._in_force)
            self._extend(target)
            undo.pop_all()
        return lambda: self._settle_on(target)

    def go_back(self) -> None:
        """After a change, or a guard, that is not to be: remove what is new. Never raises."""
        self._settle_on(self._in_force)

    def network_changed(self) -> None:
        """Connected networks may be others now: the kill switch's LAN follows.

        And what others removed is put back: ``wg-quick down`` takes all rules away that look
        like its own, networkd all that it does not know, ``nft flush ruleset`` everything.
        Never raises.
        """
        self.settle()
        target = self._in_force
        self._firewall.distrust()
        if target.versions:
            self._set_guard(target.addresses, target.marks)
        if target.has_switch:
            self._try(lambda: self._set_switch(target.marks))

    def settle(self) -> None:
        """Make sure that all is there: the interface came up again, … Never raises.

        Linux takes an interface's routes with its last address or when it goes down.
        """
        if self._link is None:
            return  # a bare device, or one that has no link yet: there is nothing of ours
        for end in self._ends:
            self._try(lambda end=end: self._kernel.claim(*end))  # type: ignore[misc]
        try:
            self._add_routes(self._routes)
        except PlatformError as error:
            if error.errno not in _DOWN:
                _log.warning("%s", error)
        if self._blocks:
            with routing_lock():
                for key in list(self._blocks):
                    self._try(lambda key=key: self._repair(key))  # type: ignore[misc]

    def withdraw(self, *, keep_guard: bool) -> None:
        """Take all of it back, the kill switch only if wanted. Never raises."""
        self._chosen = 0
        self._reduce(Target())
        if keep_guard:
            return
        self._try(self._firewall.drop_switch)
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    # --- what is added ------------------------------------------------------------------

    def _extend(self, target: Target) -> None:
        if target.versions:
            old = self._in_force
            addresses = old.addresses if old.versions else ()
            self._set_guard((*addresses, *target.addresses), old.marks | target.marks)
        if 4 in target.versions:
            try:
                self._run(heed_marks_of_arrivals)
            except PlatformError as error:
                self._warn(str(error))
        lacking = {version for version in target.versions if not self._end(version, target)}
        self._add_routes(
            (table, prefix)
            for table, prefix in target.routes
            if table != target.mark or prefix.version not in lacking
        )
        with routing_lock():
            for version in sorted(target.versions - lacking):
                self._add_block(version, target.mark)

    def _end(self, version: int, target: Target) -> bool:
        """Make the table end. False where there is no such IP version, so that nothing leaks."""
        end = (version, target.mark)
        if end in self._ends:
            return True
        self._ends.add(end)
        self._note()
        try:
            if not self._kernel.claim(*end):
                self._ends.remove(end)  # somebody else's
        except PlatformError as error:
            self._ends.remove(end)
            if version == 4 or error.errno not in NO_FAMILY:
                raise
            _log.info("%s is no default route for IPv6: %s", self._name, error)
            return False
        return True

    def _add_routes(self, routes: Iterable[tuple[int, Prefix]]) -> None:
        """Where IPv6 is switched off for the interface alone, its table just ends."""
        assert self._link is not None
        for (table, version), prefixes in _by_table(routes).items():
            try:
                self._netconf.add_routes(self._link, prefixes, table=table)
            except PlatformError as error:
                if version == 4 or error.errno not in NO_FAMILY:
                    raise
                _log.info("%s", error)
            self._routes |= {(table, prefix) for prefix in prefixes}

    def _add_block(self, version: int, mark: int) -> None:
        if (version, mark) in self._blocks:
            return
        rules = plan_rules(self._kernel.rules(version), version=version, mark=mark)
        self._blocks[version, mark] = rules
        self._note()
        for rule in rules:
            self._kernel.add(rule)
        if missing := set(rules) - set(self._kernel.rules(version)):
            raise PlatformError(
                f"add policy rule {min(rule.priority for rule in missing)}",
                hint="somebody else removed it at once",
            )

    def _repair(self, key: tuple[int, int]) -> None:
        version, _ = key
        existing = self._kernel.rules(version)
        for rule in self._blocks[key]:
            if rule not in existing:
                self._kernel.add(rule)
        escape = plan_escape(existing, self._blocks[key])
        if escape is not None:
            self._blocks[key] = (escape, *self._blocks[key])
            self._note()
            self._kernel.add(escape)

    def _claim_mark(self) -> int:
        rules = self._all_rules()
        taken: set[int] = set()
        while True:
            mark = choose_mark(rules, lambda table: table in taken or self._kernel.is_used(table))
            self._ends.add((4, mark))
            self._note()
            if self._kernel.claim(4, mark):
                return mark
            self._ends.remove((4, mark))  # another one was faster
            taken.add(mark)

    # --- what is removed ----------------------------------------------------------------

    def _settle_on(self, target: Target) -> None:
        """Nothing but what the target wants is there from now on. Never raises."""
        if target.mark != self._chosen:
            self._chosen = 0
        self._reduce(target)
        if target.has_switch:
            self._try(lambda: self._set_switch(target.marks))
        else:
            self._try(self._firewall.drop_switch)

    def _reduce(self, target: Target) -> None:
        """Remove what the target does not want, but for the kill switch. Never raises."""
        before, self._in_force = self._in_force, target
        retired = before.marks - target.marks
        for version, mark in list(self._blocks):
            block = self._blocks.pop((version, mark))
            if mark == target.mark and version in target.versions:
                # Packets of a mark that was ours are not on their way any more.
                gone = [rule for rule in block if rule.goto and rule.mark in retired]
                self._blocks[version, mark] = tuple(rule for rule in block if rule not in gone)
            else:
                gone = list(block)
            for rule in reversed(gone):
                self._try(lambda rule=rule: self._kernel.remove(rule))  # type: ignore[misc]
        for (table, _), prefixes in _by_table(self._routes - target.routes).items():
            self._try(lambda p=prefixes, t=table: self._remove_routes(p, t))  # type: ignore[misc]
        self._routes &= target.routes
        wanted = {(version, target.mark) for version in target.versions}
        for end in self._ends - wanted - {(4, self._chosen)}:
            self._try(lambda end=end: self._kernel.release(*end))  # type: ignore[misc]
            self._ends.remove(end)
        if target.versions:
            self._try(lambda: self._set_guard(target.addresses, target.marks))
        else:
            self._try(self._firewall.drop_guard)
        self._note()

    def _remove_routes(self, prefixes: frozenset[Prefix], table: int) -> None:
        assert self._link is not None
        self._netconf.remove_routes(self._link, prefixes, table=table)

    def _try(self, act: Callable[[], object]) -> None:
        """Do it; a refusal is logged, for there is nobody left to refuse anything to."""
        try:
            act()
        except PlatformError as error:
            _log.warning("%s", error)

    # --- firewall -----------------------------------------------------------------------

    def _set_guard(self, addresses: Iterable[bytes], marks: Iterable[int]) -> None:
        assert self._link is not None
        unique = tuple(dict.fromkeys(addresses))
        self._firewall.set_guard(
            GuardFacts(self._name, self._link.index, self._link.name, unique, tuple(sorted(marks)))
        )

    def _set_switch(self, marks: Iterable[int]) -> None:
        # What other tunnels send is sealed, too; without it two kill switches would close
        # each other's tunnel.
        known = (set(marks) | tunnel_marks(self._all_rules())) - {0}
        lan = self._kernel.local_networks()
        self._firewall.set_switch(SwitchFacts(self._name, tuple(sorted(known)), lan))

    # --- the kernel ---------------------------------------------------------------------

    @property
    def _kernel(self) -> LinuxRules:
        if self._opened is None:
            self._opened = self._run(LinuxRules)
        return self._opened

    def _all_rules(self) -> list[Rule]:
        return [rule for version in _VERSIONS for rule in self._kernel.rules(version)]

    def _note(self) -> None:
        rules = [asdict(rule) for block in self._blocks.values() for rule in block]
        if rules or self._ends:
            self._leftovers.note(RULES, {"rules": rules, "ends": sorted(self._ends)})
        else:
            self._leftovers.forget(RULES)


def undo_rules(name: str, value: Any) -> None:
    """Remove the policy rules that a dead daemon noted. Raises PlatformError."""
    kernel = LinuxRules()
    try:
        for noted in reversed(value["rules"]):
            kernel.remove(Rule(**noted))
        for version, table in value["ends"]:
            kernel.release(version, table)
    finally:
        kernel.close()


def _by_table(
    routes: Iterable[tuple[int, Prefix]],
) -> dict[tuple[int, int], frozenset[Prefix]]:
    """By table and IP version."""
    found: defaultdict[tuple[int, int], set[Prefix]] = defaultdict(set)
    for table, prefix in routes:
        found[table, prefix.version].add(prefix)
    return {key: frozenset(prefixes) for key, prefixes in found.items()}
