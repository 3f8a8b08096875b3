"""``nvpn up``: bring a tunnel up from its file."""

from __future__ import annotations

import argparse

LOG_LEVELS = ("debug", "info", "warning", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE|NAME, -f, --take-over, --log-level."""
    parser.add_argument(
        "file",
        metavar="FILE|NAME",
        help="A .toml or .conf file, or the name of one in /etc/nvpn or /etc/wireguard",
    )
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="Stay in front and log to standard error"
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="Go on with an interface of that name that the kernel has already",
    )
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default="info",
        metavar="LEVEL",
        help="debug, info (the default), warning or error",
    )


def run(args: argparse.Namespace) -> int:
    """0 once the tunnel is ready, or has ended in front.

    Raises:
        NvpnError: the file has mistakes, or the tunnel could not be started.
    """
    from dataclasses import replace

    from nvpn.config.load import find, load
    from nvpn.daemon.logs import LEVELS
    from nvpn.daemon.process import run_tunnel

    path = find(args.file)
    # Mistakes are told by the name that was typed; a reload needs one that outlives it.
    config = replace(load(path), path=path.absolute())
    return run_tunnel(
        config.name,
        config,
        in_front=args.foreground,
        level=LEVELS[args.log_level],
        take_over=args.take_over,
    )
