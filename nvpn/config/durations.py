"""Durations as people write them: ``90s``, ``15m``, ``12h``, ``1d``, ``2w``, ``1h30m``."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PLAIN: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_PARTS: Final = re.compile(r"(?:[0-9]{1,9}[wdhms])+", re.ASCII)
_PART: Final = re.compile(r"([0-9]+)([wdhms])", re.ASCII)
_EXPECTED: Final = 'expected a time such as "90s", "15m", "12h", "1d" or "2w"'


def parse_duration(text: str) -> int:
    """Whole seconds; a number without a unit is seconds already.

    Each unit may stand there once: ``1h30m``.

    Raises:
        ValueError: with what was expected.
    """
    word = text.strip().lower()
    if _PLAIN.fullmatch(word):
        return int(word)
    if not _PARTS.fullmatch(word):
        raise ValueError(_EXPECTED)
    parts = _PART.findall(word)
    if len({unit for _, unit in parts}) < len(parts):
        raise ValueError(_EXPECTED)
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def format_duration(seconds: int) -> str:
    """The shortest text that :func:`parse_duration` reads as so many whole seconds."""
    parts = []
    for unit, length in _UNITS.items():
        # Weeks only where nothing else is left: "30d" says more than "4w2d".
        if unit == "w" and seconds % length:
            continue
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
