"""One TOML file being read, and its tables, key by key: each is claimed and its type checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from nvpn.config import values
from nvpn.config.draft import claim
from nvpn.config.durations import format_duration, parse_duration
from nvpn.config.files import TextFile
from nvpn.config.findings import Findings, Place, found, kind_of, label
from nvpn.config.locate import Lines, Position, locate
from nvpn.config.reading import read, warn_of_host_bits
from nvpn.config.schema import HEADERS, KEYS, unknown_key
from nvpn.model.prefixes import Prefix

_T = TypeVar("_T")

_MILLISECONDS: Final = re.compile(r"([0-9]{1,9})ms", re.ASCII)


class Document:
    """A file that the parser accepted. ``holds_secret`` is for its readers to set."""

    def __init__(self, source: TextFile, findings: Findings) -> None:
        self.source = source
        self.findings = findings
        self.holds_secret = False
        self._lines: Lines = locate(source.text)

    def place(self, position: Position) -> Place:
        """Where something is written."""
        return Place(self.source.name, self._lines[position], _dotted(position))

    def parse(
        self, parse: Callable[[str], _T], text: str, place: Place, *, shown: Any = None
    ) -> _T | None:
        """A text, parsed; what it was, or ``shown``, is told if that fails."""
        hint = "write several as a list" if "," in text else ""
        return read(parse, text, place, self.findings, shown=shown, hint=hint)

    def tables(self, value: object, position: Position) -> Iterator[tuple[dict[str, Any], int]]:
        """Each table of a list, such as ``[[peer]]``, with its index from 0."""
        header = f"[[{'.'.join(str(part) for part in position)}]]"
        hint = f"write {header} for each {position[-1]}"
        if not isinstance(value, list):
            what = "one table" if isinstance(value, dict) else found(value).removeprefix("found ")
            message = f"expected a list of tables, found {what}"
            self.findings.error(self.place(position), message, hint)
            return
        for index, element in enumerate(value):
            if isinstance(element, dict):
                yield element, index
            else:
                message = f"expected a table, found {kind_of(element)}"
                self.findings.error(self.place((*position, index)), message, hint)


class Table:
    """One table of the document, whose keys are those of ``section`` in the schema."""

    def __init__(
        self,
        pairs: dict[str, Any],
        position: Position,
        claims: dict[str, Place],
        document: Document,
        section: str,
    ) -> None:
        self._pairs = pairs
        self._position = position
        self._claims = claims
        self._document = document
        self._findings = document.findings
        self._refuse_others(section)

    def __contains__(self, key: str) -> bool:
        return key in self._pairs

    def take(self, key: str, what: str | None = None) -> tuple[Any, Place] | None:
        """The value of a key and its place; None when it is absent or given before."""
        if key not in self._pairs:
            return None
        place = self.place(key)
        if not claim(self._claims, what or key, place, self._findings):
            return None
        return self._pairs[key], place

    def text(self, key: str, what: str | None = None) -> tuple[str, Place] | None:
        """The same for a value that must be a text."""
        taken = self.take(key, what)
        if taken is None:
            return None
        value, place = taken
        return (value, place) if self._is_text(value, place) else None

    def parsed(self, key: str, parse: Callable[[str], _T]) -> _T | None:
        """A text, parsed; what it was is told if that fails."""
        taken = self.text(key)
        return None if taken is None else self._document.parse(parse, *taken)

    def number(self, key: str, low: int, high: int, unit: str) -> int | None:
        """A whole number within bounds."""
        taken = self.take(key)
        if taken is None:
            return None
        value, place = taken
        wanted = f"expected {unit} from {low} to {high}"
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
            self._findings.error(place, f"{wanted}, {found(value)}", "write it without quotes")
        elif not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self._findings.error(place, f"{wanted}, {found(value)}")
        else:
            return value
        return None

    def fraction(self, key: str, low: float, high: float, unit: str) -> float | None:
        """A number within bounds, with a point or without; of seconds ``"500ms"``, too."""
        taken = self.take(key)
        if taken is None:
            return None
        value, place = taken
        number = _as_number(value, is_time=unit == "seconds")
        if number is not None and low <= number <= high:
            return number
        shown = found(value)
        if isinstance(value, float):
            shown = f"found {value}"
        self._findings.error(place, f"expected {unit} from {low:g} to {high:g}, {shown}")
        return None

    def duration(self, key: str, low: int, high: int, *, may_be_off: bool = False) -> int | None:
        """Whole seconds: a number of them, or a text such as ``"12h"``; 0 is ``off``."""
        taken = self.take(key)
        if taken is None:
            return None
        value, place = taken
        wanted = f"expected a time from {format_duration(low)} to {format_duration(high)}"
        wanted += ', or "off"' if may_be_off else ""
        seconds = _as_seconds(value)
        if seconds is None:
            wanted += ', such as "90s", "15m", "12h" or "1d"'
        elif low <= seconds <= high or (may_be_off and seconds == 0):
            return seconds
        self._findings.error(place, f"{wanted}, {found(value)}")
        return None

    def flag(self, key: str) -> bool:
        """``true`` or ``false``; false without either."""
        taken = self.take(key)
        if taken is None:
            return False
        value, place = taken
        if isinstance(value, bool):
            return value
        self._findings.error(place, f"expected true or false without quotes, {found(value)}")
        return False

    def number_or_text(self, key: str, parse: Callable[[str], _T]) -> _T | None:
        """What a whole number, or a text such as ``off``, stands for; None without either."""
        taken = self.take(key)
        if taken is None:
            return None
        value, place = taken
        return self._document.parse(parse, _as_text(value), place, shown=value)

    def texts(
        self, key: str, what: str | None = None, *, numbers: bool = False
    ) -> Iterator[tuple[str, Place]]:
        """A text, or each text of a list; with ``numbers`` whole ones will do, too."""
        taken = self.take(key, what)
        if taken is None:
            return
        value, place = taken
        may_be_alone = isinstance(value, str) or (numbers and _as_text(value))
        if not may_be_alone and not isinstance(value, list):
            self._findings.error(place, f"expected a text or a list of texts, {found(value)}")
            return
        elements = value if isinstance(value, list) else [value]
        for index, element in enumerate(elements):
            at = self.place(key, index) if len(elements) > 1 else place
            text = _as_text(element) if numbers else ""
            if text or self._is_text(element, at):
                yield text or element, at

    def prefixes(self, key: str) -> Iterator[tuple[Prefix, Place]]:
        """A prefix, or each of a list; of one that has host bits it is told what is taken."""
        for text, place in self.texts(key):
            prefix = self._document.parse(values.parse_prefix, text, place)
            if prefix is None:
                continue
            yield prefix, place
            warn_of_host_bits(text, prefix, place, self._findings)

    def name_servers(self, servers: list[tuple[bytes, Place]], search: list[str]) -> None:
        """Add what ``dns`` and ``dns_search`` say: addresses, and domains among them or not."""
        words = list(self.texts("dns"))
        if [text.lower() for text, _ in words] == ["off"]:
            words = []
        for text, place in words:
            if values.is_server_word(text):
                server = self._document.parse(values.parse_server, text, place)
                if server is not None:
                    servers.append((server, place))
            else:
                self._add_domain(search, text, place)
        for text, place in self.texts("dns_search"):
            self._add_domain(search, text, place)

    def place(self, *more: str | int) -> Place:
        """Where the table, or something in it, is written."""
        return self._document.place((*self._position, *more))

    def _add_domain(self, search: list[str], text: str, place: Place) -> None:
        domain = self._document.parse(values.parse_domain, text, place)
        if domain is not None:
            search.append(domain)

    def _refuse_others(self, section: str) -> None:
        known = KEYS[section]
        others = [(HEADERS[other], KEYS[other]) for other in KEYS if other != section]
        for key in self._pairs:
            if key not in known:
                self._findings.error(self.place(key), *unknown_key(key, known, others))

    def _is_text(self, value: object, place: Place) -> bool:
        if isinstance(value, str):
            return True
        self._findings.error(place, f"expected a text in quotes, {found(value)}")
        return False


def _as_text(value: object) -> str:
    """A text, or a whole number's; empty for anything else."""
    if isinstance(value, str):
        return value
    # A longer number is wrong whatever it is for, and may not even print.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    return ""


def _as_seconds(value: object) -> int | None:
    text = _as_text(value)
    if text.strip().lower() == "off":
        return 0
    try:
        return parse_duration(text)
    except ValueError:
        return None


def _as_number(value: object, *, is_time: bool) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) < 1 << 64 and math.isfinite(value) else None
    if not is_time or not isinstance(value, str):
        return None
    milliseconds = _MILLISECONDS.fullmatch(value.strip())
    if milliseconds:
        return int(milliseconds[1]) / 1000
    try:
        return parse_duration(value)
    except ValueError:
        return None


def _dotted(position: Position) -> str:
    """``peer[2].allowed_ips[1]``: elements are counted from 1, as people do."""
    text = ""
    for part in position:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += f"{'.' if text else ''}{label(part)}"
    return text
