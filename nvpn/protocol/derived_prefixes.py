"""Prefixes that peers have beside their allowed IPs, by who they are.

Nobody configured them and nobody sees them. What is diverted is routed by them, before the
very same prefix among the allowed IPs of any peer, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable

from nvpn.datapath.commands import PeerId
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix


class DerivedPrefixes:
    """One at most of each peer, and no two of the same."""

    def __init__(self) -> None:
        self.derive: Callable[[PublicKey], Prefix] | None = None
        """What a peer's is; None while peers have none."""
        self._owners: dict[Prefix, PeerId] = {}
        self._prefixes: dict[PeerId, Prefix] = {}

    def give(self, peer: PeerId, public_key: PublicKey) -> Prefix | None:
        """The prefix that the peer has from now on; None: none, or it has it already."""
        if self.derive is None or peer in self._prefixes:
            return None
        prefix = self.derive(public_key)
        if prefix in self._owners:
            return None
        self._owners[prefix] = peer
        self._prefixes[peer] = prefix
        return prefix

    def take(self, peer: PeerId) -> Prefix | None:
        """The prefix that the peer had; None: none."""
        prefix = self._prefixes.pop(peer, None)
        if prefix is not None:
            del self._owners[prefix]
        return prefix
