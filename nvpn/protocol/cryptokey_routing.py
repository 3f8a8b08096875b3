"""Which peer owns which prefix, as configured: what ``get`` lists.

Packets are looked up in the datapath's own table; here nothing is ever matched, so
plain dictionaries serve.
"""

from __future__ import annotations

from nvpn.datapath.commands import PeerId
from nvpn.model.prefixes import Prefix


class CryptokeyRouting:
    """A prefix has one owner; a peer has prefixes in the order in which they were added."""

    def __init__(self) -> None:
        self._owners: dict[Prefix, PeerId] = {}
        self._prefixes: dict[PeerId, dict[Prefix, None]] = {}

    def insert(self, peer: PeerId, prefix: Prefix) -> bool:
        """Give the peer a prefix, whoever had it; False when it was the peer's already."""
        owner = self._owners.get(prefix)
        if owner == peer:
            return False
        if owner is not None:
            self._prefixes[owner].pop(prefix)
        self._owners[prefix] = peer
        self._prefixes.setdefault(peer, {})[prefix] = None
        return True

    def delete(self, peer: PeerId, prefix: Prefix) -> bool:
        """Take a prefix away; False when it was not this peer's."""
        if self._owners.get(prefix) != peer:
            return False
        del self._owners[prefix], self._prefixes[peer][prefix]
        return True

    def forget(self, peer: PeerId) -> None:
        """Take all prefixes away."""
        for prefix in self._prefixes.pop(peer, ()):
            del self._owners[prefix]

    def prefixes(self, peer: PeerId) -> tuple[Prefix, ...]:
        """The peer's, in the order in which it got them."""
        return tuple(self._prefixes.get(peer, ()))
