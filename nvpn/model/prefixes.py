"""IP prefixes, small and quick: an interface may carry a hundred thousand."""

from __future__ import annotations

import socket
from typing import NamedTuple


class Prefix(NamedTuple):
    """An IP network: its host bits are always zero.

    ``version`` is 4 or 6, ``network`` the address as an integer (32 or 128 bits),
    ``length`` the number of leading bits that count.
    """

    version: int
    network: int
    length: int

    @classmethod
    def parse(cls, text: str, *, default_length: bool = False) -> Prefix:
        """Read ``10.0.0.0/8`` or ``fd00::/8``, masking host bits.

        Args:
            default_length: whether a bare address stands for /32 or /128.

        Raises:
            ValueError: anything else, zones and lengths such as ``/024`` included.
        """
        address, slash, tail = text.partition("/")
        packed = parse_address(address)
        bits = len(packed) * 8
        if slash:
            if not (tail.isascii() and tail.isdigit() and (tail == "0" or tail[0] != "0")):
                raise ValueError("a prefix length is a plain decimal number")
            length = int(tail)
        elif default_length:
            length = bits
        else:
            raise ValueError("a prefix needs a length, such as /24")
        if length > bits:
            raise ValueError(f"a prefix length is at most {bits} here")
        return cls.of(packed, length)

    @classmethod
    def of(cls, packed: bytes, length: int) -> Prefix:
        """The prefix of ``length`` bits around an address of 4 or 16 bytes."""
        bits = len(packed) * 8
        shift = bits - length
        return cls(4 if bits == 32 else 6, int.from_bytes(packed, "big") >> shift << shift, length)

    @property
    def bits(self) -> int:
        """32 or 128."""
        return 32 if self.version == 4 else 128

    @property
    def packed(self) -> bytes:
        """The network address, 4 or 16 bytes in network order."""
        return self.network.to_bytes(self.bits // 8, "big")

    @property
    def is_default(self) -> bool:
        """Whether it covers the whole family."""
        return self.length == 0

    def covers(self, other: Prefix) -> bool:
        """Whether every address of ``other`` is in here."""
        return (
            self.version == other.version
            and self.length <= other.length
            and (self.network ^ other.network) >> (self.bits - self.length) == 0
        )

    def __str__(self) -> str:
        return f"{format_address(self.packed)}/{self.length}"


class Interface(NamedTuple):
    """An address with the length of its network, as it is given to an interface."""

    address: bytes
    length: int

    @classmethod
    def parse(cls, text: str) -> Interface:
        """Read ``10.0.0.1/24``; a bare address stands for /32 or /128. Raises ValueError."""
        prefix = Prefix.parse(text, default_length=True)
        return cls(parse_address(text.partition("/")[0]), prefix.length)

    @property
    def prefix(self) -> Prefix:
        """The network that the address is in."""
        return Prefix.of(self.address, self.length)

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.length}"


def parse_address(text: str) -> bytes:
    """4 or 16 bytes of an IP address without zone; ``01.2.3.4`` is refused.

    Raises:
        ValueError: with a sentence about what was expected.
    """
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise ValueError("expected an IPv4 or IPv6 address") from None


def format_address(packed: bytes) -> str:
    """The text of a 4 or 16 byte address."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
