"""On which line, and from where to where, each thing of a TOML document is written.

The parser gives values without positions. This scanner gives positions without values:
it knows just enough of TOML's grammar to walk a document **that the parser accepted**,
and notes the first line of every table, key and array element.

A position is a path of names and of 0-based indices: ``("peer", 1, "allowed_ips", 0)``
is the first allowed IP of the second peer.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Final, NamedTuple, Union

Position = tuple[Union[str, int], ...]  # noqa: UP007 - a runtime value on Python 3.10

_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_COMMENT: Final = re.compile(r"#[^\r\n]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_DOT: Final = re.compile(r"[ \t]*\.[ \t]*")
_MULTILINE: Final = {
    '"""': re.compile(r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""(?:""|")?', re.DOTALL),
    "'''": re.compile(r"'''[^']*(?:'(?!'')[^']*)*'''(?:''|')?"),
}
_ONE_LINE: Final = {
    '"': re.compile(r'"([^"\\\n]*(?:\\.[^"\\\n]*)*)"'),
    "'": re.compile(r"'([^'\n]*)'"),
}
# A number, a date (which may have a blank inside) or a boolean.
_SCALAR: Final = re.compile(r"[^,\]}\n#]*")
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_SHORT_ESCAPES: Final = {
    "b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b",
}  # fmt: skip


class Kind(enum.Enum):
    """What a mark is about."""

    HEADER = enum.auto()
    PAIR = enum.auto()
    ELEMENT = enum.auto()
    COMMENT = enum.auto()


class Mark(NamedTuple):
    """Where something is written: ``text[start:end]``, and its value ``text[value:end]``.

    A header or a comment is all value. A comment has no position.
    """

    kind: Kind
    position: Position
    start: int
    value: int
    end: int


class Lines:
    """Lines by position. What has none of its own is where its nearest parent is.

    ``lost_on`` is the line of what could not be understood; None in a valid document.
    """

    def __init__(self, found: dict[Position, int], lost_on: int | None) -> None:
        self._found = found
        self.lost_on = lost_on

    def __getitem__(self, path: Position) -> int | None:
        while path and path not in self._found:
            path = path[:-1]
        return self._found.get(path)

    def known(self) -> Iterator[tuple[Position, int]]:
        """Everything that has a line of its own."""
        return iter(self._found.items())


def locate(text: str) -> Lines:
    """The lines, from 1, of everything in a valid TOML document.

    A document that is not valid gives some lines, perhaps wrong ones, and never an error.
    """
    scanner = _Scanner(text)
    try:
        scanner.scan_document()
    except (_LostError, RecursionError):
        # The lines found so far serve; the rest falls back to its parents.
        return Lines(scanner.found, scanner.line())
    return Lines(scanner.found, None)


def outline(text: str) -> list[Mark]:
    """Everything in a valid TOML document, in its order: what holds others comes first.

    Raises:
        ValueError: the document is not valid.
    """
    scanner = _Scanner(text)
    try:
        scanner.scan_document()
    except (_LostError, RecursionError):
        raise ValueError("not a valid TOML document") from None
    return sorted(scanner.marks, key=lambda mark: (mark.start, -mark.end))


class _LostError(Exception):
    """The document is not what the grammar says."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.found: dict[Position, int] = {}
        self.marks: list[Mark] = []
        self._text = text
        self._at = 0
        self._counted = 0
        self._newlines = 0
        self._array_lengths: dict[Position, int] = {}

    def scan_document(self) -> None:
        table: Position = ()
        while self._skip_blank():
            if self._text.startswith("[[", self._at):
                table = self._scan_array_header()
            elif self._text[self._at] == "[":
                table = self._scan_header()
            else:
                self._scan_pair(table)

    def line(self) -> int:
        """Where the scanner is."""
        self._newlines += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._newlines + 1

    def _scan_array_header(self) -> Position:
        line, start = self.line(), self._at
        self._at += 2
        keys = self._scan_keys()
        self._expect("]]")
        array = self._resolve(keys[:-1]) + keys[-1:]
        self._note_each(array, len(array) - len(keys[-1:]), line)
        index = self._array_lengths.get(array, 0)
        self._array_lengths[array] = index + 1
        element = (*array, index)
        self.found[element] = line
        self.marks.append(Mark(Kind.HEADER, element, start, start, self._at))
        return element

    def _scan_header(self) -> Position:
        line, start = self.line(), self._at
        self._at += 1
        keys = self._scan_keys()
        self._expect("]")
        table = self._resolve(keys)
        self._note_each(table, 0, line)
        # A table can come to be by a deeper header first; its own header is its line.
        self.found[table] = line
        self.marks.append(Mark(Kind.HEADER, table, start, start, self._at))
        return table

    def _scan_pair(self, table: Position) -> None:
        line, at = self.line(), self._at
        keys = self._scan_keys()
        self._expect("=")
        path = table + keys
        self._note_each(path, len(table), line)
        value = self._scan_value(path)
        self.marks.append(Mark(Kind.PAIR, path, at, *value))

    def _scan_value(self, path: Position) -> tuple[int, int]:
        """Where it begins and where it ends."""
        self._skip_spaces()
        at = self._at
        start = self._text[self._at : self._at + 1]
        if start in ('"', "'"):
            self._skip_string(start)
        elif start == "[":
            self._scan_array(path)
        elif start == "{":
            self._scan_inline_table(path)
        else:
            scalar = self._match(_SCALAR)
            self._at = scalar.end()
            return at, at + len(scalar.group().rstrip())
        return at, self._at

    def _scan_array(self, path: Position) -> None:
        self._at += 1
        index = 0
        while self._skip_blank() and self._text[self._at] != "]":
            element = (*path, index)
            self.found[element] = self.line()
            value = self._scan_value(element)
            self.marks.append(Mark(Kind.ELEMENT, element, value[0], *value))
            index += 1
            self._skip_comma("]")
        self._expect("]")

    def _scan_inline_table(self, path: Position) -> None:
        self._at += 1
        while self._skip_blank() and self._text[self._at] != "}":
            self._scan_pair(path)
            self._skip_comma("}")
        self._expect("}")

    def _skip_comma(self, closing: str) -> None:
        self._skip_blank()
        if not self._text.startswith(closing, self._at):
            self._expect(",")

    def _skip_string(self, quote: str) -> None:
        tripled = quote * 3
        multiline = self._text.startswith(tripled, self._at)
        pattern = _MULTILINE[tripled] if multiline else _ONE_LINE[quote]
        self._at = self._match(pattern).end()

    def _scan_keys(self) -> Position:
        keys = []
        self._skip_spaces()
        while True:
            keys.append(self._scan_key())
            dot = _DOT.match(self._text, self._at)
            if dot is None:
                return tuple(keys)
            self._at = dot.end()

    def _scan_key(self) -> str:
        start = self._text[self._at : self._at + 1]
        pattern = _ONE_LINE.get(start)
        match = self._match(pattern or _BARE_KEY)
        self._at = match.end()
        if pattern is None:
            return match.group()
        return _unescape(match.group(1)) if start == '"' else match.group(1)

    def _resolve(self, keys: Position) -> Position:
        """The path of a header, in which an array of tables stands for its last element."""
        path: Position = ()
        for key in keys:
            path = (*path, key)
            length = self._array_lengths.get(path)
            if length:
                path = (*path, length - 1)
        return path

    def _note_each(self, path: Position, known: int, line: int) -> None:
        for length in range(known + 1, len(path) + 1):
            self.found.setdefault(path[:length], line)

    def _skip_blank(self) -> bool:
        blank = self._match(_BLANK)
        self._at = blank.end()
        if "#" in blank.group():
            for found in _COMMENT.finditer(blank.group()):
                start, end = (blank.start() + offset for offset in found.span())
                self.marks.append(Mark(Kind.COMMENT, (), start, start, end))
        return self._at < len(self._text)

    def _skip_spaces(self) -> None:
        while self._text[self._at : self._at + 1] in (" ", "\t"):
            self._at += 1

    def _expect(self, token: str) -> None:
        self._skip_spaces()
        if not self._text.startswith(token, self._at):
            raise _LostError
        self._at += len(token)

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise _LostError
        return match


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        code = match.group(1)
        if len(code) > 1:
            return chr(int(code[1:], 16))
        return _SHORT_ESCAPES.get(code, code)

    return _ESCAPE.sub(replace, text)
