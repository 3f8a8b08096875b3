"""Clears away what a dead daemon left outside its interface."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from nvpn.control.client import is_running
from nvpn.control.paths import leftovers_path
from nvpn.daemon.leftovers import NAMESPACE, Leftovers
from nvpn.daemon.name_service import undo_dns
from nvpn.daemon.routing import undo_firewall, undo_rules
from nvpn.errors import PlatformError
from nvpn.netconf.linux_namespace import call_in, open_namespace

_log: Final = logging.getLogger(__name__)


def _undo_link(name: str, value: Any) -> None:
    # Few have one, and all would pay for the import.
    from nvpn.daemon.kernel_tunnel import undo_link

    undo_link(name, value)


def _undo_forwarding(name: str, value: Any) -> None:
    from nvpn.daemon.forwarding import undo_forwarding

    undo_forwarding(name, value)


def _undo_forwarding_table(name: str, value: Any) -> None:
    from nvpn.daemon.forwarding import undo_forwarding_table

    undo_forwarding_table(name, value)


def _undo_channel(name: str, value: Any) -> None:
    from nvpn.daemon.channel_guard import undo_channel

    undo_channel(name, value)


UNDOERS: Final[Mapping[str, Callable[[str, Any], None]]] = {
    "rules": undo_rules,
    "firewall": undo_firewall,
    "dns": undo_dns,
    "link": _undo_link,
    "forwarding": _undo_forwarding,
    "forwarding_table": _undo_forwarding_table,
    "channel": _undo_channel,
}
"""By the kind of :class:`nvpn.daemon.leftovers.Leftovers`: ``undo(name, value)``.

Each blocks, may be called again, and raises PlatformError.
"""

_CALLED: Final = {
    "rules": "its policy rules",
    "firewall": "its firewall rules",
    "dns": "its name servers",
    "link": "its interface",
    "forwarding": "its forwarding",
    "forwarding_table": "its rules for what is forwarded",
    "channel": "its channel's firewall rules",
}
_ON_DISK: Final = frozenset({"dns"})
"""What outlives a start of the machine."""


def clean_up(name: str, *, keep: frozenset[str] = frozenset()) -> list[str]:
    """Undo what a dead daemon of that name left; sentences about what was undone, or not.

    Does nothing while the interface is served. Never raises.

    Args:
        keep: kinds that whoever calls is about to make anew, without a moment without.
    """
    leftovers = Leftovers(leftovers_path(name))
    pending = leftovers.pending()
    if not pending or is_running(name):
        return []
    told: list[str] = []
    undone: list[str] = []
    with _Home(str(pending.get(NAMESPACE, ""))) as home:
        for kind, value in reversed(list(pending.items())):
            if kind in keep or kind == NAMESPACE:
                continue
            undo = UNDOERS.get(kind)
            if undo is None:
                told.append(f"{name} left something that this nvpn does not know: {kind}")
                continue
            has_it_gone = not leftovers.is_of_this_boot or home.is_gone
            if not has_it_gone or kind in _ON_DISK:
                try:
                    home.call(lambda undo=undo, value=value: undo(name, value))  # type: ignore[misc]
                except PlatformError as error:
                    told.append(f"{name} left {_CALLED[kind]}: {error}")
                    continue
                except (TypeError, ValueError, KeyError, AttributeError):
                    # Somebody wrote into the file. There is nothing that could be undone.
                    _log.exception("what is noted about %s makes no sense", kind)
                undone.append(_CALLED[kind])
            leftovers.forget(kind)
    if leftovers.pending().keys() <= {NAMESPACE}:
        leftovers.forget(NAMESPACE)
    if undone:
        told.insert(0, f"{name} was killed; what it left is removed: {', '.join(undone)}")
    return told


class _Home:
    """Where the dead daemon's interface was."""

    def __init__(self, text: str) -> None:
        self._namespace = -1
        self.is_gone = False
        if not text:
            return
        try:
            self._namespace = open_namespace(text)
        except PlatformError:
            self.is_gone = True  # and all that was in it

    def __enter__(self) -> _Home:
        return self

    def __exit__(self, *_: object) -> None:
        if self._namespace >= 0:
            os.close(self._namespace)

    def call(self, call: Callable[[], None]) -> None:
        """Raises what it raises."""
        if self._namespace >= 0:
            call_in(self._namespace, call)
        else:
            call()
