"""``nvpn addconf``: add a file's settings to a running interface."""

from __future__ import annotations

import argparse

from nvpn.cli import as_wg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INTERFACE, FILE."""
    as_wg.add_words(parser, "INTERFACE FILE")


def run(args: argparse.Namespace) -> int:
    """0 once it is done; otherwise 1, and wg's sentence says why."""
    return as_wg.change_by_file(
        "addconf", args.words, append=True, lines_of=lambda name, config: config.lines()
    )
