"""A wg-quick file as nvpn's TOML, without loss.

Every key, value and comment comes over, in their order. A key that may be given often
becomes one list where it stood first, with the comments of the others inside. What nvpn
does not know stays as a comment, ``# nvpn: unknown: Jc = 4``, out of which
:mod:`nvpn.config.to_conf` makes a key again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from nvpn.config import values
from nvpn.config.conf_comments import find_comment_key
from nvpn.config.conf_lines import ConfLine, read_lines
from nvpn.config.draft import Draft
from nvpn.config.files import TextFile
from nvpn.config.findings import Findings, label
from nvpn.config.finish import finish
from nvpn.config.schema import HOOK_KEYS, PORT_KEYS
from nvpn.config.toml_text import format_pair, format_text, format_value
from nvpn.config.wgquick_reader import parse_endpoint, parse_listen_port, read_wgquick
from nvpn.errors import ConfigErrors

_LISTS: Final = frozenset(("address", "dns", "allowed_ips", "endpoint", *HOOK_KEYS, *PORT_KEYS))
_FLAGS: Final = frozenset(("save_config", "kill_switch", "channel", "server"))
_NUMBERS: Final = frozenset(
    ("mtu", "fwmark", "table", "persistent_keepalive", "workers", "queues")
)
# TOML has no control characters in comments but the tab.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_WORD: Final = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Converted:
    """The other file's text, and sentences about what was not understood."""

    text: str = field(repr=False)
    warnings: tuple[str, ...]


@dataclass(slots=True, repr=False)
class _Element:
    text: str
    above: list[str]
    beside: str = ""


@dataclass(slots=True, repr=False)
class _Entry:
    """A key; ``value`` unless it is one of those that may be given often."""

    key: str
    above: list[str]
    value: str | int | bool = ""
    elements: list[_Element] = field(default_factory=list)
    beside: str = ""


@dataclass(slots=True, repr=False)
class _Section:
    header: str
    above: list[str]
    beside: str = ""
    entries: list[_Entry] = field(default_factory=list)


def convert_conf(source: TextFile) -> Converted:
    """The file as TOML.

    Raises:
        ConfigErrors: it has mistakes beyond keys that nvpn does not know.
    """
    lines = list(read_lines(source.text))
    _check(source, lines)
    converter = _Converter(source.name)
    for line in lines:
        converter.read(line)
    return Converted(converter.text(), tuple(converter.warnings))


def _check(source: TextFile, lines: list[ConfLine]) -> None:
    known = "\n".join("" if line.is_unknown else line.text for line in lines)
    findings = Findings()
    draft = Draft()
    read_wgquick(TextFile(source.name, source.path, 0o600, known), draft, findings)
    finish(draft, "", source.path, findings)
    if findings.problems:
        raise ConfigErrors(findings.problems)


class _Converter:
    def __init__(self, name: str) -> None:
        self.warnings: list[str] = []
        self._name = name
        self._sections: list[_Section] = []
        self._section: _Section | None = None
        self._waiting: list[str] = []
        self._peer_names: set[str] = set()
        self._named: _Section | None = None

    def read(self, line: ConfLine) -> None:
        if line.is_header:
            self._begin(line)
        elif line.is_unknown:
            self._keep_unknown(line)
        elif line.key and self._section is not None:
            self._add(self._section, line)
        else:
            self._waiting.append(_clean(line.text.strip()))

    def text(self) -> str:
        lines: list[str] = []
        for section in self._sections:
            lines += [*section.above, _with(section.header, section.beside)]
            for entry in section.entries:
                lines += [*entry.above, *_format(entry)]
        return "".join(f"{line}\n" for line in (*lines, *self._trailing()))

    def _trailing(self) -> list[str]:
        # The last line end makes an empty line of its own.
        return self._waiting[:-1] if self._waiting[-1:] == [""] else self._waiting

    def _begin(self, line: ConfLine) -> None:
        header = "[[peer]]" if line.section == "Peer" else "[interface]"
        there = next((one for one in self._sections if one.header == header), None)
        if header == "[interface]" and there is not None:
            # TOML has it once; what is above this header goes above what comes next.
            self._section = there
            if line.comment:
                self._waiting.append(_clean(line.comment))
            return
        self._section = _Section(header, self._waiting, _clean(line.comment))
        self._sections.append(self._section)
        self._waiting = []

    def _keep_unknown(self, line: ConfLine) -> None:
        self._waiting.append(_clean(f"# nvpn: unknown: {line.text.strip()}"))
        self.warnings.append(
            f"{self._name}:{line.number}: [{line.section}] {label(line.name)}: is unknown;"
            " kept as a comment"
        )

    def _add(self, section: _Section, line: ConfLine) -> None:
        key, value = line.key, line.value
        if key == "name" and not self._is_name(section, line):
            self._waiting.append(_clean(line.text.strip()))
            return
        beside = _clean(line.comment)
        # "# nvpn: dns = off" is no name server.
        if key not in _LISTS or (key == "dns" and line.is_comment):
            entry = _Entry(key, self._waiting, _scalar(key, value), beside=beside)
            section.entries.append(entry)
            self._waiting = []
            return
        words = _words(key, value)
        there = next((entry for entry in section.entries if entry.key == key), None)
        if there is None:
            there = _Entry(key, self._waiting)
            section.entries.append(there)
            above: list[str] = []
        else:
            above = [comment for comment in self._waiting if comment]
        self._waiting = []
        elements = [_Element(word, []) for word in words]
        if not elements:
            there.above += [*above, *([beside] if beside else [])]
            return
        elements[0].above, elements[-1].beside = above, beside
        if key == "endpoint" and not line.is_comment:
            there.elements[:0] = elements  # It comes first, wherever it stands.
        else:
            there.elements += elements

    def _is_name(self, section: _Section, line: ConfLine) -> bool:
        """Comments may name a peer twice, and two peers the same; TOML may not."""
        if section is not self._named and not self._is_taken(line):
            self._named = section
            self._peer_names.add(line.value)
            return True
        if find_comment_key(line.text) is None:
            return False
        # What is said to nvpn counts, not what was said to others.
        others = [entry for entry in section.entries if entry.key == "name"]
        section.entries = [entry for entry in section.entries if entry.key != "name"]
        for entry in others:
            self._waiting[:0] = [*entry.above, f"# Name = {entry.value}"]
        return True

    def _is_taken(self, line: ConfLine) -> bool:
        if line.value not in self._peer_names:
            return False
        self.warnings.append(
            f"{self._name}:{line.number}: is the name of another peer, too; kept as a comment"
        )
        return True


def _words(key: str, value: str) -> list[str]:
    if key in HOOK_KEYS:
        return [value.strip()]
    if key == "endpoint":
        return [str(parse_endpoint("".join(value.split())))]
    if key == "allowed_ips":
        words = "".join(value.split()).split(",")
        return [re.sub(r"/0+(?=[0-9])", "/", word) for word in words]
    return value.replace(",", " ").split()


def _scalar(key: str, value: str) -> str | int | bool:
    word = "".join(value.split())
    if key in _FLAGS:
        return word.lower() == "true"
    if key == "listen_port":
        return parse_listen_port(word)
    if key in _NUMBERS and _WORD.fullmatch(word):
        return int(word)
    if key == "name":
        return values.check_name(value)
    return word


def _format(entry: _Entry) -> list[str]:
    if not entry.elements and entry.key in PORT_KEYS:
        return [f"{entry.key} = []"]  # Nothing may be begun, which is a word, too.
    if not entry.elements:
        pair = [format_pair(entry.key, entry.value)] if entry.value != "" else []
        return [_with(line, entry.beside) for line in pair]
    texts = [element.text for element in entry.elements]
    inner = entry.elements[:-1]
    is_plain = not any(one.beside for one in inner) and not any(
        one.above for one in entry.elements
    )
    key = "endpoints" if entry.key == "endpoint" and len(texts) > 1 else entry.key
    if key == "dns" and texts == ["off"]:
        key = "dns_search"  # To wg-quick it is a domain.
    if is_plain:
        value = format_value(texts[0] if len(texts) == 1 else texts, indent=len(key) + 3)
        return _with(f"{key} = {value}", entry.elements[-1].beside).split("\n")
    lines = [f"{key} = ["]
    for element in entry.elements:
        lines += [f"    {comment}" for comment in element.above]
        lines.append("    " + _with(f"{format_text(element.text)},", element.beside))
    return [*lines, "]"]


def _with(text: str, comment: str) -> str:
    return f"{text}  {comment}" if comment else text


def _clean(comment: str) -> str:
    return _CONTROL.sub("?", comment)
