"""``nvpn reload``: apply a changed file to a running tunnel."""

from __future__ import annotations

import argparse

_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME|FILE."""
    parser.add_argument(
        "name", metavar="NAME|FILE", help="The interface, or the file that it was started from"
    )


def run(args: argparse.Namespace) -> int:
    """0 when the file is in force; warnings go to standard error.

    Raises:
        NvpnError: no such tunnel, or what kept the daemon from it, in its own words.
    """
    from nvpn.cli.down import interface_of
    from nvpn.control.client import messages, request
    from nvpn.daemon.background import print_warning

    for sentence in messages(request(interface_of(args.name), "nvpn_reload", timeout=_SECONDS)):
        print_warning(sentence)
    return 0
