"""What every backend refuses, before it begins with the first change of a plan."""

from __future__ import annotations

import errno
from collections.abc import Container, Sized
from typing import Final, Protocol

from nvpn.errors import ControlError
from nvpn.model.changes import (
    AddPeer,
    Plan,
    SetFwmark,
    SetListenPort,
    SetPersistentKeepalive,
)
from nvpn.model.keys import PublicKey

MAX_PEERS: Final = 1 << 20
"""Of one interface; the kernel's limit too."""


class Peers(Sized, Container[PublicKey], Protocol):
    """The peers that there are: a dictionary's keys, or a set."""


def validate_plan(plan: Plan, peers: Peers, *, max_peers: int = MAX_PEERS) -> None:
    """Look at every change before the first is applied.

    Raises:
        ControlError: EINVAL, a number out of its range; ENOSPC, too many peers.
    """
    added: set[PublicKey] = set()
    for change in plan:
        if isinstance(change, AddPeer):
            if change.peer not in peers:
                added.add(change.peer)
        elif isinstance(change, SetListenPort):
            _expect_range("a listen port", change.port, 0xFFFF)
        elif isinstance(change, SetFwmark):
            _expect_range("a firewall mark", change.mark, 0xFFFF_FFFF)
        elif isinstance(change, SetPersistentKeepalive):
            _expect_range("a persistent keepalive", change.seconds, 0xFFFF)
    # Removals are not counted against it: a plan that needs them to fit is refused.
    if added and len(peers) + len(added) > max_peers:
        raise ControlError(errno.ENOSPC, f"an interface has at most {max_peers} peers")


def _expect_range(what: str, value: int, maximum: int) -> None:
    if not 0 <= value <= maximum:
        raise ControlError(errno.EINVAL, f"{what} is a number from 0 to {maximum}")
