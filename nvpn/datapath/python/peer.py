"""One peer as the datapath knows it, and every rule about it, written once.

The single-packet path and the batch path both call these methods: the one with one
packet, the other with the totals of a batch. They keep the peer's instants, counters
and endpoint, and raise the events that follow from them.
"""

from __future__ import annotations

from typing import Final

from nvpn.datapath.api import Activity, Counters, Watch
from nvpn.datapath.commands import PeerId
from nvpn.datapath.events import (
    DataReceived,
    DataSent,
    HandshakeWanted,
    KeypairConfirmed,
    KeypairGone,
    Why,
)
from nvpn.datapath.keypairs import Keypair, KeypairSlots
from nvpn.datapath.loops import OwnDatagrams
from nvpn.datapath.python.event_queue import EventQueue
from nvpn.datapath.staging import StagedPackets, StagingBudget
from nvpn.model.endpoint import Endpoint

Receivers = dict[int, "tuple[Peer, Keypair]"]
"""The device's keypairs by our index: what a transport message is looked up in."""


class Peer:
    """Endpoint, session slots, staged packets, instants and counters of one peer."""

    __slots__ = (
        "_events",
        "_heard_at",
        "_own",
        "_receivers",
        "_said_no_key",
        "_told_received",
        "_told_sent",
        "_watched_received",
        "_watched_sent",
        "data_received_at",
        "data_sent_at",
        "endpoint",
        "filtered",
        "id",
        "initiation_index",
        "last_data_received_at",
        "last_received_at",
        "last_sent_at",
        "rx_bytes",
        "rx_packets",
        "slots",
        "staged",
        "tx_bytes",
        "tx_packets",
    )

    def __init__(
        self,
        peer_id: PeerId,
        receivers: Receivers,
        own: OwnDatagrams[Peer],
        events: EventQueue,
        budget: StagingBudget,
    ) -> None:
        self.id: Final = peer_id
        self.endpoint: Endpoint | None = None
        self.slots: Final = KeypairSlots()
        self.staged: Final = StagedPackets(budget)
        # Of our latest initiation; None once it is answered. The core's to change.
        self.initiation_index: int | None = None
        self.data_sent_at = self.data_received_at = self.last_data_received_at = 0
        self.last_sent_at = self.last_received_at = 0
        self.rx_bytes = self.tx_bytes = self.rx_packets = self.tx_packets = 0
        # Packets that the port filter dropped: the core's to count.
        self.filtered = 0
        self._receivers: Final = receivers
        self._own: Final = own
        self._events: Final = events
        self._heard_at = 0  # when anything authentic last confirmed the endpoint
        self._said_no_key = False
        self._watched_sent = self._watched_received = False
        # An event was raised and is not yet answered by a call of ``watch``.
        self._told_sent = self._told_received = False

    def __repr__(self) -> str:
        return f"Peer({self.id})"

    # --- packets ----------------------------------------------------------------------

    def sending_keypair(self, now: int) -> Keypair | None:
        """The keypair to seal under; None when packets have to be staged."""
        current = self.slots.current
        return current if current is not None and current.may_send_at(now) else None

    def note_sent(
        self, now: int, size: int, packets: int = 1, *, data: bool, keypair: Keypair | None
    ) -> None:
        """Authentic datagrams were handed to the socket.

        Args:
            size: UDP payload in bytes, of all of them together.
            data: whether any of them carries an inner packet.
            keypair: what they were sealed under; None for handshake messages.
        """
        self.tx_bytes += size
        self.tx_packets += packets
        self.last_sent_at = now
        self.data_received_at = 0
        self._told_received = False
        if data:
            if not self.data_sent_at:
                self.data_sent_at = now
            if not (self._watched_sent or self._told_sent):
                self._told_sent = True
                self._events.add_once(DataSent(self.id))
        if keypair is not None:
            self._want(keypair.wants_after_sending(now))

    def note_unsent(self, size: int, packets: int) -> None:
        """The socket did not take some of what was handed to it: it is not counted."""
        self.tx_bytes -= size
        self.tx_packets -= packets

    def note_received(
        self, now: int, size: int, packets: int = 1, *, data: bool, keypair: Keypair | None
    ) -> None:
        """Authentic datagrams arrived: arguments as in ``note_sent``.

        For transport messages call ``roam`` and ``confirm`` first: protocol rule 31.
        """
        self.rx_bytes += size
        self.rx_packets += packets
        self.last_received_at = now
        self.data_sent_at = 0
        self._told_sent = False
        if data:
            self.last_data_received_at = now
            if not self.data_received_at:
                self.data_received_at = now
            if not (self._watched_received or self._told_received):
                self._told_received = True
                self._events.add_once(DataReceived(self.id))
        # Whatever key the packet came under, the one that we send with is the one to renew.
        current = self.slots.current
        if keypair is not None and current is not None:
            self._want(current.wants_after_receiving(now))

    def want_key(self) -> None:
        """There is something to send and no key: said once until that changes."""
        if not self._said_no_key:
            self._said_no_key = True
            self._events.add(HandshakeWanted(self.id, Why.NO_KEY))

    def _want(self, why: Why | None) -> None:
        if why is not None:
            self._events.add(HandshakeWanted(self.id, why))

    # --- endpoint ---------------------------------------------------------------------

    def roam(self, endpoint: Endpoint, now: int) -> None:
        """An authentic transport message came from there: answer there from now on."""
        self._heard_at = now
        known = self.endpoint
        if known is not None and known[:5] == endpoint[:5]:
            return
        self.endpoint = endpoint._replace(learned_at=now)
        if known is None or known.remote != endpoint.remote:
            self._events.set_roamed(self.id, self.endpoint)

    def set_endpoint(self, endpoint: Endpoint | None) -> bool:
        """Take the protocol's word for it, unless a packet has told us better since.

        Returns:
            False when it was older than what a packet told us.
        """
        if endpoint is None:
            self.endpoint = None
            return True
        if self.endpoint is not None and endpoint.learned_at < self._heard_at:
            return False
        self._heard_at = endpoint.learned_at
        self.endpoint = endpoint
        return True

    def forget_source(self) -> None:
        """Let the kernel choose our own address again: it vanished, or this is a retry."""
        if self.endpoint is not None and self.endpoint.source is not None:
            self.endpoint = self.endpoint._replace(source=None)

    # --- keypairs ---------------------------------------------------------------------

    def install(self, keypair: Keypair) -> None:
        """Take a new keypair; packets may arrive for it from now on."""
        self._said_no_key = False
        self._receivers[keypair.our_index] = self, keypair
        self._own.add(keypair.header, self)
        self._retire(self.slots.install(keypair))

    def confirm(self, keypair: Keypair, now: int) -> bool:
        """Promote ``next`` if that is what an authentic packet came under.

        Returns:
            whether it was: the caller then sends what is staged.
        """
        if keypair is not self.slots.next:
            return False
        self._said_no_key = False
        self._retire(self.slots.confirm())
        self._events.add(KeypairConfirmed(self.id, keypair.our_index, now))
        return True

    def stop_sending(self) -> None:
        """Send nothing more under ``current``, forget ``next``."""
        self._said_no_key = False
        self._retire(self.slots.stop_sending())

    def erase_keys(self) -> None:
        """Forget and zero all keypairs."""
        self._said_no_key = False
        self._retire(self.slots.clear())

    def forget_staged(self) -> int:
        """Drop staged packets and ask again when there is something to send.

        What was sent before counts as settled: nobody waits for its answer any more.

        Returns:
            how many were staged.
        """
        self._said_no_key = False
        self.data_sent_at = 0
        self._told_sent = False
        return len(self.staged.take())

    def destroy(self) -> None:
        """Zero all keys and drop what is staged; say nothing."""
        self.staged.take()
        for keypair in self.slots.clear():
            self._release(keypair)

    def _retire(self, keypairs: list[Keypair]) -> None:
        for keypair in keypairs:
            self._release(keypair)
            self._events.add(KeypairGone(self.id, keypair.our_index))

    def _release(self, keypair: Keypair) -> None:
        self._receivers.pop(keypair.our_index, None)
        self._own.discard(keypair.header, self)
        keypair.wipe()

    # --- what the protocol reads ------------------------------------------------------

    def watch(self, what: Watch, watched: bool) -> None:
        """Whether a timer of the protocol looks after an unanswered instant."""
        if what is Watch.DATA_SENT:
            self._watched_sent = watched
            self._told_sent = False
        else:
            self._watched_received = watched
            self._told_received = False

    def activity(self) -> Activity:
        """The instants, as the protocol reads them."""
        return Activity(
            self.data_sent_at,
            self.data_received_at,
            self.last_data_received_at,
            self.last_sent_at,
            self.last_received_at,
        )

    def counters(self) -> Counters:
        """The traffic so far."""
        return Counters(
            self.rx_bytes, self.tx_bytes, self.rx_packets, self.tx_packets, self.filtered
        )
