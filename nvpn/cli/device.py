"""``nvpn wg0``: only the device and its control socket, as wireguard-go makes them."""

from __future__ import annotations

import argparse
import os

from nvpn.cli.up import LOG_LEVELS

# What wireguard-go's LOG_LEVEL says, and its default.
_GO_LEVELS = {"verbose": "debug", "debug": "debug", "error": "error", "silent": "silent"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INTERFACE, -f, --log-level."""
    parser.add_argument("interface", metavar="INTERFACE", help="The name of the new interface")
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="Stay in front and log to standard error"
    )
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        metavar="LEVEL",
        help="debug, info, warning or error (the default; or as $LOG_LEVEL says)",
    )


def run(args: argparse.Namespace) -> int:
    """0 once device and socket are there, or after they have ended in front.

    Raises:
        NvpnError: they could not be made.
    """
    from nvpn.daemon.logs import LEVELS
    from nvpn.daemon.process import run_tunnel
    from nvpn.errors import PlatformError
    from nvpn.model.interface_name import NAME_RULE, is_interface_name

    if not is_interface_name(args.interface):
        raise PlatformError(
            f"create interface {args.interface!r}",
            hint=f"an interface name has {NAME_RULE}",
        )
    level = args.log_level or _GO_LEVELS.get(os.environ.get("LOG_LEVEL", ""), "error")
    in_front = args.foreground or os.environ.get("WG_PROCESS_FOREGROUND") == "1"
    return run_tunnel(args.interface, None, in_front=in_front, level=LEVELS[level])
