"""Rounds of a measurement, one engine after the other in each, and a table of what came out."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

Rows = dict[str, list[list[float]]]
"""By engine its runs, and of each run the columns."""


def table(title: str, columns: list[str], rows: Rows) -> None:
    """Medians with their range, and every engine as a multiple of the newest wireguard-go."""
    print(f"\n{title}")
    head = "".join(f"{column:>32}" for column in columns)
    print(f"{'':20}{head}")
    base = rows.get("wireguard-go")
    for name, samples in rows.items():
        cells = ""
        for index in range(len(columns)):
            values = [sample[index] for sample in samples]
            middle = statistics.median(values)
            ratio = ""
            if base and (reference := statistics.median(s[index] for s in base)):
                ratio = f" x{middle / reference:.2f}"
            cells += f"{f'{middle:.2f} ({min(values):.2f}-{max(values):.2f}){ratio}':>32}"
        print(f"{name:20}{cells}", flush=True)


def interleave(names: list[str], rounds: int, once: Callable[[str], list[float]]) -> Rows:
    rows: Rows = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            rows[name].append(once(name))
            shown = ", ".join(f"{value:.2f}" for value in rows[name][-1])
            print(f"round {number + 1}/{rounds}  {name:20} {shown}", file=sys.stderr, flush=True)
    return rows
