"""``nvpn save``: write the running state into the tunnel's file."""

from __future__ import annotations

import argparse
import errno

from nvpn.cli.tunnel_name import add_name, interface_of

_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME|FILE."""
    add_name(parser)


def run(args: argparse.Namespace) -> int:
    """0 when it is written; warnings go to standard error.

    Raises:
        NvpnError: no such tunnel, or what kept the daemon from it, in its own words.
    """
    from nvpn.control.client import messages, request
    from nvpn.daemon.background import print_warning
    from nvpn.errors import ControlError, PlatformError

    name = interface_of(args.name)
    try:
        answer = request(name, "nvpn_save", timeout=_SECONDS)
    except ControlError as error:
        if error.errno != errno.EPROTO:
            raise
        raise PlatformError(
            f"save {name}", hint=f"it is not nvpn's; try: wg-quick save {name}"
        ) from None
    for sentence in messages(answer):
        print_warning(sentence)
    return 0
