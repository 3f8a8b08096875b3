"""What others may not take from those who were admitted by themselves.

`wg syncconf` computes by itself which peers its file does not have, and removes them one by
one. A server's clients are in no file: they leave by ``nvpn client revoke``. Nor are the
servers that a client's server names: they go when that names them no more. So both stay; but
whoever means one of them, by `wg set … peer … remove`, is refused, and knows.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Final

from nvpn.errors import ControlError
from nvpn.model.changes import (
    AddPeer,
    Change,
    Owner,
    Plan,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
    SetPrivateKey,
)
from nvpn.model.keys import PublicKey

_log: Final = logging.getLogger(__name__)


_WHY: Final = (
    "a client, or an invitation, leaves by nvpn client revoke; a server that another one has told"
    " of, when it is told of no more"
)


def spare_leased(plan: Plan, owner_of: Callable[[PublicKey], Owner | None]) -> Plan:
    """The plan of a ``set`` without what would make an end of peers that no file has.

    One that is removed loses only what the configuration gave it. One that is changed stays
    whose it is, but in a plan that replaces all peers: what that names is the file's.

    Args:
        owner_of: of a peer there is now; None for an unknown one.

    Raises:
        ControlError: it does not come from a whole file, which always says which key is ours,
            and removes such a peer.
    """
    is_of_file = any(isinstance(change, SetPrivateKey | ReplacePeers) for change in plan)
    spared: list[Change] = []
    replaces = False
    for change in plan:
        if isinstance(change, ReplacePeers):
            replaces = True
        elif isinstance(change, RemovePeer) and owner_of(change.peer) is Owner.LEASE:
            if not is_of_file:
                raise ControlError(errno.EOPNOTSUPP, f"{change.peer.short} stays: {_WHY}")
            _log.info("not removed: %s", _WHY, extra={"peer": change.peer.short})
            spared.append(ReplaceAllowedIps(change.peer))
            continue
        elif isinstance(change, AddPeer) and not replaces and owner_of(change.peer) is Owner.LEASE:
            continue
        spared.append(change)
    return tuple(spared)
