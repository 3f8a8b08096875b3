"""The lines of a ``.conf`` file, told apart as :mod:`nvpn.config.wgquick_reader` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from nvpn.config import values
from nvpn.config.conf_comments import find_comment_key, find_name
from nvpn.config.schema import HOOK_KEYS
from nvpn.config.wgquick_reader import KEYS

SECTIONS: Final = {"[interface]": "Interface", "[peer]": "Peer"}


@dataclass(frozen=True, slots=True)
class ConfLine:
    """``text`` as it is, without the line end; ``number`` from 1.

    ``section`` is that which it is in, or begins. ``key`` is the name in nvpn.toml(5) of
    what it sets, empty if it sets nothing or nothing known, which ``is_unknown`` tells;
    ``name`` is how it is written. ``is_comment``: it is set by a comment for nvpn, or one
    that names the peer. ``comment`` is what else stands on the line.
    """

    number: int
    text: str = field(repr=False)
    section: str = ""
    key: str = ""
    name: str = ""
    value: str = field(default="", repr=False)
    comment: str = field(default="", repr=False)
    is_header: bool = False
    is_unknown: bool = False
    is_comment: bool = False


def read_lines(text: str) -> Iterator[ConfLine]:
    """All of them."""
    section = ""
    for number, line in enumerate(text.split("\n"), 1):
        code, hash_sign, rest = line.partition("#")
        comment = (hash_sign + rest).strip()
        word = "".join(code.split())
        if not word:
            key, value = _read_comment(line, section)
            yield ConfLine(number, line, section, key, key, value, is_comment=True)
        elif word.startswith("["):
            section = SECTIONS.get(word.lower(), "")
            yield ConfLine(number, line, section, comment=comment, is_header=True)
        else:
            yield _read_pair(number, line, section, comment)


def _read_comment(line: str, section: str) -> tuple[str, str]:
    found = find_comment_key(line)
    if section and found is not None:
        return found
    name = find_name(line) if section == "Peer" else ""
    try:
        return ("name", values.check_name(name)) if name else ("", "")
    except ValueError:
        return "", ""


def _read_pair(number: int, line: str, section: str, comment: str) -> ConfLine:
    code = line.partition("#")[0]
    written, equals, value = code.partition("=")
    name = "".join(written.split())
    if not section or not equals:
        return ConfLine(number, line, section)  # A mistake; the reader will say so.
    key = KEYS[section].get(name.lower(), "")
    other = "Peer" if section == "Interface" else "Interface"
    if key in HOOK_KEYS:
        value, comment = line.partition("=")[2], ""
    is_unknown = not key and name.lower() not in KEYS[other]
    return ConfLine(number, line, section, key, name, value, comment, is_unknown=is_unknown)
