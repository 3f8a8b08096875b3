"""``nvpn setconf``: give a running interface a file's settings and no others."""

from __future__ import annotations

import argparse

from nvpn.cli import as_wg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INTERFACE, FILE."""
    as_wg.add_words(parser, "INTERFACE FILE")


def run(args: argparse.Namespace) -> int:
    """0 once it is done; otherwise 1, and wg's sentence says why."""
    return as_wg.change_by_file(
        "setconf", args.words, append=False, lines_of=lambda name, config: config.lines()
    )
