"""Clears away what a dead daemon left outside its interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from nvpn.daemon.kernel_tunnel import undo_link
from nvpn.daemon.name_service import undo_dns
from nvpn.daemon.routing import undo_firewall, undo_rules

UNDOERS: Final[Mapping[str, Callable[[str, Any], None]]] = {
    "rules": undo_rules,
    "firewall": undo_firewall,
    "dns": undo_dns,
    "link": undo_link,
}
"""By the kind of :class:`nvpn.daemon.leftovers.Leftovers`: ``undo(name, value)``.

Each blocks, may be called again, and raises PlatformError.
"""


def clean_up(name: str) -> list[str]:
    """Undo what a dead daemon of that name left; sentences about what was undone."""
    return []
