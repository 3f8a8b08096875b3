"""The servers that share a store: each announces itself there, and finds the others."""

from __future__ import annotations

from typing import Final

from nvpn.model.clock import SECOND
from nvpn.registry.ledger import Ledger
from nvpn.registry.model import RegistrySettings, Server
from nvpn.registry.records import AnnouncedServer, put_server, server_key
from nvpn.registry.store import Delete, Edit

AGAIN: Final = 86_400 * SECOND
"""After so long a server announces itself again."""

FORGOTTEN: Final = 7 * AGAIN
"""A server that has not been there for so long is none any more."""


class Servers:
    """See Registry for what each operation is."""

    def __init__(self, ledger: Ledger, settings: RegistrySettings) -> None:
        self._ledger: Final = ledger
        self._called: Final[set[str]] = set()
        self.configure(settings)

    def configure(self, settings: RegistrySettings) -> None:
        """This is who we are from now on."""
        self._own = settings.announced
        self._now_called = settings.server
        self._called.add(settings.server)

    async def announce(self) -> None:
        """Say who we are where that is not known, or long ago. Raises Unavailable."""
        known, wall = self._ledger.mirror.servers, self._ledger.clocks().wall
        own = None if self._own is None else self._own.public_key
        edits: list[Edit] = [
            Delete(server_key(key)) for key in known if key.base64 in self._called and key != own
        ]
        if self._own is not None and not _is_fresh(
            known.get(self._own.public_key), self._own, wall
        ):
            edits.append(put_server(AnnouncedServer(self._own, wall), expires_at=wall + FORGOTTEN))
        if edits:
            await self._ledger.commit((), edits)

    def others(self) -> tuple[Server, ...]:
        """In a ring by their keys, from ours on: so the clients of a server that dies do not all
        go to the same one.
        """
        others = [
            one.server
            for key, one in self._ledger.mirror.servers.items()
            if key.base64 != self._now_called
        ]
        ours = self._now_called
        return tuple(
            sorted(others, key=lambda one: (one.public_key.base64 < ours, one.public_key.base64))
        )


def _is_fresh(known: AnnouncedServer | None, own: Server, wall: int) -> bool:
    return known is not None and known.server == own and 0 <= wall - known.announced_at < AGAIN
