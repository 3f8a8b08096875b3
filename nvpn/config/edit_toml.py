"""The text of a TOML file, changed in places: every other byte of it stays.

A change is made where :mod:`nvpn.config.locate` says that the thing stands, whichever way
it is written there: a section, keys with dots, or tables in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import tomli

from nvpn.config.edit import NewPeer
from nvpn.config.locate import Kind, Mark, Position, outline
from nvpn.config.toml_text import format_pair, format_text
from nvpn.config.values import decode_key
from nvpn.model.keys import PublicKey

Value = Union[str, int, bool, Sequence[str]]  # noqa: UP007 - a runtime value on Python 3.10


class EditedToml:
    """A valid document; ``text`` is what it is now."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def peers(self) -> Sequence[PublicKey]:
        """Those that it has, in its order."""
        return [
            PublicKey(decode_key(peer["public_key"])) for peer in self._document().get("peer", [])
        ]

    def add_peer(self, peer: NewPeer) -> None:
        """At the end."""
        pairs = _peer_pairs(peer)
        array = self._find(Kind.PAIR, ("peer",))
        if array is None:
            self._append_section("[[peer]]", pairs)
            return
        table = f"{{ {', '.join(_on_one_line(*pair) for pair in pairs)} }}"
        elements = [mark for mark in self._marks() if _is_peer(mark, Kind.ELEMENT)]
        if elements:
            self._splice(elements[-1].end, elements[-1].end, f", {table}")
        else:
            self._splice(array.value + 1, array.value + 1, table)

    def remove_peer(self, index: int) -> None:
        """The one at this place, with the comments directly above its section."""
        header = self._find(Kind.HEADER, ("peer", index))
        if header is None:
            self._remove_element(index)
            return
        inside = [mark for mark in self._marks() if mark.position[:2] == ("peer", index)]
        start = self._line_start(header.start)
        while self._line_above(start).lstrip().startswith("#"):
            start = self._line_start(start - 1)
        end = self._line_end(max(mark.end for mark in inside))
        self._remove_lines(start, end)

    def set(self, section: Position, key: str, value: Value | None) -> None:
        """Give a key of a section this value; None takes it away."""
        there = self._find(Kind.PAIR, (*section, key))
        if value is None:
            if there is not None:
                self._remove_pair(there)
        elif there is None:
            self._insert_pair(section, key, value)
        else:
            written = format_pair(key, value).partition(" = ")[2]
            self._splice(there.value, there.end, self._in_our_lines(written))

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

    def _insert_pair(self, section: Position, key: str, value: Value) -> None:
        marks = self._marks()
        inside = [mark for mark in marks if mark.position[: len(section)] == section]
        header = self._find(Kind.HEADER, section)
        whole = next((m for m in inside if m.position == section and m is not header), None)
        if header is None and whole is not None:  # a table in one line
            pairs = [mark for mark in inside if len(mark.position) > len(section)]
            at = max((mark.end for mark in pairs), default=whole.value + 1)
            written = _on_one_line(key, value)
            self._splice(at, at, f", {written}" if pairs else f" {written} ")
        elif inside:
            dotted = "" if header is not None else f"{'.'.join(map(str, section))}."
            if header is not None:
                inside = [mark for mark in inside if mark.start >= header.start]
            at = self._line_end(max(mark.end for mark in inside))
            written = self._in_our_lines(format_pair(dotted + key, value))
            before = "" if self.text[:at].endswith("\n") else self._newline
            self._splice(at, at, before + written + self._newline)
        else:
            self._append_section(f"[{'.'.join(map(str, section))}]", [(key, value)])

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

    def _remove_lines(self, start: int, end: int) -> None:
        """Whole lines, and one empty line above them."""
        if start and not self._line_above(start).strip():
            start = self._line_start(start - 1)
        if end == len(self.text) and not self.text.endswith("\n"):
            kept = self.text[:start].removesuffix("\n").removesuffix("\r")
            self.text = kept
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
        self.text = self.text[:start] + text + self.text[end:]


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
