"""``nvpn down``: take a tunnel down."""

from __future__ import annotations

import argparse
import os

_SUFFIXES = (".toml", ".conf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME|FILE."""
    parser.add_argument(
        "name", metavar="NAME|FILE", help="The interface, or the file that it was started from"
    )


def run(args: argparse.Namespace) -> int:
    """0 when nothing of the tunnel is left.

    Raises:
        NvpnError: it does not run, is not nvpn's, or is not ours to stop.
    """
    from nvpn.daemon.stop import stop_tunnel

    stop_tunnel(interface_of(args.name))
    return 0


def interface_of(name_or_file: str) -> str:
    """The interface's name. The file need not exist any more.

    Raises:
        ConfigError: it cannot name an interface.
    """
    from nvpn.errors import ConfigError
    from nvpn.model.interface_name import is_interface_name

    stem, suffix = os.path.splitext(os.path.basename(name_or_file))
    is_file = suffix in _SUFFIXES and not name_or_file.startswith("-")
    name = stem if is_file or "/" in name_or_file else name_or_file
    if not is_interface_name(name):
        raise ConfigError(
            "expected the name of an interface, or the file it was started from",
            hint="see: nvpn show interfaces",
        )
    return name
