"""``nvpn reload``: apply a changed file to a running tunnel."""

from __future__ import annotations

import argparse

from nvpn.cli.tunnel_name import add_name, interface_of

_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME|FILE."""
    add_name(parser)


def run(args: argparse.Namespace) -> int:
    """0 when the file is in force; warnings go to standard error.

    Raises:
        NvpnError: no such tunnel, or what kept the daemon from it, in its own words.
    """
    from nvpn.control.client import messages, request
    from nvpn.daemon.background import print_warning

    for sentence in messages(request(interface_of(args.name), "nvpn_reload", timeout=_SECONDS)):
        print_warning(sentence)
    return 0
