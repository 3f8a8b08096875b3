"""The text of a TOML file, changed in places: every other byte of it stays.

A change is made where :mod:`nvpn.config.locate` says that the thing stands, whichever way
it is written there: a section, keys with dots, or tables in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Union

import tomli

from nvpn.config.edit import NewPeer
from nvpn.config.locate import Kind, Mark, Position, outline
from nvpn.config.toml_text import format_pair, format_text
from nvpn.config.values import decode_key
from nvpn.model.keys import PublicKey

Value = Union[str, int, bool, Sequence[str]]  # noqa: UP007 - a runtime value on Python 3.10


class Change(NamedTuple):
    """A key of a section, and the value it is to have; None takes it away."""

    section: Position
    key: str
    value: Value | None


class _Splice(NamedTuple):
    start: int
    end: int
    text: str


class EditedToml:
    """A valid document; ``text`` is what it is now."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def peers(self) -> Sequence[PublicKey]:
        """Those that it has, in its order."""
        return [PublicKey(decode_key(peer["public_key"])) for peer in self.peer_tables()]

    def peer_tables(self) -> list[dict[str, Any]]:
        """Their keys and values, in the same order."""
        return list(self._document().get("peer", []))

    def add_peer(self, peer: NewPeer) -> None:
        """At the end."""
        self.add_peers([peer])

    def add_peers(self, peers: Sequence[NewPeer]) -> None:
        """At the end, in their order."""
        array = self._find(Kind.PAIR, ("peer",))
        for peer in peers:
            if array is None:
                self._append_section("[[peer]]", _peer_pairs(peer))
            else:
                self._add_to_array(array, _peer_pairs(peer))

    def remove_peer(self, index: int) -> None:
        """The one at this place, with the comments directly above its section."""
        self.remove_peers([index])

    def remove_peers(self, indices: Sequence[int]) -> None:
        """Those at these places."""
        headers, ends = self._sections()
        splices: list[_Splice] = []
        for index in sorted(indices, reverse=True):
            header = headers.get(("peer", index))
            if header is None:
                self._remove_element(index)  # All peers are in one list then.
            else:
                splices.append(self._lines_of(header, ends["peer", index]))
        has_last_end = self.text.endswith("\n")
        reaches_end = any(splice.end == len(self.text) for splice in splices)
        self._apply(splices)
        if reaches_end and not has_last_end:
            self.text = self.text.removesuffix("\n").removesuffix("\r")

    def set_all(self, changes: Sequence[Change]) -> None:
        """Give several keys their values, in the time that one takes."""
        headers, ends = self._sections()
        pairs = {mark.position: mark for mark in self._marks() if mark.kind is Kind.PAIR}
        splices: list[_Splice] = []
        new: dict[Position, list[str]] = {}
        others: list[Change] = []
        for change in changes:
            there = pairs.get((*change.section, change.key))
            if change.section not in headers:
                others.append(change)
            elif change.value is None:
                if there is not None:
                    end = self._line_end(there.end)
                    splices.append(_Splice(self._line_start(there.start), end, ""))
            elif there is None:
                written = self._in_our_lines(format_pair(change.key, change.value))
                new.setdefault(change.section, []).append(written)
            else:
                written = format_pair(change.key, change.value).partition(" = ")[2]
                splices.append(_Splice(there.value, there.end, self._in_our_lines(written)))
        for section, lines in new.items():
            at = self._line_end(ends[section])
            before = "" if self.text[:at].endswith("\n") else self._newline
            text = before + "".join(line + self._newline for line in lines)
            splices.append(_Splice(at, at, text))
        self._apply(splices)
        for change in others:
            if self._find(Kind.HEADER, change.section) is not None:
                self.set(*change)  # One of those before has made the section.
            else:
                self._set_without_header(*change)

    def set(self, section: Position, key: str, value: Value | None) -> None:
        """Give a key of a section this value; None takes it away."""
        self.set_all([Change(section, key, value)])

    def get(self, section: Position) -> dict[str, Any]:
        """The keys of a section and their values; empty if there is none."""
        found: Any = self._document()
        try:
            for part in section:
                found = found[part]
        except (KeyError, IndexError):
            return {}
        return dict(found)

    def _document(self) -> dict[str, Any]:
        return tomli.loads(self.text)

    def _marks(self) -> list[Mark]:
        return outline(self.text)

    def _sections(self) -> tuple[dict[Position, Mark], dict[Position, int]]:
        """Headers by their section, and where the last thing in each ends."""
        headers: dict[Position, Mark] = {}
        ends: dict[Position, int] = {}
        for mark in self._marks():
            if mark.kind is Kind.COMMENT:
                continue
            section = mark.position[: 2 if mark.position[0] == "peer" else 1]
            if mark.kind is Kind.HEADER:
                headers.setdefault(section, mark)
            if section in headers:
                ends[section] = max(ends.get(section, 0), mark.end)
        return headers, ends

    def _lines_of(self, header: Mark, last: int) -> _Splice:
        """A section with the comments directly above it, and one empty line above those."""
        start = self._line_start(header.start)
        while self._line_above(start).lstrip().startswith("#"):
            start = self._line_start(start - 1)
        if start and not self._line_above(start).strip():
            start = self._line_start(start - 1)
        return _Splice(start, self._line_end(last), "")

    def _add_to_array(self, array: Mark, pairs: Sequence[tuple[str, Value]]) -> None:
        table = f"{{ {', '.join(_on_one_line(*pair) for pair in pairs)} }}"
        elements = [mark for mark in self._marks() if _is_peer(mark, Kind.ELEMENT)]
        if elements:
            self._splice(elements[-1].end, elements[-1].end, f", {table}")
        else:
            self._splice(array.value + 1, array.value + 1, table)

    def _apply(self, splices: list[_Splice]) -> None:
        """All of them; none may overlap with another."""
        parts: list[str] = []
        at = 0
        for splice in sorted(splices):
            parts += (self.text[at : splice.start], splice.text)
            at = splice.end
        self.text = "".join((*parts, self.text[at:]))

    def _find(self, kind: Kind, position: Position) -> Mark | None:
        marks = (m for m in self._marks() if m.kind is kind and m.position == position)
        return next(marks, None)

    def _append_section(self, header: str, pairs: Sequence[tuple[str, Value]]) -> None:
        lines = [header, *(self._in_our_lines(format_pair(*pair)) for pair in pairs)]
        block = self._newline.join(lines)
        if not self.text:
            self.text = block + self._newline
        elif self.text.endswith("\n"):
            self.text += self._newline + block + self._newline
        else:
            # As the file had it: removing this brings back every byte of it.
            self.text += self._newline * 2 + block

    def _set_without_header(self, section: Position, key: str, value: Value | None) -> None:
        """In a table in one line, in keys with dots, or in a section that is not there yet."""
        there = self._find(Kind.PAIR, (*section, key))
        if value is None:
            if there is not None:
                self._remove_pair(there)
        elif there is None:
            self._insert_without_header(section, key, value)
        else:
            self._splice(there.value, there.end, format_pair(key, value).partition(" = ")[2])

    def _insert_without_header(self, section: Position, key: str, value: Value) -> None:
        inside = [mark for mark in self._marks() if mark.position[: len(section)] == section]
        table = next((mark for mark in inside if mark.position == section), None)
        if table is not None:  # in one line
            pairs = [mark for mark in inside if len(mark.position) > len(section)]
            at = max((mark.end for mark in pairs), default=table.value + 1)
            written = _on_one_line(key, value)
            self._splice(at, at, f", {written}" if pairs else f" {written} ")
        elif inside:  # keys with dots
            at = self._line_end(max(mark.end for mark in inside))
            written = self._in_our_lines(format_pair(f"{section[0]}.{key}", value))
            before = "" if self.text[:at].endswith("\n") else self._newline
            self._splice(at, at, before + written + self._newline)
        else:
            self._append_section(f"[{section[0]}]", [(key, value)])

    def _remove_pair(self, pair: Mark) -> None:
        start, end = self._line_start(pair.start), self._line_end(pair.end)
        before, behind = self.text[start : pair.start], self.text[pair.end : end]
        if not before.strip() and behind.lstrip()[:1] in ("", "#"):
            self._splice(start, end, "")
        else:
            self._cut_from_list(pair.start, pair.end)

    def _remove_element(self, index: int) -> None:
        element = self._find(Kind.ELEMENT, ("peer", index))
        if element is not None:
            self._cut_from_list(element.start, element.end)

    def _cut_from_list(self, start: int, end: int) -> None:
        """Take away one of several that commas divide, and one comma."""
        before = self.text[:start].rstrip()
        behind = self.text[end:].lstrip()
        if before.endswith(","):
            self._splice(len(before) - 1, end, "")
        elif behind.startswith(","):
            behind = behind[1:].lstrip(" \t")
            self._splice(start, len(self.text) - len(behind), "")
        else:
            self._splice(start, end, "")

    def _line_start(self, at: int) -> int:
        return self.text.rfind("\n", 0, at) + 1

    def _line_end(self, at: int) -> int:
        """Behind the line end."""
        return self.text.find("\n", at) + 1 or len(self.text)

    def _line_above(self, start: int) -> str:
        return self.text[self._line_start(start - 1) : start] if start else ""

    def _in_our_lines(self, text: str) -> str:
        return text.replace("\n", self._newline)

    def _splice(self, start: int, end: int, text: str) -> None:
        self._apply([_Splice(start, end, text)])


def _peer_pairs(peer: NewPeer) -> list[tuple[str, Value]]:
    pairs: list[tuple[str, Value]] = [("name", peer.name)] if peer.name else []
    pairs.append(("public_key", peer.public_key.base64))
    if peer.preshared_key is not None:
        pairs.append(("preshared_key", peer.preshared_key.reveal_base64()))
    if peer.endpoint is not None:
        pairs.append(("endpoint", str(peer.endpoint)))
    if peer.allowed_ips:
        pairs.append(("allowed_ips", [str(prefix) for prefix in peer.allowed_ips]))
    if peer.persistent_keepalive:
        pairs.append(("persistent_keepalive", peer.persistent_keepalive))
    return pairs


def _on_one_line(key: str, value: Value) -> str:
    if isinstance(value, (str, int)):
        return format_pair(key, value)
    return f"{key} = [{', '.join(map(format_text, value))}]"


def _is_peer(mark: Mark, kind: Kind) -> bool:
    return mark.kind is kind and len(mark.position) == 2 and mark.position[0] == "peer"
