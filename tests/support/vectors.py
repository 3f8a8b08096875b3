"""The deterministic vectors in ``tests/vectors/wireguard-vectors.json``, decoded.

Every hexadecimal string is given as bytes where :func:`unhex` is asked; names, notes and
numbers stay as they are.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent.parent / "vectors" / "wireguard-vectors.json"


@functools.lru_cache(maxsize=1)
def vectors() -> dict[str, Any]:
    """All of them: ``constants``, ``reference``, ``handshakes``, ``cookies``, ``transport``,
    ``low_order_points``, ``must_drop``, ``tai64n``, ``padding``, ``replay``, ``allowed_ips``."""
    loaded: dict[str, Any] = json.loads(_FILE.read_text())
    return loaded


def handshake_vector(name: str) -> dict[str, Any]:
    """The one called ``name``: ``psk zero``, ``psk set``, …"""
    return next(vector for vector in vectors()["handshakes"] if vector["name"] == name)


def unhex(vector: dict[str, Any], *names: str) -> list[bytes]:
    """The named hexadecimal fields of a vector, as bytes."""
    return [bytes.fromhex(vector[name]) for name in names]
