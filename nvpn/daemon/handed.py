"""What whoever started us opened before, as wireguard-go takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Handed:
    """Descriptors that whoever started us opened already; -1 for none. Ours to close."""

    tun: int = -1
    control: int = -1


NOTHING_HANDED: Final = Handed()
