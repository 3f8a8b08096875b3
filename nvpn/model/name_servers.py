"""Which name servers a tunnel brings along."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NameServers:
    """Who answers names while a tunnel is up, and what is appended to short ones.

    ``servers`` are addresses of 4 or 16 bytes, in order; ``search`` are domains without a
    final dot. Never both empty: then there is no NameServers at all.
    """

    servers: tuple[bytes, ...] = ()
    search: tuple[str, ...] = ()
