"""Mistakes and warnings, collected while the files are read.

Nothing here repeats a value that could hold a key: :func:`found` decides that in one
place. Every message that quotes the user's text goes through it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from nvpn.errors import ConfigError

# A key is 44 characters of base64 or 64 of hexadecimal. Shorter runs count too, so that a
# key which lost its end in copying does not show. What has no capital, + or = in 32
# characters of base64 is a path: of random keys, one in forty million looks like that.
_RUN: Final = re.compile(r"[A-Za-z0-9+/=]{32,}")
_KEY_LIKE: Final = re.compile(r"[A-Z+=]|[0-9a-f]{32}")
_RUN_LENGTH: Final = 32
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,60}")
_SHOWN_LENGTH: Final = 60
_SHOWN_NUMBER: Final = 1 << 64


class Place(NamedTuple):
    """Where something is written: file as the user named it, 1-based line, dotted key."""

    file: str
    line: int | None = None
    key: str = ""

    @property
    def spot(self) -> str:
        """``wg0.toml:12``."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def seen_from(self, other: Place) -> str:
        """How a message about ``other`` refers to here: ``line 12``, or with the file."""
        return f"line {self.line}" if self.line and self.file == other.file else self.spot


class Findings:
    """Everything worth telling about a configuration, in the order of its files."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._problems: list[tuple[tuple[int, int], ConfigError]] = []
        self._warnings: list[tuple[tuple[int, int], str]] = []

    def error(self, place: Place, message: str, hint: str = "") -> None:
        """Note a mistake that keeps the configuration from being used."""
        problem = ConfigError(message, file=place.file, line=place.line, key=place.key, hint=hint)
        self._problems.append((self._order(place), problem))

    def warn(self, place: Place, message: str, hint: str = "") -> None:
        """Note something legal that the user would want to know."""
        text = str(
            ConfigError(message, file=place.file, line=place.line, key=place.key, hint=hint)
        )
        self._warnings.append((self._order(place), text))

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        """All mistakes, in the order of the files and their lines."""
        return tuple(problem for _, problem in sorted(self._problems, key=lambda one: one[0]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, in the same order."""
        return tuple(text for _, text in sorted(self._warnings, key=lambda one: one[0]))

    def _order(self, place: Place) -> tuple[int, int]:
        return self._files.setdefault(place.file, len(self._files)), place.line or 0


def may_hold_key(text: str) -> bool:
    """Whether showing the text could show (most of) a key."""
    if len(text) < _RUN_LENGTH:
        return False
    runs = _RUN.findall("".join(text.split()))
    return any(_KEY_LIKE.search(run) for run in runs)


def found(value: object) -> str:
    """What stands there instead of what was expected: ``found "10.0.0/24"``."""
    if isinstance(value, bool):
        return f"found {str(value).lower()}"
    if isinstance(value, int):
        return f"found {value}" if abs(value) < _SHOWN_NUMBER else "found a huge number"
    if isinstance(value, str):
        return f"found {quote(value)}"
    return f"found {kind_of(value)}"


def quote(text: str, *, limit: int = _SHOWN_LENGTH) -> str:
    """The text in quotes, printable and not too long; a description if it may hold a key."""
    if not text:
        return "an empty text"
    if may_hold_key(text):
        return "a text that may be a key (not shown)"
    if len(text) > limit:
        text = f"{text[:limit]}…"
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + '"'


def label(name: str) -> str:
    """The name of a key as it appears in a place: in quotes if it is an odd one."""
    if may_hold_key(name):
        return "(not shown)"
    return name if _PLAIN_NAME.fullmatch(name) else quote(name)


def kind_of(value: object) -> str:
    """The type of a TOML value, in words."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number with a point"
    return "a date or time"


def did_you_mean(word: str, known: Iterable[str], aliases: Mapping[str, str]) -> str:
    """A hint that names what was probably meant, or an empty text.

    Case, blanks, ``_`` and ``-`` are looked through, so that ``AllowedIPs`` finds
    ``allowed_ips``. ``aliases`` are words (plain, lower case) that people use instead.
    """
    from difflib import get_close_matches

    names = {plain(name): name for name in known}
    wanted = plain(word)[:_SHOWN_LENGTH]
    if wanted in aliases:
        return f'did you mean "{aliases[wanted]}"?'
    close = [wanted] if wanted in names else get_close_matches(wanted, names, n=1, cutoff=0.7)
    return f'did you mean "{names[close[0]]}"?' if close else ""


def plain(word: str) -> str:
    """A word without what people write differently: case, blanks, ``_``, ``-`` and dots."""
    return re.sub(r"[\s_.-]", "", word).lower()
