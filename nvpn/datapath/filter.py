"""Which authentic packets may pass into the device, and which are somebody's own.

A table of rules; the first that matches decides. With a memory (:class:`Connections`), what
answers to something that we have said passes before the rules, and a later fragment, which
shows no ports, passes after its first one. Without a memory a later fragment passes where
its first one could have passed, and is worth nothing without it. So no packet passes that
ends before its ports: a fragment could bring them past the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.commands import Diversion, PeerId, Rule, SetFilter
from nvpn.datapath.connections import Connections
from nvpn.datapath.flow import UDP, Flow, NoPorts, Ports, flow_of
from nvpn.datapath.inner import Inner, is_fragment, parse_inner, udp_payload
from nvpn.model.prefixes import Prefix

_UDP_HEADER_SIZE: Final = 8


class PortFilter:
    """The rules of a device, and what it remembers.

    Args:
        otherwise: whether a packet that no rule matches may pass.
        connections: None: remember nothing.
    """

    __slots__ = ("_common", "_connections", "_own")

    def __init__(
        self, rules: Sequence[Rule], *, otherwise: bool, connections: Connections | None = None
    ) -> None:
        self._connections: Final = connections
        # Thousands of peers may have rules of their own, and none is asked another one's.
        common: list[Rule] = []
        own: dict[PeerId, list[Rule]] = {}
        for rule in rules:
            if rule.peer is not None:
                own.setdefault(rule.peer, list(common)).append(rule)
                continue
            common.append(rule)
            for its in own.values():
                if not _matches_all(its[-1]):
                    its.append(rule)
        self._common: Final = _Rules.of(common, otherwise)
        self._own: Final = {peer: _Rules.of(its, otherwise) for peer, its in own.items()}

    @classmethod
    def of(cls, command: SetFilter, before: PortFilter | None = None) -> PortFilter | None:
        """What the command asks for; None when everything may pass.

        What ``before`` remembers is remembered still.
        """
        if command.rules is None:
            return None
        connections = None
        if command.remember:
            connections = before._connections if before is not None else None
            connections = connections or Connections()
        return cls(command.rules, otherwise=command.otherwise, connections=connections)

    def accepts(self, peer: PeerId, inner: Inner, packet: Bytes, now: int) -> bool:
        """Whether a packet from this peer, past ``parse_inner`` and cut, may pass."""
        rules = self._own.get(peer, self._common)
        if rules.are_open:
            return True
        flow = flow_of(packet)
        if flow.ports is NoPorts.CUT_OFF:
            return False
        connections, fragment = self._connections, flow.fragment
        if connections is None:
            return rules.accept(inner, flow)
        if flow.ports is NoPorts.ELSEWHERE:
            return fragment is not None and connections.continues(peer, inner, fragment, now)
        is_expected = connections.expects(peer, inner, flow, packet, now)
        if not is_expected and not rules.accept(inner, flow):
            return False
        if fragment is not None:
            connections.note_first(peer, inner, fragment, now)
        return True

    def note_sent(self, peer: PeerId, packet: Bytes, now: int) -> None:
        """A packet, or a superpacket, goes to this peer."""
        connections = self._connections
        if connections is None or self._own.get(peer, self._common).are_open:
            return
        inner = parse_inner(packet)
        if inner is not None:
            connections.note_sent(peer, inner, packet, now)

    def forget(self, peer: PeerId) -> None:
        """The peer is gone."""
        if self._connections is not None:
            self._connections.forget(peer)


class _Rules(NamedTuple):
    """What a peer's packets are asked, in this order."""

    rules: tuple[Rule, ...]
    otherwise: bool
    are_open: bool

    @classmethod
    def of(cls, rules: Sequence[Rule], otherwise: bool) -> _Rules:
        first = rules[0] if rules else Rule(accept=otherwise)
        return cls(tuple(rules), otherwise, first.accept and _matches_all(first))

    def accept(self, inner: Inner, flow: Flow) -> bool:
        for rule in self.rules:
            if _matches(rule, inner, flow):
                return rule.accept
        return self.otherwise


def _matches_all(rule: Rule) -> bool:
    """Whether it matches every packet of the peers that it is about."""
    return rule == Rule(accept=rule.accept, peer=rule.peer)


def _matches(rule: Rule, inner: Inner, flow: Flow) -> bool:
    return (
        rule.protocol in (None, flow.protocol)
        and _ports_match(rule, flow.ports)
        and _is_within(rule.source, inner.version, inner.source)
        and _is_within(rule.destination, inner.version, inner.destination)
    )


def _ports_match(rule: Rule, ports: Ports) -> bool:
    wanted = rule.source_ports, rule.destination_ports
    if not isinstance(ports, NoPorts):
        return all(
            span is None or span[0] <= port <= span[1]
            for span, port in zip(wanted, ports, strict=True)
        )
    if ports is NoPorts.ELSEWHERE and rule.accept:
        # Only a rule that lets the first fragment pass may judge by ports not seen.
        return True
    return wanted == (None, None)


def _is_within(prefix: Prefix | None, version: int, address: int) -> bool:
    if prefix is None:
        return True
    return (
        prefix.version == version
        and (prefix.network ^ address) >> (prefix.bits - prefix.length) == 0
    )


def is_diverted(diversions: Sequence[Diversion], inner: Inner, packet: Bytes) -> bool:
    """Whether a packet, past ``parse_inner`` and cut, goes to one of these places."""
    payload = udp_payload(packet, inner.version)
    if payload is None or payload > len(packet) or is_fragment(packet, inner.version):
        return False
    header = packet[payload - _UDP_HEADER_SIZE : payload]
    if header[4] << 8 | header[5] != len(packet) - payload + _UDP_HEADER_SIZE:
        return False
    port = header[2] << 8 | header[3]
    return any(
        place.port == port and _is_within(place.prefix, inner.version, inner.destination)
        for place in diversions
    )


def comes_from(diversions: Sequence[Diversion], inner: Inner, packet: Bytes) -> bool:
    """Whether a packet, past ``parse_inner`` and cut, comes from one of these places, as far
    as it tells."""
    ports = {
        place.port for place in diversions if _is_within(place.prefix, inner.version, inner.source)
    }
    if not ports:
        return False
    protocol, shown, *_ = flow_of(packet)
    if isinstance(shown, NoPorts):
        return shown is not NoPorts.NONE
    return protocol == UDP and shown[0] in ports
