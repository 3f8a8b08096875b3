"""What Rust and Python must name and number alike: reasons, constants, commands, events.

Reads the sources, so that it holds where nothing was compiled too.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from nvpn.datapath import coalesce, commands, connections, events, flow, icmp, replay, staging
from nvpn.datapath.python import event_queue
from nvpn.errors import DropReason
from nvpn.wire import constants

CORE = Path(__file__).parents[2] / "native" / "core" / "src"

pytestmark = pytest.mark.skipif(not CORE.is_dir(), reason="no sources of the native datapath here")


def source(name: str) -> str:
    return (CORE / f"{name}.rs").read_text()


def constants_of(*names: str) -> dict[str, int]:
    """Every whole number that these files give a name to."""
    known = {"MAX_UDP_PAYLOAD": 65_507}
    for name in names:
        found = re.findall(
            r"^(?:pub )?const (\w+): (?:usize|Instant|u64|u8) =\s+([^;\"{]+);",
            source(name),
            re.MULTILINE,
        )
        for constant, expression in found:
            known[constant] = value_of(expression, known)
    return known


def value_of(expression: str, known: dict[str, int]) -> int:
    in_python = re.sub(r" as \w+", "", expression).replace("u64::MAX", str(2**64 - 1))
    in_python = in_python.replace(" / ", " // ")
    tree = ast.parse(in_python.strip(), mode="eval")
    value = eval(compile(tree, "constant", "eval"), {"__builtins__": {}}, dict(known))
    assert isinstance(value, int)
    return value


def test_reasons_for_dropping_are_the_same_in_the_same_order() -> None:
    in_rust = re.findall(r"^    (\w+) = \"([a-z0-9-]+)\",$", source("drop_reason"), re.MULTILINE)
    in_python = [(reason.name.title().replace("_", ""), reason.value) for reason in DropReason]
    assert in_rust == in_python


def test_constants_of_the_protocol_are_the_same() -> None:
    in_rust = constants_of("constants")
    in_python = vars(constants)
    shared = in_rust.keys() & in_python.keys()
    assert {name: in_rust[name] for name in shared} == {name: in_python[name] for name in shared}
    assert len(shared) >= 25


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("replay", "MAX_DISTANCE", replay.MAX_DISTANCE),
        ("replay", "WINDOW_SIZE", replay.WINDOW_SIZE),
        ("staging", "MAX_STAGED_BYTES", staging.MAX_STAGED_BYTES),
        ("event", "MAX_COOKIE_REPLIES", event_queue.MAX_COOKIE_REPLIES),
        ("icmp", "ERROR_INTERVAL", icmp._ERRORS.interval),
        ("icmp", "ERRORS_BURST", icmp._ERRORS.burst),
        ("coalesce", "MAX_PACKET", coalesce.MAX_PACKET),
        ("flow", "MAX_EXTENSIONS", flow.MAX_EXTENSIONS),
    ],
)
def test_bounds_are_the_same(file: str, name: str, value: int) -> None:
    assert constants_of("constants", file)[name] == value


def test_what_is_remembered_is_as_much_and_for_as_long() -> None:
    in_rust, in_python = constants_of("constants", "connections"), vars(connections)
    shared = {name: value for name, value in in_rust.items() if name in in_python}
    assert shared == {name: in_python[name] for name in shared}
    assert len(shared) >= 11


def variants(file: str, enum: str) -> set[str]:
    body = re.search(rf"^pub enum {enum} {{\n(.*?)^}}", source(file), re.MULTILINE | re.DOTALL)
    assert body is not None
    return set(re.findall(r"^    ([A-Z]\w+)", body[1], re.MULTILINE))


def test_commands_and_events_have_the_same_names() -> None:
    ordered = {kind.__name__ for kind in commands.Command.__args__}  # type: ignore[attr-defined]
    happened = {kind.__name__ for kind in events.Event.__args__}  # type: ignore[attr-defined]
    assert variants("command", "Command") == ordered
    # A thread of its own may die; Python's datapath has none.
    assert variants("event", "Event") - {"Failed"} == happened
    assert len(variants("event", "Why")) == len(events.Why)
