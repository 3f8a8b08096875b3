"""What others may not take from those who were admitted by themselves.

`wg syncconf` computes by itself which peers its file does not have, and removes them one by
one. A server's clients are in no file: they leave by ``nvpn client revoke``. Nor are the
servers that a client's server names: they go when that names them no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from nvpn.model.changes import (
    AddPeer,
    Change,
    Owner,
    Plan,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
)
from nvpn.model.keys import PublicKey

_log: Final = logging.getLogger(__name__)


def spare_leased(plan: Plan, owner_of: Callable[[PublicKey], Owner | None]) -> Plan:
    """The plan of a ``set`` without what would make an end of peers that no file has.

    One that is removed loses only what the configuration gave it. One that is changed stays
    whose it is, but in a plan that replaces all peers: what that names is the file's.

    Args:
        owner_of: of a peer there is now; None for an unknown one.
    """
    spared: list[Change] = []
    replaces = False
    for change in plan:
        if isinstance(change, ReplacePeers):
            replaces = True
        elif isinstance(change, RemovePeer) and owner_of(change.peer) is Owner.LEASE:
            _log.info(
                "not removed: a server named it, or it is a client: that leaves by nvpn client"
                " revoke",
                extra={"peer": change.peer.short},
            )
            spared.append(ReplaceAllowedIps(change.peer))
            continue
        elif isinstance(change, AddPeer) and not replaces and owner_of(change.peer) is Owner.LEASE:
            continue
        spared.append(change)
    return tuple(spared)
