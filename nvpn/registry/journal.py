"""The form of a registry's file: one line a commit, each of which can be checked by itself.

::

    length, 8 hex digits | space | CRC-32, 8 hex digits | space | JSON | newline

``length`` counts the bytes of the JSON, and the CRC is over them. The JSON is
``{"revision": 7, "put": {key: value, …}, "delete": [key, …]}``; a value is itself JSON, as
text.

A line that was being written when the machine stopped is recognised, whatever of it is there:
it is the last one, and nobody was told that it was done.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from nvpn.registry.store import Record

_HEAD: Final = 18
MAX_LINE: Final = 16 << 20


class Entry(NamedTuple):
    """What one commit did."""

    revision: int
    puts: dict[str, bytes]
    deletes: tuple[str, ...] = ()


class Scan(NamedTuple):
    """What a file holds.

    ``end`` is where the last good line ends; after it there is nothing, or what is left of a
    line that was being written. ``damaged`` counts the places between good lines that cannot
    be read.
    """

    entries: tuple[Entry, ...]
    end: int
    damaged: int


def format_entry(entry: Entry) -> bytes:
    """One line."""
    text = json.dumps(
        {
            "revision": entry.revision,
            "put": {key: value.decode() for key, value in entry.puts.items()},
            "delete": list(entry.deletes),
        },
        separators=(",", ":"),
    ).encode()
    return b"%08x %08x %s\n" % (len(text), zlib.crc32(text), text)


def format_whole(records: Iterable[Record], revision: int) -> Iterator[bytes]:
    """Lines that say what all commits up to this revision made, without how."""
    by_revision: dict[int, dict[str, bytes]] = {}
    for record in records:
        by_revision.setdefault(record.revision, {})[record.key] = record.value
    for at in sorted(by_revision):
        yield format_entry(Entry(at, by_revision[at]))
    if revision not in by_revision:
        yield format_entry(Entry(revision, {}))


def scan(data: bytes) -> Scan:
    """Read every line that is whole, in order."""
    entries: list[Entry] = []
    at = end = damaged = 0
    while at < len(data):
        entry, after = _read_line(data, at)
        if entry is None:
            # Where the next line begins is all that can still be known.
            after = data.find(b"\n", at) + 1 or len(data)
        else:
            if at > end:
                damaged += 1
            entries.append(entry)
            end = after
        at = after
    return Scan(tuple(entries), end, damaged)


def _read_line(data: bytes, at: int) -> tuple[Entry | None, int]:
    head = data[at : at + _HEAD]
    try:
        length, crc = int(head[:8], 16), int(head[9:17], 16)
    except ValueError:
        return None, at
    start, end = at + _HEAD, at + _HEAD + length
    if head[8:9] + head[17:18] != b"  " or length > MAX_LINE or data[end : end + 1] != b"\n":
        return None, at
    text = data[start:end]
    if zlib.crc32(text) != crc:
        return None, at
    try:
        fields = json.loads(text)
        puts = {key: value.encode() for key, value in fields["put"].items()}
        return Entry(int(fields["revision"]), puts, tuple(fields["delete"])), end + 1
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, at
