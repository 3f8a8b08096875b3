"""The table of conformance names only tests that exist, and every rule and fault."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = (TESTS.parent / "docs" / "conformance.md").read_text()
CITED = re.compile(r"`([\w/]+\.py): (\w+)`")


def test_every_test_that_is_named_exists() -> None:
    cited = CITED.findall(TABLE)
    assert len(cited) > 100
    missing = [
        f"{file}: {name}"
        for file, name in cited
        if not (TESTS / file).is_file() or f"def test_{name}(" not in (TESTS / file).read_text()
    ]
    assert missing == []


def test_every_rule_and_fault_has_its_row() -> None:
    rules, _, faults = TABLE.partition("## 7. Faults")
    assert numbers(rules) == set(range(1, 40))
    assert numbers(faults) == set(range(1, 35))


def numbers(text: str) -> set[int]:
    """What the first cells of the rows of a table count: ``3, 4, 5`` or ``1–4 words``."""
    found: set[int] = set()
    for cell in re.findall(r"^\| ([\d, –]+)", text, re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?:–(\d+))?", cell):
            found |= set(range(int(first), int(last or first) + 1))
    return found
