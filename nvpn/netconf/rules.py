"""Policy rules that lead into a tunnel, and past it: pure.

A tunnel with a default route has a block of rules in each family, above all others::

    fwmark X   goto the end of the block       for each other tunnel's mark X
               lookup main, but no default route of it
    not fwmark T   lookup T
    (end of the block)

So what main knows better than by its default route is left to it, everything else goes to
table T, where the tunnel's default route is, and the tunnel's own packets, which carry mark
T, go on to the rules below. They may find an older tunnel's block there: then they go
through that one. That one's packets must not come back into this tunnel, or they would go
around in a circle: they skip the block.

The two plain rules are those of wg-quick(8), which marks packets but skips nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from nvpn.errors import PlatformError
from nvpn.netconf.api import MAIN_TABLE

FIRST_MARK: Final = 51820
"""Where the search for a mark begins, as with wg-quick."""

WHOLE_MARK: Final = 0xFFFFFFFF

_LAST_MARK: Final = 0xFFFF
_PRIORITY_OF_MAIN: Final = 32766


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule: packets of ``mark`` under ``mask`` (0 under 0: all) are its own.

    It sends them to ``table``, or on to the rule of priority ``goto``; with neither it does
    nothing but mark a place. ``is_inverted``: all other packets are its own. With
    ``suppress_prefixlength`` routes no longer than that do not count. ``has_more``: it
    selects by something else, too, that is not told here.
    """

    version: int
    priority: int
    table: int = 0
    mark: int = 0
    mask: int = 0
    is_inverted: bool = False
    suppress_prefixlength: int | None = None
    goto: int = 0
    has_more: bool = False

    def concerns(self, mark: int) -> bool:
        """Whether packets of that mark are selected by it, or by its inversion."""
        return self.mask != 0 and mark & self.mask == self.mark


def tunnel_marks(existing: Iterable[Rule]) -> frozenset[int]:
    """The marks of tunnels that have a default route, ours or wg-quick's."""
    return frozenset(rule.mark for rule in existing if _is_switch_over(rule))


def plan_rules(existing: Collection[Rule], *, version: int, mark: int) -> tuple[Rule, ...]:
    """The block of the tunnel with that mark, in the order in which it is added.

    The last one is the one that switches over; before it nothing changes for any packet.
    They are removed in reverse order.

    Raises:
        PlatformError: there is no room above the rules that exist.
    """
    ours = [rule for rule in existing if rule.version == version]
    others = sorted(tunnel_marks(ours) - {mark})
    lowest = _lowest(ours)
    # Without others nobody jumps, and nobody needs the end of the block.
    count = len(others) + 3 if others else 2
    first = lowest - count
    if first < 1:
        raise PlatformError(
            "add policy rules",
            hint=f"there is no room above priority {lowest}; see: ip rule",
        )
    suppress = Rule(version, first + len(others), MAIN_TABLE, suppress_prefixlength=0)
    switch_over = Rule(
        version, suppress.priority + 1, mark, mark=mark, mask=WHOLE_MARK, is_inverted=True
    )
    if not others:
        return suppress, switch_over
    end = Rule(version, switch_over.priority + 1)
    skips = [
        Rule(version, first + number, mark=other, mask=WHOLE_MARK, goto=end.priority)
        for number, other in enumerate(others)
    ]
    return (end, *skips, suppress, switch_over)


def plan_escape(existing: Collection[Rule], block: Collection[Rule]) -> Rule | None:
    """What our packets need when a tunnel came up above ours that does not let them pass.

    wg-quick's do not: our packets would go into that tunnel, and its packets into ours.

    Args:
        block: our own rules of one family.
    """
    switch_over = next((rule for rule in block if _is_switch_over(rule)), None)
    if switch_over is None:
        return None
    mark, version = switch_over.mark, switch_over.version
    above = sorted(
        (rule for rule in existing if rule.version == version),
        key=lambda rule: rule.priority,
    )
    for rule in above:
        if rule.priority >= switch_over.priority:
            return None
        if rule.concerns(mark) and not rule.is_inverted and (rule.goto or rule.table):
            return None  # they are led past what follows
        if _is_switch_over(rule) and rule.mark != mark:
            break
    else:
        return None
    priority = _lowest(above) - 1
    if priority < 1:
        return None
    end = next((rule for rule in block if not rule.table and not rule.goto), None)
    if end is None:  # no tunnel was below ours
        return Rule(version, priority, MAIN_TABLE, mark=mark, mask=WHOLE_MARK)
    return Rule(version, priority, mark=mark, mask=WHOLE_MARK, goto=end.priority)


def choose_mark(existing: Collection[Rule], is_used: Callable[[int], bool]) -> int:
    """A mark that no rule knows and whose table is empty.

    Args:
        is_used: whether a table has a route.

    Raises:
        PlatformError: there is none.
    """
    tables = {rule.table for rule in existing}
    for mark in range(FIRST_MARK, _LAST_MARK + 1):
        if mark in tables or any(rule.concerns(mark) for rule in existing):
            continue
        if not is_used(mark):
            return mark
    raise PlatformError(
        "choose a firewall mark",
        hint=f"{FIRST_MARK} to {_LAST_MARK} are taken by rules or tables; set fwmark",
    )


def _is_switch_over(rule: Rule) -> bool:
    return rule.is_inverted and rule.table == rule.mark != 0 and rule.mask == WHOLE_MARK


def _lowest(rules: Iterable[Rule]) -> int:
    """The priority above which there is nothing but the local table."""
    return min((rule.priority for rule in rules if rule.priority), default=_PRIORITY_OF_MAIN)
