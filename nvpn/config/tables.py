"""Which of the kernel's routing tables a configuration means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

_LISTS: Final = (Path("/etc/iproute2/rt_tables"), Path("/usr/share/iproute2/rt_tables"))
_MAX_TABLE: Final = 0xFFFF_FFFF
_LOCAL: Final = 255
_WELL_KNOWN: Final = {"default": 253, "main": 254, "local": _LOCAL}
_EXPECTED: Final = 'expected "auto", "off", a routing table from 1 to 4294967295, or its name'


class TableChoice(NamedTuple):
    """``table`` as in :class:`~nvpn.config.model.InterfaceConfig`: None is ``auto``, 0 ``off``."""

    table: int | None


def parse_table(text: str, *, lists: tuple[Path, ...] = _LISTS) -> TableChoice:
    """``auto``, ``off``, a number, or a name that ip(8) would understand.

    Args:
        lists: files of names as ``rt_tables`` is, of which the first that is there counts.

    Raises:
        ValueError: with what was expected.
    """
    word = text.lower()
    if word in ("auto", "off"):
        return TableChoice(None if word == "auto" else 0)
    number = _parse_number(text)
    if number is None:
        number = {**_WELL_KNOWN, **_read_names(lists)}.get(text)
    if number is None or not 0 < number <= _MAX_TABLE:
        raise ValueError(_EXPECTED)
    if number == _LOCAL:
        raise ValueError("expected a table other than 255, which holds the addresses of this host")
    return TableChoice(number)


def _parse_number(text: str) -> int | None:
    if not re.fullmatch(r"[0-9]{1,10}|0[xX][0-9a-fA-F]{1,8}", text):
        return None
    return int(text, 16) if text[:2] in ("0x", "0X") else int(text)


def _read_names(lists: tuple[Path, ...]) -> dict[str, int]:
    """Names and numbers of the first list, and of the directory beside it."""
    for path in lists:
        if path.exists():
            extra = sorted(path.with_name(f"{path.name}.d").glob("*.conf"))
            return {name: number for file in (path, *extra) for name, number in _read_list(file)}
    return {}


def _read_list(path: Path) -> list[tuple[str, int]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    words = [line.partition("#")[0].split() for line in lines]
    pairs = [(pair[1], _parse_number(pair[0])) for pair in words if len(pair) == 2]
    return [(name, number) for name, number in pairs if number is not None]
