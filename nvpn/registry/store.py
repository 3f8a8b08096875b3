"""The seam under a registry: records with revisions, changed by small transactions.

A store knows keys and bytes, and nothing of clients or leases. Everything that it keeps is
small enough to be held in memory whole, so reading is ``load`` once and ``watch`` after it.

A revision is a number that every commit makes greater, and a record carries that of its last
change: a commit whose conditions name it succeeds only if nobody was there in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Union


class Record(NamedTuple):
    """``revision`` is that of its last change, greater than 0."""

    key: str
    value: bytes
    revision: int


class Condition(NamedTuple):
    """The record has this revision still; 0: it does not exist."""

    key: str
    revision: int


class Put(NamedTuple):
    """Make or replace a record.

    ``expires_at``: Unix nanoseconds, after which the store may drop it by itself (a store
    which outlives us does, so that what we gave does not stay for ever when we are gone).
    """

    key: str
    value: bytes
    expires_at: int | None = None


class Delete(NamedTuple):
    """Remove a record; one that is not there is ignored."""

    key: str


Edit = Union[Put, Delete]  # noqa: UP007 - a runtime value on Python 3.10


@dataclass(frozen=True, slots=True)
class Changes:
    """What the store says about some keys, as of a revision.

    ``missing`` keys do not exist at ``revision``. ``whole``: ``records`` are all there are,
    so that every other key is missing, too. ``is_anew``: revisions have begun anew, and what was
    known before is not to be compared with these.
    """

    revision: int
    records: tuple[Record, ...] = ()
    missing: tuple[str, ...] = ()
    whole: bool = False
    is_anew: bool = False


class Commit(NamedTuple):
    """What became of a transaction.

    Done: ``changes`` are what was written. Not done: a condition did not hold, and
    ``changes`` are what the store has under the conditions' keys.
    """

    done: bool
    changes: Changes


class Store(Protocol):
    """Where records are kept. All of it runs on one event loop."""

    @property
    def is_shared(self) -> bool:
        """Whether others may change it while we cannot reach it."""
        ...

    async def load(self) -> Changes:
        """Everything there is (``whole``). Called once, first.

        Raises:
            Unavailable: the store cannot be reached now.
            Refused: it does not let us in.
            PlatformError: the file cannot be opened, or another process has it.
        """
        ...

    async def commit(self, conditions: Sequence[Condition], edits: Sequence[Edit]) -> Commit:
        """Do all edits if all conditions hold, else none.

        When it returns, what was done survives a crash. At most 64 edits, one a key.

        Raises:
            Unavailable: nothing was done, or nobody can tell now whether it was; then the
                truth comes by ``watch``.
        """
        ...

    def watch(self, changed: Callable[[Changes], None]) -> None:
        """Call ``changed`` on the loop for what is committed after ``load``, in order.

        Our own commits may be told, too. After a gap everything is told (``whole``), also when
        the store was set back to what it had earlier (``is_anew``).
        """
        ...

    async def close(self) -> None:
        """Let go of everything. Commits that are under way may end with Unavailable."""
        ...

    def describe(self) -> str:
        """Where it is, for people: a path, or URLs without a password."""
        ...
