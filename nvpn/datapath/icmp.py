"""Telling a program at once that its packet has nowhere to go.

The ICMP errors that the kernel's WireGuard sends back into the tunnel: host unreachable
(IPv4 3/1) and address unreachable (IPv6 1/3), so that a connection fails now instead of
timing out.

Source: RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 4.3.2, RFC 4443 sections 2.4
and 3.1.
"""

from __future__ import annotations

import struct
from typing import Final

from nvpn.datapath.buffers import Bytes
from nvpn.datapath.checksum import complement, pseudo_sum, word_sum
from nvpn.datapath.flow import ICMPV4, ICMPV6, ipv6_payload, is_extension
from nvpn.datapath.inner import parse_inner
from nvpn.model.clock import SECOND
from nvpn.wire.token_bucket import TokenBucket

_ERRORS: Final = TokenBucket(interval=SECOND // 100, burst=50)

_IPV4: Final = struct.Struct(">BBHHHBBH4s4s")
_IPV6: Final = struct.Struct(">IHBB16s16s")
_ICMP: Final = struct.Struct(">BBHI")

_MAX_IPV4_ERROR: Final = 576
_MAX_IPV6_ERROR: Final = 1280
_HOPS: Final = 64
_INTERNET_CONTROL: Final = 0xC0  # the precedence that routers give to ICMP errors

_HOST_UNREACHABLE: Final = (3, 1)
_ADDRESS_UNREACHABLE: Final = (1, 3)
_ICMPV4_ERRORS: Final = frozenset((3, 4, 5, 11, 12))
_ICMPV6_REDIRECT: Final = 137


class ErrorLimit:
    """How many ICMP errors a device may make."""

    __slots__ = ("_full_again",)

    def __init__(self) -> None:
        self._full_again = 0

    def allow(self, now: int) -> bool:
        """Take one error's worth, if it is there."""
        full_again = _ERRORS.take(self._full_again, now)
        if full_again is None:
            return False
        self._full_again = full_again
        return True


def unreachable(packet: Bytes) -> bytes | None:
    """The ICMP error that answers a packet with nowhere to go.

    Its source is the address that the packet was going to: this layer does not know the
    interface's own addresses, and that one is certain to be routed into the tunnel, so
    that no reverse-path filter takes offence.

    Args:
        packet: an IP packet as read from the TUN device; it may be a superpacket.

    Returns:
        a whole IP packet; None where none may be sent: for an ICMP error or redirect, a
        fragment other than the first, a multicast or broadcast destination, a source
        that is not one host, and what is not IP at all.
    """
    inner = parse_inner(packet)
    if inner is None:
        return None
    if inner.version == 4:
        return _unreachable_ipv4(bytes(packet[: min(inner.length, _MAX_IPV4_ERROR - 28)]))
    return _unreachable_ipv6(bytes(packet[: min(inner.length, _MAX_IPV6_ERROR - 48)]))


def _unreachable_ipv4(quoted: bytes) -> bytes | None:
    header = (quoted[0] & 0x0F) * 4
    source, destination = quoted[12:16], quoted[16:20]
    is_later_fragment = (quoted[6] << 8 | quoted[7]) & 0x1FFF
    if header < 20 or len(quoted) < header or is_later_fragment:
        return None
    if not _is_host_ipv4(source) or not _is_host_ipv4(destination):
        return None
    if quoted[9] == ICMPV4 and (len(quoted) == header or quoted[header] in _ICMPV4_ERRORS):
        return None
    kind, code = _HOST_UNREACHABLE
    body = _ICMP.pack(kind, code, 0, 0) + quoted
    body = _ICMP.pack(kind, code, complement(word_sum(body)), 0) + quoted
    size = _IPV4.size + len(body)
    tos = quoted[1] & 0x1E | _INTERNET_CONTROL
    fields = (0x45, tos, size, 0, 0, _HOPS, ICMPV4)
    checksum = complement(word_sum(_IPV4.pack(*fields, 0, destination, source)))
    return _IPV4.pack(*fields, checksum, destination, source) + body


def _unreachable_ipv6(quoted: bytes) -> bytes | None:
    source, destination = quoted[8:24], quoted[24:40]
    if not _is_host_ipv6(source) or not _is_host_ipv6(destination):
        return None
    if not _may_answer_ipv6(quoted):
        return None
    kind, code = _ADDRESS_UNREACHABLE
    body = _ICMP.pack(kind, code, 0, 0) + quoted
    pseudo = pseudo_sum(source + destination, ICMPV6, len(body))
    body = _ICMP.pack(kind, code, complement(pseudo + word_sum(body)), 0) + quoted
    return _IPV6.pack(6 << 28, len(body), ICMPV6, _HOPS, destination, source) + body


def _is_host_ipv4(address: bytes) -> bool:
    """Not "this network", loopback, multicast, reserved or broadcast."""
    return address[0] not in (0, 127) and address[0] < 224


def _is_host_ipv6(address: bytes) -> bool:
    """Neither unspecified, nor loopback, nor multicast."""
    return address[0] != 0xFF and int.from_bytes(address, "big") > 1


def _may_answer_ipv6(quoted: bytes) -> bool:
    """Not what is an ICMP error or redirect, or hides what it is."""
    protocol, at, _ = ipv6_payload(quoted)
    if at is None:
        return False
    if protocol != ICMPV6:
        return not is_extension(protocol)
    if at >= len(quoted):
        return False
    return quoted[at] >= 128 and quoted[at] != _ICMPV6_REDIRECT
