"""What the peers of one device share: identity, outputs, indices, timers, randomness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from nvpn.datapath.api import Activity, Watch
from nvpn.datapath.commands import Command, PeerId
from nvpn.errors import DropReason
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.notices import Notice
from nvpn.protocol.tai64n import TimestampSource
from nvpn.protocol.timers import TimerQueue

P = TypeVar("P")


class ActivityReader(Protocol):
    """What the protocol reads from a datapath directly; see ``datapath.api.Datapath``."""

    def watch(self, peer: PeerId, what: Watch, watched: bool) -> None:
        """Set or clear a watch."""

    def activity(self, peer: PeerId) -> Activity:
        """The peer's instants; all 0 for an unknown one."""


class Indices(Generic[P]):
    """Receiver indices in use, and whose they are.

    Random, so that nobody can guess the next; unique over all handshakes and keypairs of
    the device, so that one number finds its peer.
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._owners: dict[int, P] = {}

    def reserve(self, owner: P) -> int:
        """A number that nobody has.

        Raises:
            OSError: there is no randomness.
        """
        for _ in range(64):
            index = int.from_bytes(self._random(4), "little")
            if index not in self._owners:
                self._owners[index] = owner
                return index
        raise OSError("the random numbers repeat themselves")

    def owner(self, index: int) -> P | None:
        """Who has the number."""
        return self._owners.get(index)

    def release(self, index: int) -> None:
        """Nobody can be found by this number any more."""
        self._owners.pop(index, None)

    def __len__(self) -> int:
        return len(self._owners)


class Context(Generic[P]):
    """Shared by reference; only the device replaces its attributes.

    ``static`` is None while there is no private key; ``public`` belongs to it. ``up``
    says whether the interface is. Commands, notices and drops pile up here until they
    are taken.

    Args:
        random: gives that many random bytes, or raises OSError.
    """

    __slots__ = (
        "commands",
        "datapath",
        "drops",
        "indices",
        "notices",
        "public",
        "random",
        "static",
        "timers",
        "timestamps",
        "up",
    )

    def __init__(
        self,
        datapath: ActivityReader,
        random: Callable[[int], bytes],
        timestamps: TimestampSource,
    ) -> None:
        self.datapath: Final = datapath
        self.random: Final = random
        self.timestamps: Final = timestamps
        self.static: PrivateKey | None = None
        self.public: PublicKey | None = None
        self.up = False
        self.commands: list[Command] = []
        self.notices: list[Notice] = []
        self.drops: Final[Counter[DropReason]] = Counter()
        self.indices: Final[Indices[P]] = Indices(random)
        self.timers: Final[TimerQueue[P]] = TimerQueue(self._jitter)

    def _jitter(self, bound: int) -> int:
        try:
            return int.from_bytes(self.random(4), "little") * bound >> 32
        except OSError:
            return 0  # a timer without jitter is better than none
