"""A few terminal colours for what is too quick to wait for ``rich``: help and errors.

Only the sixteen colours that every theme defines, never a background, so that text stays
readable on dark and light alike.
"""

from __future__ import annotations

import os
from typing import Final, TextIO

RESET: Final = "\x1b[0m"
HEADING: Final = "\x1b[1;32m"
LITERAL: Final = "\x1b[1;36m"
ERROR: Final = "\x1b[1;31m"


def wants_colour(stream: TextIO | None) -> bool:
    """Whether ``stream`` is a terminal whose user has not asked for plain text.

    NO_COLOR (no-color.org) wins over FORCE_COLOR; a dumb terminal gets none.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and is_terminal(stream)


def is_terminal(stream: TextIO | None) -> bool:
    """``isatty`` that also answers for a stream that is closed or missing."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def paint(text: str, style: str, *, on: bool) -> str:
    """``text`` in a style, or as it is."""
    return f"{style}{text}{RESET}" if on else text
