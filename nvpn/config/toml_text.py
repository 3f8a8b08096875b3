"""Values as TOML text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

WIDTH: Final = 88
"""Lists beyond this many columns get a line for each element."""
_SPARED: Final = re.compile(r'["\\]')
_NO_LITERAL: Final = re.compile(r"['\x00-\x1f\x7f]")
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\t": "\\t"}


def format_value(value: str | int | bool | Sequence[str], *, indent: int = 0) -> str:
    """A value as it stands behind ``key = ``; ``indent`` is how many columns that takes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return format_text(value)
    line = f"[{', '.join(map(format_text, value))}]"
    if indent + len(line) <= WIDTH:
        return line
    return "[\n" + "".join(f"    {format_text(element)},\n" for element in value) + "]"


def format_text(text: str) -> str:
    """In double quotes, with what TOML wants escaped; or in single ones, where that spares it."""
    if _SPARED.search(text) and not _NO_LITERAL.search(text):
        return f"'{text}'"
    return '"' + re.sub(r'["\\\x00-\x1f\x7f]', _escape, text) + '"'


def format_pair(key: str, value: str | int | bool | Sequence[str]) -> str:
    """``key = value``, on one line or more."""
    return f"{key} = {format_value(value, indent=len(key) + 3)}"


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    return _ESCAPES.get(char) or f"\\u{ord(char):04x}"
