"""What we have sent, so that answers to it may pass a port filter.

A conversation is what one peer and we say to each other between two addresses and two
ports; of echoes, one identifier takes the ports' place; of protocols without ports there is
one between two addresses. What we send begins one. What comes the same way back from the
same peer belongs to it, and so does an ICMP error about it.

A packet that begins a TCP connection belongs to none, whatever was said before between these
ports: whether the peer may begin one, rules decide.

Timeouts are like those of the kernel's connection tracking, but short enough for a table
that is bounded. Fragments behind the first one show no ports; they pass where the first one
has passed just before, and only what is behind its bytes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.commands import PeerId
from nvpn.datapath.flow import ICMPV4, ICMPV6, TCP, UDP, Flow, Fragment, NoPorts, flow_of
from nvpn.datapath.inner import IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, Inner
from nvpn.datapath.recent import Recent
from nvpn.model.clock import SECOND

MAX_CONVERSATIONS: Final = 65_536
MAX_CONVERSATIONS_OF_A_PEER: Final = 4_096
MAX_FRAGMENTED: Final = 1_024
MAX_FRAGMENTED_OF_A_PEER: Final = 128

# The shortest that RFC 5382 allows (REQ-5): keepalives, every two hours, keep a connection.
TCP_ANSWERED: Final = 7_440 * SECOND
TCP_OTHERWISE: Final = 240 * SECOND
UDP_ANSWERED: Final = 180 * SECOND
UDP_UNANSWERED: Final = 30 * SECOND
ECHO: Final = 30 * SECOND
OTHERS: Final = 180 * SECOND
FRAGMENTS: Final = 30 * SECOND

_FIN: Final = 0x01
_SYN: Final = 0x02
_RST: Final = 0x04
_ACK: Final = 0x10

# By IP version and protocol: what asks for an echo, what brings it, and errors (RFC 792,
# RFC 4443). Redirects are none: they are no answer to what we have said.
_ECHOES: Final = {(4, ICMPV4): (8, 0), (6, ICMPV6): (128, 129)}
_ERRORS: Final = {(4, ICMPV4): frozenset((3, 11, 12)), (6, ICMPV6): frozenset((1, 2, 3, 4))}
_ICMP_HEADER_SIZE: Final = 8

_FragmentKey = tuple[int, int, int, int, int]


class Conversation(NamedTuple):
    """What names a conversation, as seen from here."""

    version: int
    protocol: int
    ours: int
    theirs: int
    our_port: int
    their_port: int


class _State:
    """How a conversation goes."""

    __slots__ = ("is_answered", "is_ending", "used_at")

    def __init__(self, now: int) -> None:
        self.used_at = now
        self.is_answered = False
        self.is_ending = False

    def is_over(self, protocol: int, now: int) -> bool:
        return now - self.used_at >= self._patience(protocol)

    def _patience(self, protocol: int) -> int:
        if protocol == TCP:
            return TCP_ANSWERED if self.is_answered and not self.is_ending else TCP_OTHERWISE
        if protocol == UDP:
            return UDP_ANSWERED if self.is_answered else UDP_UNANSWERED
        return ECHO if protocol in (ICMPV4, ICMPV6) else OTHERS


class _First(NamedTuple):
    """A first fragment that has passed: when, and how long it was at most."""

    at: int
    end: int


class Connections:
    """The conversations of a device, and what is being put together from fragments."""

    __slots__ = ("_firsts", "_states")

    def __init__(self) -> None:
        self._states: Final[Recent[Conversation, _State]] = Recent(
            most=MAX_CONVERSATIONS, most_each=MAX_CONVERSATIONS_OF_A_PEER
        )
        self._firsts: Final[Recent[_FragmentKey, _First]] = Recent(
            most=MAX_FRAGMENTED, most_each=MAX_FRAGMENTED_OF_A_PEER
        )

    def note_sent(self, peer: PeerId, inner: Inner, packet: Bytes, now: int) -> None:
        """A packet, or a superpacket, goes to a peer."""
        flow = flow_of(packet)
        flags = _tcp_flags(flow, packet)
        name = _name(inner.version, inner.source, inner.destination, flow, packet)
        if name is None or flags is None:
            return
        state = self._states.touch(peer, name)
        if state is None:
            if flags & _RST:
                return
            self._forget_finished(peer, now)
            state = _State(now)
            self._states.put(peer, name, state)
        elif flags & (_SYN | _ACK) == _SYN or state.is_over(flow.protocol, now):
            state.is_answered = state.is_ending = False
        if flags & (_FIN | _RST):
            state.is_ending = True
        state.used_at = now

    def expects(self, peer: PeerId, inner: Inner, flow: Flow, packet: Bytes, now: int) -> bool:
        """Whether a packet from a peer belongs to a conversation. Not for later fragments."""
        flags = _tcp_flags(flow, packet)
        if flags is None or flags & (_SYN | _ACK) == _SYN:
            return False
        version, protocol = inner.version, flow.protocol
        errors = _ERRORS.get((version, protocol))
        if errors is not None and flow.at < len(packet) and packet[flow.at] in errors:
            return flow.fragment is None and self._is_about_ours(peer, inner, flow, packet, now)
        name = _name(version, inner.destination, inner.source, flow, packet, is_answer=True)
        if name is None:
            return False
        state = self._states.touch(peer, name)
        if state is None or state.is_over(protocol, now):
            return False
        state.is_answered = True
        if flags & (_FIN | _RST):
            state.is_ending = True
        state.used_at = now
        return True

    def note_first(self, peer: PeerId, inner: Inner, fragment: Fragment, now: int) -> None:
        """A first fragment passes."""
        key = _fragment_key(inner, fragment)
        known = self._firsts.get(peer, key)
        # Of two that claim to be the first, the longer one tells what is not to be changed.
        end = fragment.end
        if known is not None and now - known.at < FRAGMENTS:
            end = max(end, known.end)
        self._firsts.put(peer, key, _First(now, end))

    def continues(self, peer: PeerId, inner: Inner, fragment: Fragment, now: int) -> bool:
        """Whether a later fragment belongs to a first one that has passed."""
        first = self._firsts.get(peer, _fragment_key(inner, fragment))
        return first is not None and now - first.at < FRAGMENTS and fragment.start >= first.end

    @property
    def sizes(self) -> tuple[int, int]:
        """How many conversations there are, and packets that are being put together."""
        return len(self._states), len(self._firsts)

    def forget(self, peer: PeerId) -> None:
        """The peer is gone."""
        self._states.forget(peer)
        self._firsts.forget(peer)

    def _is_about_ours(
        self, peer: PeerId, inner: Inner, flow: Flow, packet: Bytes, now: int
    ) -> bool:
        """Whether an ICMP error quotes what we have said to that peer."""
        quoted = packet[flow.at + _ICMP_HEADER_SIZE :]
        addresses = _quoted_addresses(inner.version, quoted)
        # It goes to whom it is about.
        if addresses is None or addresses[0] != inner.destination:
            return False
        about = flow_of(quoted)
        name = _name(inner.version, *addresses, about, quoted)
        state = None if name is None else self._states.get(peer, name)
        return state is not None and not state.is_over(about.protocol, now)

    def _forget_finished(self, peer: PeerId, now: int) -> None:
        """One more of the peer's oldest than begins now: the table shrinks to what is alive."""
        for _ in range(2):
            oldest = self._states.oldest(peer)
            if oldest is None or not oldest[1].is_over(oldest[0].protocol, now):
                return
            self._states.drop_oldest(peer)


def _name(
    version: int, ours: int, theirs: int, flow: Flow, packet: Bytes, *, is_answer: bool = False
) -> Conversation | None:
    """The conversation of a packet from us to them, or with ``is_answer`` from them to us.

    None if it has none: it does not show its ports, or is an ICMP message and neither an
    echo, nor, of us, a request for one.
    """
    protocol, ports = flow.protocol, flow.ports
    if isinstance(ports, tuple):
        our_port, their_port = (ports[1], ports[0]) if is_answer else ports
        return Conversation(version, protocol, ours, theirs, our_port, their_port)
    if ports is not NoPorts.NONE:
        return None
    echo = _ECHOES.get((version, protocol))
    if echo is None:
        return Conversation(version, protocol, ours, theirs, 0, 0)
    at = flow.at
    if at + _ICMP_HEADER_SIZE > len(packet) or packet[at] != echo[is_answer]:
        return None
    return Conversation(version, protocol, ours, theirs, packet[at + 4] << 8 | packet[at + 5], 0)


def _tcp_flags(flow: Flow, packet: Bytes) -> int | None:
    """Of another protocol 0; None where they are cut off."""
    if flow.protocol != TCP:
        return 0
    at = flow.at + 13
    return packet[at] if at < len(packet) else None


def _quoted_addresses(version: int, quoted: Bytes) -> tuple[int, int] | None:
    """Source and destination of a packet that may be cut off anywhere."""
    size = IPV4_HEADER_SIZE if version == 4 else IPV6_HEADER_SIZE
    if len(quoted) < size or quoted[0] >> 4 != version:
        return None
    length = 4 if version == 4 else 16
    return (
        int.from_bytes(quoted[size - 2 * length : size - length], "big"),
        int.from_bytes(quoted[size - length : size], "big"),
    )


def _fragment_key(inner: Inner, fragment: Fragment) -> _FragmentKey:
    return (
        inner.version,
        inner.source,
        inner.destination,
        fragment.number,
        fragment.protocol,
    )
