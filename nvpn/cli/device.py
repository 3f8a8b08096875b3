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
        NvpnError: they could not be made, or what we were handed is not what it should be.
    """
    from nvpn.daemon.handed import take_handed
    from nvpn.daemon.logs import LEVELS
    from nvpn.daemon.process import run_tunnel
    from nvpn.errors import PlatformError
    from nvpn.model.interface_name import is_interface_name, why_no_name
    from nvpn.overlay.linux import tun_name

    handed = take_handed()
    # A device that is there already has its name, whatever we are told.
    name = tun_name(handed.tun) if handed.tun >= 0 else args.interface
    if not is_interface_name(name):
        raise PlatformError(f"create interface {name!r}", hint=why_no_name(args.interface))
    wanted = os.environ.get("LOG_LEVEL", "")
    level = args.log_level or _GO_LEVELS.get(wanted, "error")
    return run_tunnel(
        name,
        None,
        in_front=args.foreground or os.environ.get("WG_PROCESS_FOREGROUND") == "1",
        level=LEVELS[level],
        handed=handed,
        # Whoever asks for words by wireguard-go's variable looks for them where it puts them.
        keeps_output=wanted not in ("", "silent"),
    )
