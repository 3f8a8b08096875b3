"""Which WireGuard links the kernel has in this network namespace.

``nvpn show`` asks this each time, so it costs a netlink round trip and no import of pyroute2.
(/sys/class/net would show the links of the namespace that it was mounted in.)
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

_KIND = b"wireguard"

_RTM_NEWLINK = 16
_RTM_GETLINK = 18
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_IFLA_IFNAME = 3
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1
_IFLA_EXT_MASK = 29
_SKIP_STATISTICS = 8

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_LINK_BYTES = 16  # struct ifinfomsg
_ATTRIBUTE = struct.Struct("=HH")
_TIMEOUT_SECONDS = 5.0


def list_wireguard_links() -> list[str]:
    """Their names, in the kernel's order; none where it cannot be asked."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(_TIMEOUT_SECONDS)
            kernel.send(_request())
            return read_names(iter(lambda: kernel.recv(1 << 16), b""))
    except OSError:
        return []


def read_names(answers: Iterable[bytes]) -> list[str]:
    """The names of the WireGuard links in a dump, as it was received."""
    names: list[str] = []
    for data in answers:
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size or kind in (_NLMSG_ERROR, _NLMSG_DONE):
                return names
            if kind == _RTM_NEWLINK:
                found = _attributes(data[at + _HEADER.size + _LINK_BYTES : at + length])
                link = _attributes(found.get(_IFLA_LINKINFO, b""))
                if link.get(_IFLA_INFO_KIND, b"").rstrip(b"\0") == _KIND:
                    name = found.get(_IFLA_IFNAME, b"").rstrip(b"\0")
                    names.append(name.decode(errors="surrogateescape"))
            at += length + 3 & ~3
    return names


def _request() -> bytes:
    # The kernel may leave out other links, but only if it has had a WireGuard already.
    kind = _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, _KIND + b"\0"))
    mask = _attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS))
    body = bytes(_LINK_BYTES) + mask + kind
    head = _HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    return head + body


def _attribute(kind: int, value: bytes) -> bytes:
    data = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
    return data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found
