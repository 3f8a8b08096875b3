"""Plain columns of text, for terminals, `grep` and `less`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from unicodedata import combining, east_asian_width


def align(rows: Sequence[tuple[str, ...]], *, numbers: Collection[int] = ()) -> Iterator[str]:
    """The rows as lines, without their ends: as wide as needed, two blanks between.

    Args:
        numbers: which columns stand to the right.
    """
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            _pad(cell, width, to_the_right=index in numbers)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _columns(text: str) -> int:
    """Columns that a terminal gives to the text: two for the wide characters of East Asia."""
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(c) in "WF" else not combining(c) for c in text)


def _pad(text: str, width: int, *, to_the_right: bool) -> str:
    gap = " " * (width - _columns(text))
    return gap + text if to_the_right else text + gap
