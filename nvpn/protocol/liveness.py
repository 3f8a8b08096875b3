"""What silence means: when to be heard, and when the peer should have been.

The datapath keeps the instants at which packets passed; here they are read when a timer
fires, and never before. A *watch* tells the datapath that a timer is running, so that it
need not report the next packet: cleared first, read then (``nvpn.datapath.api``).

Source: WireGuard paper, sections 6.2 to 6.5; where it is silent, the Linux kernel module.
"""

from __future__ import annotations

from typing import Any, Final

from nvpn.datapath.api import Watch
from nvpn.datapath.commands import PeerId, SendKeepalive
from nvpn.model.clock import SECOND, Now
from nvpn.protocol.context import Context
from nvpn.protocol.timers import NEW_HANDSHAKE_TIMEOUT, Moment, PeerTimers
from nvpn.wire.constants import KEEPALIVE_TIMEOUT

# A keepalive that we order is in the air by then.
_SENDING_DELAY: Final = 1 * SECOND


class Liveness:
    """One peer's keepalives of both kinds, and the suspicion that it lost its keys.

    ``persistent_keepalive`` is in seconds, 0 for off.
    """

    __slots__ = (
        "_context",
        "_peer",
        "_repeated_at",
        "_settled_at",
        "_timers",
        "persistent_keepalive",
    )

    def __init__(self, context: Context[Any], timers: PeerTimers[Any], peer: PeerId) -> None:
        self.persistent_keepalive = 0
        self._context: Final = context
        self._timers: Final = timers
        self._peer: Final = peer
        # Data sent until then needs no answer any more, whatever the datapath says yet.
        self._settled_at = 0
        self._repeated_at = 0  # the last keepalive, if another one is due after it

    def stop(self) -> None:
        """Nothing is watched any more; the timers are the caller's."""
        self._repeated_at = 0
        self._watch(Watch.DATA_SENT, False)
        self._watch(Watch.DATA_RECEIVED, False)

    # --- is the peer still there? -----------------------------------------------------

    def settle(self, at: int) -> None:
        """What was sent until then is answered, or given up."""
        self._settled_at = max(self._settled_at, at)

    def note_data_sent(self, now: Now) -> None:
        """Nobody watches whether our data is answered: watch.

        Also if it has been by now: somebody who is answered at once would otherwise
        cost an event for every packet.
        """
        self._await_answer(self._unanswered() or now.boot)

    def is_lost(self, now: Now) -> bool:
        """NEW_HANDSHAKE fired: whether nothing came since data was sent, for so long that
        the peer must have lost its keys."""
        self._watch(Watch.DATA_SENT, False)
        instant = self._unanswered()
        if not instant:
            return False
        lost = now.boot >= instant + NEW_HANDSHAKE_TIMEOUT
        # While it is lost, look again as long afterwards.
        self._await_answer(now.boot if lost else instant)
        return lost

    def _await_answer(self, since: int) -> None:
        self._note(Moment.DATA_SENT, since)
        self._watch(Watch.DATA_SENT, True)

    def _unanswered(self) -> int:
        """When data was first sent that nothing came after; 0 for never."""
        instant = self._context.datapath.activity(self._peer).data_sent_at
        return instant if instant > self._settled_at else 0

    # --- does the peer know that we are? ----------------------------------------------

    def note_data_received(self, now: Now) -> None:
        """Nobody watches whether we answer the peer's data: watch, as for what we sent."""
        instant = self._context.datapath.activity(self._peer).data_received_at
        self._owe_answer(instant or now.boot)

    def acknowledge(self, now: Now) -> None:
        """SEND_KEEPALIVE fired: send one if we owe the peer an answer for that long.

        Ten seconds from the first data; or from our last keepalive, if data came before
        and after it and nothing else of ours: a mute receiver of steady data is heard
        every ten seconds, not every ten and a bit.
        """
        self._watch(Watch.DATA_RECEIVED, False)
        repeated_at, self._repeated_at = self._repeated_at, 0
        activity = self._context.datapath.activity(self._peer)
        instant = activity.data_received_at
        if not instant:
            return
        if repeated_at and activity.last_sent_at < repeated_at + _SENDING_DELAY:
            since = repeated_at
        else:
            since = instant
        if now.boot < since + KEEPALIVE_TIMEOUT:
            self._owe_answer(since)
            return
        self._context.commands.append(SendKeepalive(self._peer))
        if activity.last_data_received_at > instant:
            self._repeated_at = now.boot
            self._owe_answer(now.boot)

    def give_up(self, now: Now) -> None:
        """The peer does not answer: owe it nothing, and wait for nothing sent so far."""
        self.settle(now.boot)
        self._note(Moment.HANDSHAKE_GIVEN_UP, now.boot)
        self._watch(Watch.DATA_RECEIVED, False)

    def _owe_answer(self, since: int) -> None:
        self._note(Moment.DATA_RECEIVED, since)
        self._watch(Watch.DATA_RECEIVED, True)

    # --- does everything between us know? ---------------------------------------------

    def set_persistent_keepalive(self, seconds: int, now: Now) -> None:
        """Be heard after so many seconds of silence; 0 for never.

        Turned on while the interface is up, it is heard at once.
        """
        before, self.persistent_keepalive = self.persistent_keepalive, seconds
        if not self._context.up or seconds == before:
            return
        if not seconds:
            self._note(Moment.PERSISTENT_KEEPALIVE_OFF, now.boot)
        elif not before:
            self.send_persistent_keepalive(now)
        else:
            self._await_silence(self._last_traversal())

    def send_persistent_keepalive(self, now: Now) -> None:
        """Be heard now, if the peer is to be kept awake at all."""
        if self.persistent_keepalive and self._context.up:
            self._context.commands.append(SendKeepalive(self._peer))
            self._await_silence(now.boot)

    def break_silence(self, now: Now) -> None:
        """PERSISTENT_KEEPALIVE fired: be heard, unless a packet has passed either way."""
        latest = self._last_traversal()
        if now.boot < latest + self.persistent_keepalive * SECOND:
            self._await_silence(latest)
        else:
            self.send_persistent_keepalive(now)

    def _last_traversal(self) -> int:
        activity = self._context.datapath.activity(self._peer)
        return max(activity.last_sent_at, activity.last_received_at)

    def _await_silence(self, since: int) -> None:
        self._context.timers.note(
            self._timers,
            Moment.PERSISTENT_KEEPALIVE_SENT,
            since,
            self.persistent_keepalive * SECOND,
        )

    def _note(self, moment: Moment, at: int) -> None:
        self._context.timers.note(self._timers, moment, at)

    def _watch(self, what: Watch, watched: bool) -> None:
        self._context.datapath.watch(self._peer, what, watched)
