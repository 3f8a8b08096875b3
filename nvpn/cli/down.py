"""``nvpn down``: take a tunnel down."""

from __future__ import annotations

import argparse

from nvpn.cli.tunnel_name import add_name, interface_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME|FILE."""
    add_name(parser)


def run(args: argparse.Namespace) -> int:
    """0 when nothing of the tunnel is left.

    Raises:
        NvpnError: it does not run, is not nvpn's, or is not ours to stop.
    """
    from nvpn.daemon.stop import stop_tunnel

    stop_tunnel(interface_of(args.name))
    return 0
