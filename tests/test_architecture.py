"""Imports go down only: the rooms of docs/architecture.md, read from the code."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

import nvpn

ROOT = Path(__file__).parents[1] / "nvpn"
NATIVE = ROOT.parent / "native"

# From the roof to the cellar. A room may import from its own and from lower ones.
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "cli",
        "daemon",
        "control",
        "backend",
        "overlay netconf transport",
        "registry channel",
        "config protocol",
        "datapath",
        "wire",
        "resilience",
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
    "numpy": "datapath/python",
    "tomli": "config",
    "jeepney": "netconf/",
    "segno": "cli/qr",
    "httpx": "registry/",
}


@cache
def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


def modules_of(*rooms: str) -> list[Path]:
    found = [path for path in modules() if room(path) in rooms]
    assert {room(path) for path in found} == set(rooms)
    return found


@cache
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


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules(), ids=name_of)
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


@pytest.mark.parametrize("path", modules_of("protocol"), ids=name_of)
def test_the_protocol_knows_the_seam_and_no_datapath(path: Path) -> None:
    for line, name in imports(path):
        if name.startswith("nvpn.datapath"):
            assert name.split(".")[2] in ("api", "commands", "events"), f"{path}:{line}: {name}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_one_module_decides_about_the_datapath_and_loads_only_that_one(path: Path) -> None:
    place = name_of(path)
    for line, name in imports(path):
        for home in ("datapath/python", "datapath/native"):
            if name.startswith(f"nvpn.{home.replace('/', '.')}"):
                allowed = place.startswith(home) or place == "datapath/choice.py"
                assert allowed, f"{path}:{line}: {name} is for datapath/choice.py to import"
        if name.startswith("nvpn._native"):
            assert place.startswith("datapath/native"), f"{path}:{line}: {name}"
        if place.startswith("datapath/native"):
            assert not name.startswith("numpy"), f"{path}:{line}: {name}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_some_libraries_are_known_in_one_room_only(path: Path) -> None:
    place = name_of(path)
    for line, name in imports(path):
        home = ONLY_IN.get(name.split(".")[0])
        assert home is None or place.startswith(home), f"{path}:{line}: {name} belongs to {home}"


@pytest.mark.parametrize("path", modules_of("protocol", "wire"), ids=name_of)
def test_the_pure_rooms_touch_no_socket_clock_or_loop(path: Path) -> None:
    forbidden = {"asyncio", "time", "select", "selectors", "threading", "os", "random", "secrets"}
    for line, name in imports(path):
        assert name.split(".")[0] not in forbidden, f"{path}:{line}: {name}"


# --- native -----------------------------------------------------------------------------


def rust_files() -> list[Path]:
    return sorted(
        path for path in NATIVE.rglob("*.rs") if not {"target", "fuzz"} & set(path.parts)
    )


@pytest.mark.parametrize("path", rust_files(), ids=lambda path: str(path.relative_to(NATIVE)))
def test_only_the_module_of_system_calls_is_unsafe(path: Path) -> None:
    if path in (NATIVE / "src" / "sys.rs", NATIVE / "src" / "sys_tests.rs"):
        return  # the second is the test module of the first
    code = re.sub(r"//.*", "", path.read_text())
    assert not re.search(r"\bunsafe\s*(\{|fn|impl|extern|trait)", code), path
    # What the crate denies is allowed again to that one module only.
    allowed = re.findall(r"allow\([^)]*unsafe_code[^)]*\)\]\s*(.*)", code)
    assert allowed in ([], ["pub mod sys;"]), path


def test_the_native_core_forbids_unsafe_code_and_knows_no_python_and_no_system() -> None:
    core = NATIVE / "core"
    assert "#![forbid(unsafe_code)]" in (core / "src" / "lib.rs").read_text()
    manifest = (core / "Cargo.toml").read_text()
    _, _, dependencies = manifest.partition("[dependencies]")
    names = re.findall(r"^([\w-]+)(?:\.\w+)?\s*=", dependencies.partition("\n[")[0], re.MULTILINE)
    assert names, "the pattern finds nothing"
    assert not {"pyo3", "libc", "nix", "rustix", "tokio", "mio", "socket2"} & set(names)
    for path in (core / "src").rglob("*.rs"):
        # Tests may do what they like. That a thread is dying is no system's business.
        text = re.split(r"#\[cfg\((?:test|all\(test)", path.read_text())[0]
        text = text.replace("std::thread::panicking", "")
        for word in ("std::net::UdpSocket", "std::fs", "std::thread", "std::time", "SystemTime"):
            assert word not in text, f"{path}: {word}"


def test_both_halves_are_of_one_version() -> None:
    manifest = (NATIVE / "Cargo.toml").read_text()
    versions = re.findall(r'^version = "([^"]+)"', manifest, re.MULTILINE)
    assert versions == [nvpn.__version__]


def test_python_is_one_that_the_project_promises() -> None:
    assert sys.version_info >= (3, 10)
