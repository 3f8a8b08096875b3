"""Which authentic packets may pass into the device, and which are somebody's own.

A table of rules; the first that matches decides. It looks at one packet at a time and
remembers nothing. A later fragment shows no ports; it passes where its first one could
have passed, and is worth nothing without it. So no packet passes that ends before its
ports: a fragment could bring them past the rules.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple, Union

from nvpn.datapath.api import Diversion, PeerId, Rule, SetFilter
from nvpn.datapath.buffers import Bytes
from nvpn.datapath.inner import (
    IPV4_HEADER_SIZE,
    IPV6_HEADER_SIZE,
    Inner,
    is_fragment,
    udp_payload,
)
from nvpn.model.prefixes import Prefix

_UDP_HEADER_SIZE: Final = 8
_WITH_PORTS: Final = frozenset((6, 17, 132, 136))  # TCP, UDP, SCTP, UDP-Lite
_FRAGMENT: Final = 44
# Hop-by-hop, routing, destination options: ``(next header, length in 8 bytes - 1)``.
_EXTENSIONS: Final = frozenset((0, 43, 60))


class NoPorts(enum.Enum):
    """Why a packet shows no ports."""

    NONE = "has none"
    CUT_OFF = "ends before them, or before what tells whether there are any"
    ELSEWHERE = "they were in another fragment"


Ports = Union[tuple[int, int], NoPorts]  # noqa: UP007 - a runtime value


class Flow(NamedTuple):
    """What is above IP: the protocol (of IPv6 that behind the extension headers), and the
    sender's and the receiver's port."""

    protocol: int
    ports: Ports


def flow_of(packet: Bytes) -> Flow:
    """The flow of a packet that is past ``parse_inner`` and cut to its length."""
    protocol, at = _ipv4_payload(packet) if packet[0] >> 4 == 4 else _ipv6_payload(packet)
    if at is None:
        return Flow(protocol, NoPorts.ELSEWHERE)
    if protocol in _EXTENSIONS or protocol == _FRAGMENT:
        # Still one of these: the packet has ended. (IPv4 carries none of them.)
        return Flow(protocol, NoPorts.CUT_OFF)
    if protocol not in _WITH_PORTS:
        return Flow(protocol, NoPorts.NONE)
    if at + 4 > len(packet):
        return Flow(protocol, NoPorts.CUT_OFF)
    return Flow(protocol, (packet[at] << 8 | packet[at + 1], packet[at + 2] << 8 | packet[at + 3]))


def _ipv4_payload(packet: Bytes) -> tuple[int, int | None]:
    is_later_fragment = packet[6] & 0x1F or packet[7]
    size = max((packet[0] & 0x0F) * 4, IPV4_HEADER_SIZE)
    return packet[9], None if is_later_fragment else size


def _ipv6_payload(packet: Bytes) -> tuple[int, int | None]:
    protocol, at = packet[6], IPV6_HEADER_SIZE
    while (protocol in _EXTENSIONS or protocol == _FRAGMENT) and at + 8 <= len(packet):
        following = packet[at]
        if protocol == _FRAGMENT:
            if packet[at + 2] or packet[at + 3] & 0xF8:
                return following, None
            at += 8
        else:
            at += (packet[at + 1] + 1) * 8
        protocol = following
    return protocol, at


class PortFilter:
    """The rules of a device."""

    __slots__ = ("_otherwise", "_rules")

    def __init__(self, rules: Sequence[Rule], *, otherwise: bool) -> None:
        self._rules: Final = tuple(rules)
        self._otherwise: Final = otherwise

    @classmethod
    def of(cls, command: SetFilter) -> PortFilter | None:
        """What the command asks for; None when everything may pass."""
        if command.rules is None:
            return None
        return cls(command.rules, otherwise=command.otherwise)

    def accepts(self, peer: PeerId, inner: Inner, packet: Bytes) -> bool:
        """Whether a packet from this peer, past ``parse_inner`` and cut, may pass."""
        flow = flow_of(packet)
        if flow.ports is NoPorts.CUT_OFF:
            return False
        for rule in self._rules:
            if _matches(rule, peer, inner, flow):
                return rule.accept
        return self._otherwise


def _matches(rule: Rule, peer: PeerId, inner: Inner, flow: Flow) -> bool:
    return (
        rule.peer in (None, peer)
        and rule.protocol in (None, flow.protocol)
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
