"""Our initiations that are not answered yet."""

from __future__ import annotations

import struct
from typing import Final

from nvpn.datapath.loops import OwnDatagrams
from nvpn.datapath.python.peer import Peer
from nvpn.wire.messages import MessageType

_HEAD: Final = struct.Struct("<II")


class Initiations:
    """The latest of each peer, by our index.

    Args:
        own: knows them by their first bytes, should they come to us to be sent.
    """

    def __init__(self, own: OwnDatagrams[Peer]) -> None:
        self._own: Final = own
        self._peers: Final[dict[int, Peer]] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._peers

    def expect_answer(self, peer: Peer, index: int | None) -> None:
        """To the initiation with this index, and to none before it; None: to none."""
        before = peer.initiation_index
        if before is not None:
            self._own.discard(_HEAD.pack(MessageType.INITIATION, before), peer)
            if self._peers.get(before) is peer:
                del self._peers[before]
        peer.initiation_index = index
        if index is not None:
            self._peers[index] = peer
            self._own.add(_HEAD.pack(MessageType.INITIATION, index), peer)

    def clear(self) -> None:
        """Expect nothing any more."""
        self._peers.clear()
