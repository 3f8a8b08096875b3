"""The seam between protocol and datapath.

The protocol decides, the datapath moves packets. What crosses is values: *commands*
(``commands.py``) go down in one FIFO, outgoing handshake datagrams among them, and *events*
(``events.py``) come up. A datapath may run on the event loop or on threads of its own; nobody
above can tell.

Rules both sides keep:

* **Order.** A batch of commands applies whole, between packet batches. After the
  acknowledgement of a removal no packet of that peer is in flight and its keys are
  gone. So a keypair installed before a response in the same batch is in place before
  the peer can answer.
* **Names.** A PeerId is never used again, so events for dead peers can be ignored.
  A receiver index is chosen by the protocol, at random over all handshakes and keypairs,
  and used again only after :class:`KeypairGone`.
* **Timers live above.** The datapath keeps a few instants per peer
  (:class:`Activity`) and raises :class:`DataSent` or :class:`DataReceived` only when
  nobody watches that peer yet: it *stores the instant, then tests the watch*; the
  protocol *clears the watch, then reads again*. A busy transfer costs the protocol a
  handful of events a minute.
* **Nothing from the network raises.** What is dropped is counted by reason.

All instants are boot-clock nanoseconds. "Protocol rules" are those of docs/conformance.md.

Where later rooms plug in: an :class:`Endpoint` with a ``path`` other than UDP_PATH is a
datagram descriptor whose other end belongs to Python (a relay, a TLS connection); a
filter is data handed down in a command; control packets are lifted out by prefix and
port. Each is a further command or event here, not another seam.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from nvpn.datapath.commands import Command, PeerId
from nvpn.datapath.events import Event
from nvpn.errors import DropReason


class Activity(NamedTuple):
    """A peer's instants; 0 for never, or for "answered".

    ``data_sent_at``: the first non-empty packet sent since anything authentic was received.
    ``data_received_at``: the first non-empty packet received since anything was sent.
    ``last_data_received_at``: the latest non-empty packet received.
    ``last_sent_at`` / ``last_received_at``: the latest authentic packet of any kind,
    keepalives and handshake messages included.
    """

    data_sent_at: int = 0
    data_received_at: int = 0
    last_data_received_at: int = 0
    last_sent_at: int = 0
    last_received_at: int = 0


class Counters(NamedTuple):
    """A peer's traffic: UDP payload bytes of authentic packets, handshakes included; and how
    many packets from it the port filter has dropped."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    filtered: int = 0


class Watch(enum.Enum):
    """Which unanswered instant a timer of the protocol is looking after."""

    DATA_SENT = "data sent"
    DATA_RECEIVED = "data received"


class Datapath(Protocol):
    """One implementation of the seam. Called from the event loop's thread only.

    ``on_events`` is called on the loop, never from within another call, when
    ``take_events`` has something to give.
    """

    on_events: Callable[[], None] | None

    def apply(
        self, commands: Sequence[Command], acknowledged: Callable[[], None] | None = None
    ) -> None:
        """Queue a batch; ``acknowledged`` is called on the loop once it is in force."""

    def take_events(self) -> list[Event]:
        """What happened since the last call, oldest first. Bounded; handshake floods are
        cut off by admission, never other events."""

    def watch(self, peer: PeerId, what: Watch, watched: bool) -> None:
        """Set or clear a watch: set when a timer is armed, cleared before it reads again."""

    def activity(self, peer: PeerId) -> Activity:
        """The peer's instants; all 0 for an unknown one."""

    def counters(self, peer: PeerId) -> Counters:
        """The peer's traffic; all 0 for an unknown one."""

    def drops(self) -> Mapping[DropReason, int]:
        """Dropped packets by reason since the start."""

    def describe(self) -> str:
        """For people: ``python (TSO, USO, GSO, GRO)``."""

    def close(self) -> None:
        """Zero all keys and let go of the descriptors, without closing them."""
