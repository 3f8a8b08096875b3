"""One peer's sessions by name and birth: the datapath has their keys.

A keypair is here from the moment it is installed until the datapath says that it is gone;
which one we send in is as the datapath will have it once it has carried out what was ordered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from nvpn.datapath.commands import EraseKeys, InstallKeypair, PeerId, Role, StopSending
from nvpn.datapath.events import Why
from nvpn.model.clock import SECOND, Now
from nvpn.protocol.context import Context
from nvpn.protocol.handshake import SessionKeys
from nvpn.wire.constants import (
    REJECT_AFTER_TIME,
    REKEY_AFTER_TIME,
    REKEY_AFTER_TIME_RECEIVING,
)

P = TypeVar("P")

# A wish for a handshake may have been on its way up while new keys went down. One about
# a session younger than this was about the session before it. A wish is uttered once, so
# that none may be taken for old by mistake: a datapath on a thread of its own may have
# looked at the clock after us, hence the second.
_AGE_TO_WANT: Final[Mapping[Why, int]] = {
    Why.NO_KEY: REJECT_AFTER_TIME - SECOND,
    Why.OLD_SENDING: REKEY_AFTER_TIME - SECOND,
    Why.OLD_RECEIVING: REKEY_AFTER_TIME_RECEIVING - SECOND,
    Why.MANY_MESSAGES: 0,
}


class Sessions(Generic[P]):
    """The keypairs that were installed for a peer."""

    __slots__ = ("_births", "_context", "_current", "_peer")

    def __init__(self, context: Context[P], peer: PeerId) -> None:
        self._context: Final = context
        self._peer: Final = peer
        # By our index; None for those that may not send any more.
        self._births: Final[dict[int, int | None]] = {}
        self._current: int | None = None

    def __bool__(self) -> bool:
        """Whether the datapath has any keys of the peer."""
        return bool(self._births)

    @property
    def born_at(self) -> int | None:
        """When the session that we send in was derived; None when there is none."""
        return None if self._current is None else self._births.get(self._current)

    def may_send(self, now: Now) -> bool:
        """Whether there is one that may still be sent in."""
        born_at = self.born_at
        return born_at is not None and now.boot < born_at + REJECT_AFTER_TIME

    def is_too_young_for(self, why: Why, now: Now) -> bool:
        """Whether that wish must have been about an earlier one."""
        born_at = self.born_at
        return born_at is not None and now.boot - born_at < _AGE_TO_WANT[why]

    def install(self, role: Role, keys: SessionKeys, now: Now) -> None:
        """Have the datapath take the keys. We send in an initiator's at once."""
        self._births[keys.our_index] = now.boot
        if role is Role.INITIATOR:
            self._current = keys.our_index
        self._context.commands.append(
            InstallKeypair(
                self._peer,
                role,
                keys.our_index,
                keys.their_index,
                keys.send,
                keys.receive,
                now.boot,
            )
        )

    def confirm(self, our_index: int) -> bool:
        """The datapath sends in that one now. False if it may not any more: it was retired
        while the datapath told."""
        if self._births.get(our_index) is None:
            return False
        self._current = our_index
        return True

    def lose(self, our_index: int) -> None:
        """The datapath has dropped a keypair."""
        if our_index in self._births:
            del self._births[our_index]
            self._context.indices.release(our_index)
            if self._current == our_index:
                self._current = None

    def retire(self, order: StopSending | EraseKeys) -> None:
        """Send in none of them any more."""
        self._current = None
        if self._births:
            self._births.update(dict.fromkeys(self._births))
            self._context.commands.append(order)

    def forget(self) -> None:
        """The peer is destroyed."""
        # INVARIANT: the FIFO lets the datapath destroy these before it could install
        # their numbers again.
        for index in self._births:
            self._context.indices.release(index)
        self._births.clear()
