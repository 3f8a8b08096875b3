"""Which clients have said nothing for a while: pure over ``now``.

What is looked at is how many authentic bytes came from each: so it needs no other clock than
the one of whoever looks, and costs a packet nothing. Keepalives count as something said.
"""

from __future__ import annotations

from collections.abc import Mapping

from nvpn.model.keys import PublicKey


class IdleWatch:
    """Remembers since when each client's count stands still."""

    def __init__(self) -> None:
        self._counts: dict[PublicKey, tuple[int, int]] = {}

    def look(
        self, received: Mapping[PublicKey, int], timeout: int, now: int
    ) -> tuple[PublicKey, ...]:
        """Those who have been silent for ``timeout``.

        Args:
            received: bytes by client, of all who hold a lease; others are forgotten.
            timeout, now: nanoseconds, ``now`` of the boot clock.
        """
        before, self._counts = self._counts, {}
        for client, count in received.items():
            last, since = before.get(client, (-1, now))
            self._counts[client] = (count, since if count == last else now)
        return tuple(
            client for client, (_, since) in self._counts.items() if now - since >= timeout
        )
