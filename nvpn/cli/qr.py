"""Configurations as QR codes: on a terminal, or in a picture that only you can read."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, Final

from nvpn.cli.paint import paint
from nvpn.errors import PlatformError

MOST_BYTES: Final = 2953
"""What the largest code (version 40, level L) holds."""

_WHITE_ON_BLACK: Final = "\x1b[97;40m"
_SCALE: Final = 8
"""Pixels of a picture for each module."""


def make_code(text: str) -> Any:
    """The code of a text, of the lowest level: it is shown, not printed on a parcel.

    Raises:
        PlatformError: the text is too long.
    """
    import segno

    size = len(text.encode())
    try:
        return segno.make(text, error="l", micro=False, boost_error=False)
    except segno.DataOverflowError:
        raise PlatformError(
            "make a QR code",
            hint=f"the configuration has {size} bytes, and a code holds {MOST_BYTES};"
            " write it to a file instead: -o FILE",
        ) from None


def draw_on_terminal(code: Any, *, colour: bool) -> str:
    """Lines of half blocks, or of spaces in colours where the terminal has no blocks.

    In ``colour`` it is black on white whatever the terminal's colours are: not every
    scanner reads it the other way round.

    Raises:
        PlatformError: the terminal is too narrow.
    """
    drawn = io.StringIO()
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    has_blocks = encoding == "utf8"
    _check_width(code.symbol_size()[0] * (1 if has_blocks else 2))
    if not has_blocks:
        code.terminal(out=drawn)
        return drawn.getvalue()
    code.terminal(out=drawn, compact=True)
    lines = drawn.getvalue().splitlines()
    return "".join(f"{paint(line, _WHITE_ON_BLACK, on=colour)}\n" for line in lines)


def draw_picture(code: Any, kind: str) -> bytes:
    """``png`` or ``svg``."""
    drawn = io.BytesIO()
    code.save(drawn, kind=kind, scale=_SCALE)
    return drawn.getvalue()


def _check_width(needed: int) -> None:
    """Of a code whose lines are broken, nothing can be read."""
    try:
        columns = os.get_terminal_size().columns
    except OSError:
        return  # it is no terminal
    if 0 < columns < needed:
        raise PlatformError(
            "show a QR code",
            hint=f"it is {needed} columns wide, and this terminal {columns}: make it wider",
        )
