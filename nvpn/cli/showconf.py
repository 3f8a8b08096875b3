"""``nvpn showconf``: print a running interface as a file for setconf."""

from __future__ import annotations

import argparse

from nvpn.cli import as_wg, text
from nvpn.cli.output import write_output
from nvpn.control import client
from nvpn.errors import ControlError, PlatformError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INTERFACE."""
    as_wg.add_words(parser, "INTERFACE")


def run(args: argparse.Namespace) -> int:
    """0 once it is printed; otherwise 1, and wg's sentence says why."""
    words: list[str] = args.words
    if len(words) != 1:
        return as_wg.complain_about_usage("showconf", "<interface>")
    try:
        tunnel = client.get(words[0])
    except (PlatformError, ControlError) as error:
        return as_wg.complain_about("Unable to access interface", error)
    write_output(text.format_showconf(tunnel))
    return 0
