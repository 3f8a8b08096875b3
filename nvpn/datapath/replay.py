"""Which counters of a key have been seen: each is accepted once, and old ones never.

The window is that of RFC 6479 with larger words: blocks of 512 counters, one integer
each, so that a run of consecutive counters is marked a block at a time. Memory follows
use, from nothing to about two KiB.

Nothing here is authenticated. Ask ``may_accept`` before opening a packet to spare the
work on plain replays, and ``accept`` only after its tag was found valid: then a forged
counter cannot move the window.
"""

from __future__ import annotations

from typing import Final

from nvpn.wire.constants import REJECT_AFTER_MESSAGES

WINDOW_SIZE: Final = 8192
"""Counters remembered, as the kernel and wireguard-go do."""

MAX_DISTANCE: Final = WINDOW_SIZE - 64
"""How far behind the greatest counter one is still accepted, inclusive.

The other implementations lose one 64-bit word to their ring; a peer must not be able to
tell which one it talks to.
"""

_BLOCK_BITS: Final = 9
_BLOCK: Final = 1 << _BLOCK_BITS
_LOW: Final = _BLOCK - 1
_BLOCKS: Final = WINDOW_SIZE >> _BLOCK_BITS


class ReplayWindow:
    """The counters seen under one receiving key."""

    __slots__ = ("_blocks", "_newest", "greatest")

    def __init__(self) -> None:
        self.greatest = -1
        """The greatest counter accepted, -1 before the first."""
        # INVARIANT: every key is within _BLOCKS of the newest, so there are 17 at most:
        # a window of 16 blocks that need not begin where a block does.
        self._blocks: dict[int, int] = {}
        self._newest = 0

    def may_accept(self, counter: int) -> bool:
        """Whether ``accept`` would take it now. Changes nothing."""
        greatest = self.greatest
        if counter > greatest:
            return counter < REJECT_AFTER_MESSAGES
        if greatest - counter > MAX_DISTANCE:
            return False
        return not self._blocks.get(counter >> _BLOCK_BITS, 0) >> (counter & _LOW) & 1

    def accept(self, counter: int) -> bool:
        """Mark a counter whose packet is authentic; False if it was seen or is too old."""
        greatest = self.greatest
        block = counter >> _BLOCK_BITS
        if counter > greatest:
            if counter >= REJECT_AFTER_MESSAGES:
                return False
            self.greatest = counter
            if block != self._newest:
                self._advance(block)
        elif greatest - counter > MAX_DISTANCE:
            return False
        bit = 1 << (counter & _LOW)
        seen = self._blocks.get(block, 0)
        if seen & bit:
            return False
        self._blocks[block] = seen | bit
        return True

    def may_accept_run(self, first: int, count: int) -> bool:
        """Whether ``accept_run`` would take all of these consecutive counters now."""
        end = first + count
        greatest = self.greatest
        if end > REJECT_AFTER_MESSAGES or greatest - first > MAX_DISTANCE:
            return False
        while first < end and first <= greatest:
            block = first >> _BLOCK_BITS
            here = min(end, (block + 1) << _BLOCK_BITS) - first
            if self._blocks.get(block, 0) >> (first & _LOW) & ((1 << here) - 1):
                return False
            first += here
        return True

    def accept_run(self, first: int, count: int) -> bool:
        """Mark ``count`` consecutive counters whose packets are all authentic.

        All or nothing: False, and no change, if any of them was seen or is too old. The
        outcome for a run that is taken is that of ``accept`` on each in rising order.
        """
        if not self.may_accept_run(first, count):
            return False
        end = first + count
        if end - 1 > self.greatest:
            self.greatest = end - 1
            newest = (end - 1) >> _BLOCK_BITS
            if newest != self._newest:
                self._advance(newest)
        oldest_block = self._newest - _BLOCKS
        blocks = self._blocks
        while first < end:
            block = first >> _BLOCK_BITS
            here = min(end, (block + 1) << _BLOCK_BITS) - first
            if block >= oldest_block:
                blocks[block] = blocks.get(block, 0) | ((1 << here) - 1) << (first & _LOW)
            first += here
        return True

    def _advance(self, newest: int) -> None:
        """Forget the blocks that no counter of the window can fall into any more."""
        blocks = self._blocks
        if newest - self._newest > _BLOCKS:
            blocks.clear()
        else:
            for block in range(self._newest - _BLOCKS, newest - _BLOCKS):
                blocks.pop(block, None)
        self._newest = newest
