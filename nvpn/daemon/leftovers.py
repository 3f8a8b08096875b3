"""What a tunnel has put outside its interface, on disk before it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Leftovers:
    """What the kernel does not take away together with the interface.

    A disk that refuses costs a warning in the log, never the tunnel.

    Args:
        path: :func:`nvpn.control.paths.leftovers_path`; mode 0600.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def note(self, kind: str, value: Any) -> None:
        """Remember (JSON) what is about to be made; replaces an earlier value of the kind."""

    def forget(self, kind: str) -> None:
        """It is gone."""

    def pending(self) -> Mapping[str, Any]:
        """What is noted, by kind."""
        return {}
