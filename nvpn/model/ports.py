"""Which ports may be reached through the tunnel, as people write it down.

``tcp/22``, ``udp/1-1023``, ``tcp`` (every port), ``22`` or ``1-1023`` (TCP and UDP),
``icmp`` (ICMP and ICMPv6), ``proto/47`` (any other protocol, by its number).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_PORT: Final = 65535
MAX_PROTOCOL: Final = 255

# In IANA's numbers. What has ports may be followed by some; the others stand alone.
_WITH_PORTS: Final = {"tcp": (6,), "udp": (17,), "sctp": (132,), "udplite": (136,)}
_WITHOUT_PORTS: Final = {"icmp": (1, 58)}
_TCP_AND_UDP: Final = (6, 17)
_ANY_PROTOCOL: Final = "proto"
_NUMBERS: Final = re.compile(r"(0|[1-9][0-9]{0,4})(?:-(0|[1-9][0-9]{0,4}))?", re.ASCII)
_EXPECTED: Final = "such as tcp/22, udp/1-1023, tcp, 22, icmp or proto/47"


@dataclass(frozen=True, slots=True)
class PortSpec:
    """Protocols, by their numbers, and of these a range of ports, both ends included.

    ``ports`` None: all that such a protocol carries. ``str`` gives what
    :func:`parse_port_spec` reads.
    """

    protocols: tuple[int, ...]
    ports: tuple[int, int] | None = None

    def __str__(self) -> str:
        protocols = self.protocols
        word = next(
            (word for word, own in (_WITH_PORTS | _WITHOUT_PORTS).items() if own == protocols), ""
        )
        if self.ports is None:
            return word or f"{_ANY_PROTOCOL}/{protocols[0]}"
        first, last = self.ports
        span = str(first) if first == last else f"{first}-{last}"
        return f"{word}/{span}" if word else span


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """What peers may begin through the tunnel; None where nothing was said about it.

    ``allowed``: only these; an empty one allows nothing. ``disallowed``: not these, be they
    allowed or not. An empty ``disallowed`` alone is a word, too: everything is allowed here,
    whatever holds elsewhere.
    """

    allowed: tuple[PortSpec, ...] | None = None
    disallowed: tuple[PortSpec, ...] | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything was said."""
        return self.allowed is not None or self.disallowed is not None


def parse_port_spec(text: str) -> PortSpec:
    """Read one entry of ``allowed_ports`` or ``disallowed_ports``.

    Raises:
        ValueError: with a sentence that says what was expected.
    """
    word, slash, numbers = text.strip().lower().partition("/")
    if not slash:
        if _is_numbers(word):
            return PortSpec(_TCP_AND_UDP, _read_ports(word))
        protocols = _WITH_PORTS.get(word) or _WITHOUT_PORTS.get(word)
        if protocols is None:
            raise ValueError(f"not a port or a protocol; expected one {_EXPECTED}")
        return PortSpec(protocols)
    if word == _ANY_PROTOCOL:
        return PortSpec((_read_protocol(numbers),))
    if word in _WITHOUT_PORTS:
        raise ValueError(f"{word} has no ports; write {word} alone")
    if word not in _WITH_PORTS:
        if numbers in _WITH_PORTS and _NUMBERS.fullmatch(word):
            raise ValueError(f"the protocol stands before the port: {numbers}/{word}")
        known = ", ".join(_WITH_PORTS)
        raise ValueError(f"expected {known} or {_ANY_PROTOCOL} before the slash, {_EXPECTED}")
    return PortSpec(_WITH_PORTS[word], _read_ports(numbers))


def _is_numbers(text: str) -> bool:
    return text[:1].isdigit() and text.isascii()


def _read_ports(text: str) -> tuple[int, int]:
    match = _NUMBERS.fullmatch(text)
    if match is None:
        raise ValueError("a port is a number, or two with a minus between them, such as 1-1023")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    # Elsewhere 0 stands for all of them: whoever means that must not get something else.
    if not 1 <= first <= MAX_PORT or not 1 <= last <= MAX_PORT:
        raise ValueError(
            f"ports are 1 to {MAX_PORT}; for all of them write the protocol alone, such as tcp"
        )
    if first > last:
        raise ValueError(f"the smaller port comes first: {last}-{first}")
    return first, last


def _read_protocol(text: str) -> int:
    match = _NUMBERS.fullmatch(text)
    if match is None or match[2] is not None or int(match[1]) > MAX_PROTOCOL:
        raise ValueError(f"after proto/ stands a protocol's number, 0 to {MAX_PROTOCOL}")
    return int(match[1])
