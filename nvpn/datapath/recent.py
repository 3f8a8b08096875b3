"""A bounded memory of many owners, of which the least recently used goes first.

Whoever fills it does so at his own expense: beyond his share he loses his own oldest, and
when there is no room at all whoever has most does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by owner and key.

    Args:
        most: values together.
        most_each: values of one owner.
    """

    __slots__ = ("_most", "_most_each", "_owners", "_size")

    def __init__(self, *, most: int, most_each: int) -> None:
        self._most: Final = most
        self._most_each: Final = most_each
        self._owners: Final[dict[int, OrderedDict[K, V]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def get(self, owner: int, key: K) -> V | None:
        """What is known, and nothing changes."""
        own = self._owners.get(owner)
        return None if own is None else own.get(key)

    def touch(self, owner: int, key: K) -> V | None:
        """What is known, which is the most recently used from now on."""
        own = self._owners.get(owner)
        if own is None or (value := own.get(key)) is None:
            return None
        own.move_to_end(key)
        return value

    def put(self, owner: int, key: K, value: V) -> None:
        """Remember a value, the most recently used from now on."""
        own = self._owners.get(owner)
        if own is not None and key in own:
            own[key] = value
            own.move_to_end(key)
            return
        self._make_room(owner)
        own = self._owners.setdefault(owner, OrderedDict())
        own[key] = value
        self._size += 1

    def oldest(self, owner: int) -> tuple[K, V] | None:
        """The least recently used of an owner, with its key."""
        own = self._owners.get(owner)
        return next(iter(own.items())) if own else None

    def drop_oldest(self, owner: int) -> None:
        """Forget the least recently used of an owner, who has one."""
        own = self._owners[owner]
        own.popitem(last=False)
        self._size -= 1
        if not own:
            del self._owners[owner]

    def forget(self, owner: int) -> None:
        """Forget all that is an owner's."""
        self._size -= len(self._owners.pop(owner, ()))

    def _make_room(self, owner: int) -> None:
        """For one more of this owner."""
        count = len(self._owners.get(owner, ()))
        if count < self._most_each:
            if self._size < self._most:
                return
            # Who has more than the others on average need not be compared with them.
            if count * len(self._owners) <= self._most:
                owner = max(self._owners, key=lambda one: len(self._owners[one]))
        self.drop_oldest(owner)
