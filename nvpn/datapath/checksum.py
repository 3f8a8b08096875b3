"""The Internet checksum, on Python's integers.

A sum of 16-bit words with end-around carry is the number that the bytes make, modulo
65535: 65536 is 1 there. For packets of up to a few hundred bytes nothing in Python is
quicker.

Source: RFC 1071; RFC 768 and RFC 8200 section 8.1 for UDP's zero.
"""

from __future__ import annotations

from typing import Final

from nvpn.datapath.buffers import Bytes

MODULUS: Final = 0xFFFF


def word_sum(data: Bytes) -> int:
    """The sum of the 16-bit words of ``data``, 0 to 65534; an odd end is padded by zero."""
    number = int.from_bytes(data, "big")
    return (number << 8 if len(data) & 1 else number) % MODULUS


def complement(total: int) -> int:
    """What belongs into the checksum field of something whose words sum up to ``total``.

    Never 65535, which stands for the same number; UDP over IPv6 wants it instead of 0.
    """
    return -total % MODULUS


def pseudo_sum(addresses: Bytes, protocol: int, length: int) -> int:
    """The sum over the pseudo header.

    Args:
        addresses: source and destination, 8 or 32 bytes.
        length: of the transport header and what follows it.
    """
    return (int.from_bytes(addresses, "big") + protocol + length) % MODULUS
