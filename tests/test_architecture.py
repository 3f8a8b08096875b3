"""Imports go down only: the rooms of docs/architecture.md, read from the code."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "nvpn"

# From the roof to the cellar. A room may import from its own and from lower ones.
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "cli",
        "daemon",
        "control",
        "backend",
        "overlay netconf transport",
        "config protocol",
        "datapath",
        "wire",
        "model",
        "errors",
    )
)
FLOOR_OF = {room: level for level, floor in enumerate(FLOORS) for room in floor}

# Libraries that only one room may know (why: docs/architecture.md).
ONLY_IN = {
    "pyroute2": "netconf",
    "noise": "protocol/noise.py",
    "rich": "cli",
    "uvloop": "daemon",
}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_below(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    assert here in FLOOR_OF, f"{here} has no floor: add it to FLOORS and to docs/architecture.md"
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "nvpn" or parts[1] not in FLOOR_OF:
            continue
        there = parts[1]
        where = f"{path}:{line}: {here} imports {name}"
        if FLOOR_OF[there] == FLOOR_OF[here]:
            assert there == here, f"{where}: a neighbour on the same floor"
        assert FLOOR_OF[there] >= FLOOR_OF[here], f"{where}: upwards"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_protocol_knows_the_seam_and_no_datapath(path: Path) -> None:
    if room(path) != "protocol":
        return
    for line, name in imports(path):
        if name.startswith("nvpn.datapath"):
            assert name.startswith("nvpn.datapath.api"), f"{path}:{line}: {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_some_libraries_are_known_in_one_room_only(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    for line, name in imports(path):
        home = ONLY_IN.get(name.split(".")[0])
        assert home is None or place.startswith(home), f"{path}:{line}: {name} belongs to {home}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_pure_rooms_touch_no_socket_clock_or_loop(path: Path) -> None:
    if room(path) not in ("protocol", "wire"):
        return
    forbidden = {"asyncio", "time", "select", "selectors", "threading", "os", "random", "secrets"}
    for line, name in imports(path):
        assert name.split(".")[0] not in forbidden, f"{path}:{line}: {name}"


def test_python_is_one_that_the_project_promises() -> None:
    assert sys.version_info >= (3, 10)
