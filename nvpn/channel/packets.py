"""Where a node is inside the tunnel, and the packets that carry what it says.

The address comes from the public key, so that nobody has to be told it, and the packets are
made and read here, so that neither host needs IPv6. Whose packet it is, is not asked of the
address but of the session that it came through.
"""

from __future__ import annotations

import hashlib
from typing import Final

from nvpn.datapath.checksum import MODULUS, complement, pseudo_sum, word_sum
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix

CHANNEL_PORT: Final = 8766
"""Of both sides."""

_LABEL: Final = b"nvpn channel v1"
_LINK_LOCAL: Final = bytes.fromhex("fe80000000000000")
_LINK_LOCAL_BITS: Final = int.from_bytes(_LINK_LOCAL, "big")
_IPV6_HEADER: Final = 40
_UDP_HEADER: Final = 8
_HEADERS: Final = _IPV6_HEADER + _UDP_HEADER
_UDP: Final = 17
_PORTS: Final = CHANNEL_PORT.to_bytes(2, "big") * 2
_HOP_LIMIT: Final = 255


def channel_address(key: PublicKey) -> bytes:
    """16 bytes: fe80::/64 and the first 64 bits of BLAKE2s(label ‖ public key)."""
    return _LINK_LOCAL + hashlib.blake2s(_LABEL + bytes(key)).digest()[:8]


def channel_prefix(key: PublicKey) -> Prefix:
    """The same as a prefix of 128 bits."""
    return Prefix.of(channel_address(key), 128)


def without_channel(key: PublicKey, allowed_ips: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
    """A peer's allowed IPs but for that of its channel address."""
    if not any(_may_be_channel(prefix) for prefix in allowed_ips):
        return allowed_ips
    own = channel_prefix(key)
    return tuple(prefix for prefix in allowed_ips if prefix != own)


def _may_be_channel(prefix: Prefix) -> bool:
    # Most peers are spared the hash.
    return prefix.length == 128 and prefix.network >> 64 == _LINK_LOCAL_BITS


def pack_packet(source: bytes, destination: bytes, payload: bytes) -> bytes:
    """A whole IPv6 packet from the channel's port of one address to that of another.

    Source: RFC 8200, sections 3 and 8.1.
    """
    length = (_UDP_HEADER + len(payload)).to_bytes(2, "big")
    addresses = source + destination
    udp = _PORTS + length
    checksum = complement(
        pseudo_sum(addresses, _UDP, len(payload) + _UDP_HEADER) + word_sum(udp) + word_sum(payload)
    )
    return b"".join(
        (
            b"\x60\0\0\0",
            length,
            bytes((_UDP, _HOP_LIMIT)),
            addresses,
            udp,
            (checksum or MODULUS).to_bytes(2, "big"),
            payload,
        )
    )


def parse_packet(packet: bytes, *, source: bytes, destination: bytes) -> bytes | None:
    """What a packet between the channel's ports of these addresses carries.

    None for any other, or one that is broken.
    """
    if len(packet) < _HEADERS or packet[0] >> 4 != 6 or packet[6] != _UDP:
        return None
    end = _IPV6_HEADER + int.from_bytes(packet[4:6], "big")
    udp = packet[_IPV6_HEADER:end]
    if end > len(packet) or len(udp) < _UDP_HEADER:
        return None
    if packet[8:24] != source or packet[24:40] != destination or udp[:4] != _PORTS:
        return None
    if int.from_bytes(udp[4:6], "big") != len(udp) or udp[6:8] == b"\0\0":
        return None
    if (pseudo_sum(packet[8:40], _UDP, len(udp)) + word_sum(udp)) % MODULUS:
        return None
    return udp[_UDP_HEADER:]
