"""How long what a name resolves to may be believed: asked of the name servers themselves.

The system's resolver knows, and does not tell: ``getaddrinfo`` gives addresses without their
time to live. So the question is put once more, by a query of our own. Its answer is only a
hint about *when* to look again, never about where a peer is: whoever forges it gains a look-up.

Source: RFC 1035, sections 4.1 and 7.3; RFC 3596.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

A: Final = 1
AAAA: Final = 28
_CNAME: Final = 5
_CLASS_IN: Final = 1

_HEADER: Final = struct.Struct("!6H")
_QUESTION: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")
_RECURSION_DESIRED: Final = 0x0100
_RESPONSE: Final = 0x8000
_REFUSED_OR_TRUNCATED: Final = 0x020F  # TC, and an RCODE other than 0
_LARGEST_ANSWER: Final = 1232
_LONGEST_NAME: Final = 255
_MAX_JUMPS: Final = 64
_LARGEST_TTL: Final = 1 << 31
_PORT: Final = 53
_MAX_SERVERS: Final = 3  # as many as the system's resolver asks


def current_ttl(
    name: str, *, resolv_conf: str = "/etc/resolv.conf", hosts: str = "/etc/hosts"
) -> int | None:
    """Seconds until the addresses of a name may be others; None when nobody can tell.

    Blocks, two seconds at most; never raises. A name of the hosts file is not asked about.
    """
    if name.rstrip(".").lower() in read_hosts(hosts):
        return None
    return ask_ttl(name, read_name_servers(resolv_conf))


def ask_ttl(name: str, servers: Sequence[tuple[Any, ...]], *, timeout: float = 2.0) -> int | None:
    """The smallest TTL among a name's addresses, in seconds; None when nobody tells.

    Args:
        servers: addresses for the socket module; asked one after the other.
        timeout: for all of it, in seconds.
    """
    deadline = time.monotonic() + timeout
    for number, server in enumerate(servers):
        share = (deadline - time.monotonic()) / (len(servers) - number)
        ttls = [_ask(name, kind, server, share / 2) for kind in (A, AAAA)]
        known = [ttl for ttl in ttls if ttl is not None]
        if known:
            return min(known)
    return None


def _ask(name: str, kind: int, server: tuple[Any, ...], seconds: float) -> int | None:
    identity = int.from_bytes(os.urandom(2), "big")
    query = pack_query(name, kind, identity)
    if query is None or seconds <= 0:
        return None
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect(server)  # so that nobody else is heard
            asking.send(query)
            while (left := deadline - time.monotonic()) > 0:
                asking.settimeout(left)
                answer = asking.recv(_LARGEST_ANSWER)
                if answer[:2] == query[:2]:
                    return parse_ttl(answer, query)
    except OSError:
        pass
    return None


# --- messages -------------------------------------------------------------------------


def pack_query(name: str, kind: int, identity: int) -> bytes | None:
    """A question for a name's records of a kind; None for what is no name of the DNS."""
    try:
        labels = name.rstrip(".").encode("idna" if not name.isascii() else "ascii").split(b".")
    except UnicodeError:
        return None
    if not all(0 < len(label) < 64 for label in labels):
        return None
    packed = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(packed) > _LONGEST_NAME:
        return None
    header = _HEADER.pack(identity, _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + packed + _QUESTION.pack(kind, _CLASS_IN)


def parse_ttl(answer: bytes, query: bytes) -> int | None:
    """The smallest TTL of what answers the query, in seconds.

    Aliases on the way to an address count. None for an answer to something else, one
    without addresses, and anything malformed; nothing raises.
    """
    try:
        return _parse_ttl(answer, query)
    except (struct.error, IndexError, ValueError):
        return None


def _parse_ttl(answer: bytes, query: bytes) -> int | None:
    identity, flags, questions, answers, _, _ = _HEADER.unpack_from(answer)
    kind = int.from_bytes(query[-4:-2], "big")
    if (
        identity != int.from_bytes(query[:2], "big")
        or not flags & _RESPONSE
        or flags & _REFUSED_OR_TRUNCATED
        or questions != 1
    ):
        return None
    asked, at = _read_name(answer, _HEADER.size)
    if asked != _read_name(query, _HEADER.size)[0] or answer[at : at + 4] != query[-4:]:
        return None
    at += _QUESTION.size
    records = []
    for _ in range(answers):
        record, at = _read_record(answer, at)
        records.append(record)
    # An alias may be told after what it leads to.
    names, before = {asked}, 0
    while len(names) > before:
        before = len(names)
        names |= {one.target for one in records if one.kind == _CNAME and one.name in names}
    relevant = [one for one in records if one.name in names and one.kind in (kind, _CNAME)]
    if not any(one.kind == kind for one in relevant):
        return None
    return min(one.ttl for one in relevant)


class _Record(NamedTuple):
    name: bytes
    kind: int
    ttl: int
    target: bytes  # of an alias


def _read_record(message: bytes, at: int) -> tuple[_Record, int]:
    name, at = _read_name(message, at)
    kind, which, ttl, size = _RECORD.unpack_from(message, at)
    at += _RECORD.size
    if at + size > len(message):
        raise ValueError("the record is longer than the message")
    target = b""
    if kind == _CNAME and which == _CLASS_IN:
        target = _read_name(message, at)[0]
    # RFC 2181, section 8: the top bit makes it zero.
    ttl = 0 if ttl >= _LARGEST_TTL else ttl
    return _Record(name, kind if which == _CLASS_IN else 0, ttl, target), at + size


def _read_name(message: bytes, at: int) -> tuple[bytes, int]:
    """A name in lower case, as labels with their lengths, and where the message goes on.

    Raises:
        ValueError, IndexError: it is malformed, or leads round in circles.
    """
    labels: list[bytes] = []
    end: int | None = None
    total = jumps = 0
    while size := message[at]:
        if size >= 0xC0:
            jumps += 1
            if jumps > _MAX_JUMPS:
                raise ValueError("a name that never ends")
            end = at + 2 if end is None else end
            at = (size & 0x3F) << 8 | message[at + 1]
            continue
        if size >= 0x40 or at + 1 + size > len(message):
            raise ValueError("no label")
        labels.append(message[at : at + 1 + size].lower())
        total += 1 + size
        if total >= _LONGEST_NAME:
            raise ValueError("a name that is too long")
        at += 1 + size
    return b"".join(labels), at + 1 if end is None else end


# --- files ----------------------------------------------------------------------------


def read_name_servers(path: str) -> list[tuple[Any, ...]]:
    """The addresses that a resolv.conf names, at most three; none if it cannot be read."""
    servers: list[tuple[Any, ...]] = []
    for words in _read_words(path):
        if words[0] != "nameserver" or len(words) < 2 or len(servers) == _MAX_SERVERS:
            continue
        try:
            found = socket.getaddrinfo(
                words[1], _PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
            )
        except (OSError, UnicodeError):
            continue
        servers.append(found[0][4])
    return servers


def read_hosts(path: str) -> set[str]:
    """The names, in lower case, that a hosts file has addresses for."""
    return {word.lower() for words in _read_words(path) for word in words[1:]}


def _read_words(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found = [line.partition("#")[0].split() for line in lines]
    return [words for words in found if words]
