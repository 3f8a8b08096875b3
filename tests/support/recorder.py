"""Stands where a datapath stands, for tests of what the protocol orders and asks."""

from __future__ import annotations

from nvpn.datapath.api import Activity, Watch
from nvpn.datapath.commands import PeerId


class Recorder:
    """Answers ``activity`` with what the test put there, and remembers the watches."""

    def __init__(self) -> None:
        self.activities: dict[PeerId, Activity] = {}
        self.watched: set[tuple[PeerId, Watch]] = set()

    def watch(self, peer: PeerId, what: Watch, watched: bool) -> None:
        (self.watched.add if watched else self.watched.discard)((peer, what))

    def activity(self, peer: PeerId) -> Activity:
        return self.activities.get(peer, Activity())
