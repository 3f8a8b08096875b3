"""What a tunnel tells of itself beyond WireGuard: for ``nvpn show --json``.

Whoever has something to tell adds a part under a name of its own. A part is plain data for
JSON, made when somebody asks, and holds no secret.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

_log: Final = logging.getLogger(__name__)


class StatusParts:
    """All parts of one tunnel."""

    def __init__(self) -> None:
        self._parts: dict[str, Callable[[], Any]] = {}

    def add(self, name: str, part: Callable[[], Any]) -> None:
        """Tell ``part()`` under that name from now on, in place of what was told there."""
        self._parts[name] = part

    def remove(self, name: str) -> None:
        """There is nothing to tell under that name any more."""
        self._parts.pop(name, None)

    def describe(self) -> dict[str, Any]:
        """Everything. A part that fails is left out, and the log says so."""
        told = {}
        for name, part in self._parts.items():
            try:
                told[name] = part()
            except Exception:
                _log.exception("no status of %s", name)
        return told

    async def answer(self, lines: Sequence[str]) -> list[str]:
        """For the control socket: one line of JSON, in ASCII."""
        return [json.dumps(self.describe(), separators=(",", ":"))]
